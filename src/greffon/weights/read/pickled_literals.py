"""Numbers, text and bytes in a pickle."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from greffon.weights.read.pickled import Machine

LONG = 1 << 12  # bytes; longer text and bytes stay in the file
_LONGEST_NUMBER = 256  # bytes or digits
_SPAN = 300  # bytes that one takes, roughly


def text(machine: Machine, data: bytes) -> str:
    """Text from UTF-8, counted."""
    machine.charge(64 + 4 * len(data))
    # A path with undecodable bytes, among the arguments of a training script, is no reason to refuse a file.
    return data.decode("utf-8", "replace")


def push_bytes(machine: Machine, width: int, kind: str) -> None:
    """Text, bytes, or the byte strings of Python 2, which are both."""
    size = machine.number(width)
    if size > LONG:
        machine.push(machine.source.skip(size, kind == "text"), _SPAN)
        return
    data = machine.source.read(size)
    if kind == "text":
        machine.push(text(machine, data))
    else:
        machine.push(data.decode("latin-1") if kind == "string" else data, 64 + size)


def push_string_line(machine: Machine) -> None:
    """A byte string of Python 2, in quotes."""
    line = machine.source.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise WeightFileError("its pickle is damaged: a string in it has no quotes")
    machine.charge(64 + 32 * len(line))  # for the time of it, too
    machine.push(_unescaped(line[1:-1]).decode("latin-1"))


_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def _unescaped(data: bytes) -> bytes:
    def character(found: re.Match[bytes]) -> bytes:
        if found[1]:
            return bytes([int(found[1], 16)])
        if found[2]:
            return bytes([int(found[2], 8) & 0xFF])
        return _LETTERS.get(found[3], found[3])

    return _ESCAPE.sub(character, data)


def push_unicode_line(machine: Machine) -> None:
    """Text of protocol 0."""
    line = machine.source.line()
    machine.push(line.decode("raw-unicode-escape"), 64 + 4 * len(line))


def push_int_line(machine: Machine) -> None:
    """An integer or boolean of protocol 0."""
    line = machine.source.line()
    if line in (b"00", b"01"):
        machine.push(line == b"01")
    else:
        machine.push(int(short_line(line.removesuffix(b"L"))), 64)


def short_line(line: bytes) -> bytes:
    """The line, if it may be a number."""
    if len(line) > _LONGEST_NUMBER:
        raise WeightFileError("its pickle holds an integer of more digits than any weight file needs")
    return line


def push_long(machine: Machine, width: int) -> None:
    """An integer of any length that is sensible."""
    size = machine.number(width)
    if size > _LONGEST_NUMBER:
        raise WeightFileError(f"its pickle holds an integer of {size:,} bytes, which no weight file needs")
    machine.push(machine.number(size, signed=True), 64 + size)


def push_float(machine: Machine) -> None:
    """A floating point number."""
    machine.push(struct.unpack(">d", machine.source.read(8))[0], 32)
