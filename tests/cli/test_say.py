from __future__ import annotations

import logging
import subprocess
import sys

from greffon.say import say


def test_a_line_is_printed_as_it_is_and_logged(capsys, caplog):
    caplog.set_level(logging.INFO, logger="greffon")
    line = "trunk: [bold]1,000[/bold] pictures " + "and so on, " * 30 + "until the end"
    say(line)
    assert capsys.readouterr().out == line + "\n"
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("greffon", "INFO", line)
    ]


def test_quiet_only_logs(capsys, caplog):
    caplog.set_level(logging.INFO, logger="greffon")
    say("100 % known", quiet=True)
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["100 % known"]


def test_importing_it_is_light():
    code = "import sys, greffon.say; print([m for m in ('rich', 'keras', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
