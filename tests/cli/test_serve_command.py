"""What `greffon serve` makes of its options; the service itself is tested in tests/serving."""

from __future__ import annotations

import sys

import pytest

from greffon.cli.serve import serve
from greffon.errors import InputError

for _needed in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(_needed)


@pytest.fixture
def served(monkeypatch):
    """What the server would have been started with."""
    import greffon.serving.logs
    import greffon.serving.server

    calls = []
    monkeypatch.setattr(greffon.serving.server, "serve", lambda service, **options: calls.append((service, options)))
    monkeypatch.setattr(greffon.serving.logs, "log_as_json", lambda: None)
    monkeypatch.delenv("GREFFON_API_KEYS", raising=False)
    return calls


def test_options_reach_the_service(served, tmp_path, monkeypatch):
    monkeypatch.setenv("GREFFON_API_KEYS", "a-key-of-some-length")
    serve((f"pets={tmp_path}",), host="0.0.0.0", port=80, max_body=1.5, max_pixels=2, batch_wait=3, watch=5)
    service, options = served[0]
    assert service.models.default == "pets"
    assert service.settings.body == 1_500_000
    assert service.settings.pixels == 2_000_000
    assert service.settings.wait == 0.003
    assert service.settings.keys == ("a-key-of-some-length",)
    assert (options["host"], options["port"], options["watch_seconds"]) == ("0.0.0.0", 80, 5)


@pytest.mark.parametrize(
    ("words", "options", "text"),
    [
        (["run"], {"host": "0.0.0.0"}, "GREFFON_API_KEYS"),
        (["run"], {"port": 70_000}, "port must be"),
        (["run"], {"min_confidence": 2.0}, "--min-confidence"),
        (["run"], {"watch": 0.0}, "--watch"),
        (["run"], {"stop_timeout": 0.0}, "--stop-timeout"),
        (["run"], {"max_batch": 0}, "batch must be"),
        (["run"], {"max_body": float("nan")}, "--max-body"),
        (["run"], {"max_pixels": 500}, "pixels must be"),
        (["a/run", "b/run"], {}, "NAME=b/run"),
        ([], {}, "no run to serve"),
    ],
)
def test_wrong_options(served, words, options, text):
    with pytest.raises(InputError, match=text):
        serve(tuple(words), **options)
    assert not served


def test_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("greffon.extras.find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(InputError, match=r'greffon serve needs fastapi, which is not installed: .*"greffon\[serve\]"'):
        serve(("run",))


def test_importing_the_command_loads_nothing_heavy():
    import subprocess

    script = (
        "import sys, greffon.cli.serve; print([n for n in ('fastapi', 'uvicorn', 'tensorflow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
