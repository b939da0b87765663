"""What was measured, kept in one JSON file: a row that is not measured again keeps its old line."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rows import Row

FILE = Path(__file__).parent / "results.json"
_PACKAGES = ("greffon", "keras", "tensorflow", "onnxruntime", "numpy")


def machine():
    """The machine and the versions, in one line."""
    return f"{_processor()}, {os.cpu_count()} processors, Python {platform.python_version()}, {_versions()}"


class Results:
    """All rows by name, and whatever came as text."""

    def __init__(self, file=FILE):
        self.file = file
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self._rows = kept.get("rows", {})
        self._texts = kept.get("texts", {})
        self.seconds = kept.get("seconds", {})  # that measuring a row took the last time, by what it is called

    def put(self, name, measured, *, on):
        """Take what a row's function gave in place of what it gave before.

        Args:
            name: of the row; it may have given several, called `name/which`.
            measured: Row objects, or lines of Markdown that make a table of their own.
            on: the machine.
        """
        for old in [key for key in self._rows if key == name or key.startswith(f"{name}/")]:
            del self._rows[old]
        for row in measured:
            if isinstance(row, Row):
                self._rows[row.name] = row.to_dict() | {"machine": on}
        lines = [line for line in measured if isinstance(line, str)]
        if lines:
            self._texts[name] = {"lines": lines, "machine": on}

    def rows(self, table):
        """Rows of one table, in the order in which they were first measured."""
        return [Row.from_dict(values) for values in self._rows.values() if values["table"] == table]

    def text(self, name):
        """Lines of Markdown of a row that gives such; none if it was never measured."""
        return self._texts.get(name, {}).get("lines", [])

    def machines(self, table):
        """Where the rows of a table were measured."""
        found = [values["machine"] for values in self._rows.values() if values["table"] == table]
        found += [self._texts[table]["machine"]] if table in self._texts else []
        return list(dict.fromkeys(found))

    def write(self):
        """To the file, whole or not at all."""
        temporary = self.file.with_suffix(".part")
        text = json.dumps({"rows": self._rows, "texts": self._texts, "seconds": self.seconds}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.file)


def _processor():
    """Model and what its vector units know, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = set(facts.get("flags", "").split())
    vectors = {"AVX-512": "avx512f", "VNNI": "avx512_vnni", "AMX": "amx_int8"}
    known = [name for name, flag in vectors.items() if flag in flags] or (["AVX2"] if "avx2" in flags else [])
    return f"{facts.get('model name', platform.machine())}" + (f" ({', '.join(known)})" if known else "")


def _versions():
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
