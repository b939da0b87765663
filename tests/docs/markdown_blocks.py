"""The fenced blocks of a Markdown file, and how to run them as a reader would: in order, in one session."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_KINDS = {"python", "pycon", "sh", "text", "yaml"}


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of the file that its text begins in."""

    kind: str
    text: str
    line: int


def blocks_of(file: Path) -> list[Block]:
    """Every fenced block of a Markdown file, in order."""
    text = file.read_text(encoding="utf-8")
    found = [
        Block(match["kind"], match["text"], text.count("\n", 0, match.start()) + 2) for match in _FENCE.finditer(text)
    ]
    unknown = {block.kind for block in found} - _KINDS
    assert not unknown, f"{file.name}: blocks must be one of {sorted(_KINDS)}, got {sorted(unknown)}"
    assert text.count("```") == 2 * len(found), f"{file.name}: a fence is not closed"
    return found


def run(file: Path, blocks: list[Block], session: dict[str, object]) -> None:
    """Run the Python blocks in a session; a `pycon` block must answer what it shows."""
    for block in blocks:
        if block.kind == "python":
            source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the document
            exec(compile(source, str(file), "exec"), session)
        elif block.kind == "pycon":
            _check_answers(file, block, session)


def _check_answers(file: Path, block: Block, session: dict[str, object]) -> None:
    examples = doctest.DocTestParser().get_doctest(block.text, session, file.name, str(file), block.line - 1)
    examples.globs = session  # not the copy that was made: what it assigns is there afterwards
    assert examples.examples, f"{file.name}, line {block.line}: a pycon block without a prompt"
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(examples, out=told.append, clear_globs=False)
    assert not runner.failures, "".join(told)


def commands_of(file: Path) -> list[list[str]]:
    """The words of every command line in a file's `sh` blocks; comments and continued lines understood."""
    text = "\n".join(block.text for block in blocks_of(file) if block.kind == "sh")
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def programs(file: Path) -> list[str]:
    """The Python blocks without layout and comments, for comparing translations."""
    return [
        ast.dump(ast.parse(block.text)) if block.kind == "python" else block.text
        for block in blocks_of(file)
        if block.kind in {"python", "pycon"}
    ]


def links_of(file: Path) -> list[str]:
    """The targets of all links outside of fenced blocks."""
    return [match["target"] for match in _LINK.finditer(_FENCE.sub("", file.read_text(encoding="utf-8")))]


def anchors_of(file: Path) -> set[str]:
    """The fragments under which a file's headings are found, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", file.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
