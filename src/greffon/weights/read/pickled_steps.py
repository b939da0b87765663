"""The steps of a pickle, each one as a function of the machine that reads it (`pickled`, which says why it is safe)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.pickled_literals import (
    push_bytes,
    push_float,
    push_int_line,
    push_long,
    push_string_line,
    push_unicode_line,
    short_line,
    text,
)
from greffon.weights.read.pickled_values import Inert, Known, Name, Opaque, Stateful

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.weights.read.pickled import Machine

STOP = 0x2E
_NOTHING = object()  # a place in the memo that was never filled
# Bytes that one takes at most, roughly.
STEP, _TUPLE, _LIST, _DICT, _OBJECT = 16, 64, 96, 240, 300


def _push_tuple(machine: Machine, count: int | None) -> None:
    if count is None:
        items = machine.marked()
    else:
        items = machine.stack[-count:]
        if len(items) != count:
            raise IndexError
        del machine.stack[-count:]
    machine.push(tuple(items), _TUPLE)


def _push_dict(machine: Machine) -> None:
    machine.push(_filled({}, machine.marked()), _DICT)


def _key(value: Any) -> Any:
    """A value as a key: itself if its hash cannot be foreseen, which integers' can, or made expensive."""
    return value if value is None or type(value) in (str, bytes, bool) else Opaque()


def _filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise WeightFileError("its pickle is damaged: a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value
    return target


def _set_items(machine: Machine, items: list[Any]) -> None:
    machine.charge(50 * len(items))
    target = machine.stack[-1]
    if isinstance(target, Inert):
        _filled(target.items, items)
    elif type(target) is dict:
        _filled(target, items)
    else:
        raise TypeError


def _append(machine: Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is list:
        target.extend(items)
    elif not isinstance(target, Inert):  # a list of an unknown class keeps nothing
        raise TypeError


def _set_item(machine: Machine) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    _set_items(machine, [key, value])


def _pop(machine: Machine) -> None:
    # Python's own rule: where nothing stands behind the last mark, the mark is taken.
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _mark(machine: Machine) -> None:
    machine.marks.append(len(machine.stack))


def _pop_to_mark(machine: Machine) -> None:
    machine.marked()


def _put(machine: Machine, index: int | None) -> None:
    memo = machine.memo
    if index is None:
        index = len(memo)
    gap = index + 1 - len(memo)  # picklers number without gaps
    if index < 0:
        raise IndexError
    if gap > 0:
        machine.charge(8 * gap)
        memo.extend([_NOTHING] * gap)
    memo[index] = machine.stack[-1]


def _get(machine: Machine, index: int) -> None:
    value = machine.memo[index]
    if index < 0 or value is _NOTHING:
        raise IndexError
    machine.push(value)


def _named(machine: Machine, module: Any, name: Any) -> Any:
    if type(module) is not str or type(name) is not str:
        raise WeightFileError("its pickle is damaged: a class in it has no name")
    key = (module, name)
    if key not in machine.names:
        machine.charge(_OBJECT + 4 * (len(module) + len(name)))
        machine.names[key] = machine.find(module, name)
    return machine.names[key]


def _named_in_lines(machine: Machine) -> Any:
    module = text(machine, machine.source.line())
    return _named(machine, module, text(machine, machine.source.line()))


def _stack_global(machine: Machine) -> None:
    name = machine.stack.pop()
    machine.push(_named(machine, machine.stack.pop(), name))


def _call(machine: Machine, function: Any, arguments: Any) -> None:
    if type(arguments) is not tuple:
        raise WeightFileError("its pickle is damaged: a call without arguments")
    machine.count_call()
    machine.charge(_OBJECT)
    if isinstance(function, Known):
        machine.push(function.make(arguments))
    elif isinstance(function, Name):
        machine.push(Inert(function.full))
    elif isinstance(function, Inert):  # what functools.partial would have made, for one
        machine.push(Inert(function.name))
    else:
        raise WeightFileError("its pickle is damaged: it calls what is no class or function")


def _reduce(machine: Machine) -> None:
    arguments = machine.stack.pop()
    _call(machine, machine.stack.pop(), arguments)


def _new_with_keywords(machine: Machine) -> None:
    machine.stack.pop()
    _reduce(machine)


def _inst(machine: Machine) -> None:
    function = _named_in_lines(machine)
    _call(machine, function, tuple(machine.marked()))


def _obj(machine: Machine) -> None:
    function, *arguments = machine.marked()
    _call(machine, function, tuple(arguments))


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, Inert):
        parts = state if type(state) is tuple and len(state) == 2 else (state,)  # (attributes, slots)
        target.state = next((part for part in parts if type(part) is dict and part), target.state)
    elif isinstance(target, Stateful):
        target.take_state(state)


def _persistent(machine: Machine, key: Any) -> None:
    if machine.persistent is None:
        raise WeightFileError("its pickle points outside of itself: it is a piece of a larger file")
    machine.push(machine.persistent(key), _OBJECT)


def _frame(machine: Machine) -> None:
    machine.number(8)


def _protocol(machine: Machine) -> None:
    version = machine.number(1)
    if version > 5:
        raise WeightFileError(f"its pickle has protocol {version}, expected 5 or lower")


def _refused(what: str) -> Callable[[Machine], None]:
    def refuse(machine: Machine) -> None:
        raise WeightFileError(f"its pickle asks for {what}, which no weight file needs. Refused")

    return refuse


STEPS: dict[int, Callable[[Machine], None]] = {
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_to_mark,
    ord("2"): lambda it: it.push(it.stack[-1]),
    ord("N"): lambda it: it.push(None),
    0x88: lambda it: it.push(True),
    0x89: lambda it: it.push(False),
    ord("K"): lambda it: it.push(it.number(1), 32),
    ord("M"): lambda it: it.push(it.number(2), 32),
    ord("J"): lambda it: it.push(it.number(4, signed=True), 32),
    0x8A: lambda it: push_long(it, 1),
    0x8B: lambda it: push_long(it, 4),
    ord("I"): push_int_line,
    ord("L"): push_int_line,
    ord("G"): push_float,
    ord("F"): lambda it: it.push(float(short_line(it.source.line())), 32),
    ord("U"): lambda it: push_bytes(it, 1, "string"),
    ord("T"): lambda it: push_bytes(it, 4, "string"),
    ord("S"): push_string_line,
    ord("V"): push_unicode_line,
    0x8C: lambda it: push_bytes(it, 1, "text"),
    ord("X"): lambda it: push_bytes(it, 4, "text"),
    0x8D: lambda it: push_bytes(it, 8, "text"),
    ord("C"): lambda it: push_bytes(it, 1, "bytes"),
    ord("B"): lambda it: push_bytes(it, 4, "bytes"),
    0x8E: lambda it: push_bytes(it, 8, "bytes"),
    0x96: lambda it: push_bytes(it, 8, "bytes"),
    ord("}"): lambda it: it.push({}, _DICT),
    ord("]"): lambda it: it.push([], _LIST),
    ord(")"): lambda it: it.push(()),
    0x8F: lambda it: it.push([], _LIST),
    ord("t"): lambda it: _push_tuple(it, None),
    0x85: lambda it: _push_tuple(it, 1),
    0x86: lambda it: _push_tuple(it, 2),
    0x87: lambda it: _push_tuple(it, 3),
    ord("d"): _push_dict,
    ord("l"): lambda it: it.push(it.marked(), _LIST),
    0x91: lambda it: it.push(it.marked(), _LIST),
    ord("a"): lambda it: _append(it, [it.stack.pop()]),
    ord("e"): lambda it: _append(it, it.marked()),
    0x90: lambda it: _append(it, it.marked()),
    ord("s"): _set_item,
    ord("u"): lambda it: _set_items(it, it.marked()),
    ord("p"): lambda it: _put(it, int(short_line(it.source.line()))),
    ord("q"): lambda it: _put(it, it.number(1)),
    ord("r"): lambda it: _put(it, it.number(4)),
    0x94: lambda it: _put(it, None),
    ord("g"): lambda it: _get(it, int(short_line(it.source.line()))),
    ord("h"): lambda it: _get(it, it.number(1)),
    ord("j"): lambda it: _get(it, it.number(4)),
    ord("c"): lambda it: it.push(_named_in_lines(it)),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _reduce,
    0x92: _new_with_keywords,
    ord("i"): _inst,
    ord("o"): _obj,
    ord("b"): _build,
    ord("P"): lambda it: _persistent(it, text(it, it.source.line())),
    ord("Q"): lambda it: _persistent(it, it.stack.pop()),
    0x80: _protocol,
    0x95: _frame,
    0x82: _refused("an extension of the program that wrote it"),
    0x83: _refused("an extension of the program that wrote it"),
    0x84: _refused("an extension of the program that wrote it"),
    0x97: _refused("a buffer outside of itself"),
    0x98: lambda it: None,
}
STEP_CODES = frozenset({*STEPS, STOP})
"""The bytes that a pickle's steps begin with."""
