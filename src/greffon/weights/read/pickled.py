"""A pickle read as data: a small machine of its own that has no way to run what a pickle asks for.

Python's own `pickle` looks names up in modules and calls what it finds, and its `find_class` hook only narrows what
can be found. This machine looks nothing up at all. Why it is safe, in one place:

- **Values.** On the stack and in the memo there are only None, booleans, numbers, text, bytes, tuples, lists, dicts and
  objects of the classes of `pickled_values` or of the caller's. A name in the file becomes a `Name`, which is text:
  nothing is imported, no attribute is ever looked up under a name from the file.
- **Calls.** REDUCE, INST, OBJ, NEWOBJ and NEWOBJ_EX all end in `_call`: a `Known` runs one function of this program's
  fixed table, which builds such a value from such values; whatever else is called gives an `Inert`. BUILD stores the
  state of an `Inert`, or hands it to an object of the caller; there is no `__setstate__`, no `__dict__`, no slots.
- **Registries.** EXT1, EXT2, EXT4 (a registry of the running program) and NEXT_BUFFER are refused. Frames are a hint
  for buffering only, and are skipped whatever they claim.
- **Time.** No tuple, list or object of the file is ever hashed, compared or printed, for such a thing may hold itself
  many times over (t = (t, t), sixty times, is 2**60 leaves). Keys of dicts are text, bytes, None and booleans, whose
  hashes cannot be made to collide; any other key becomes an opaque one. Sets are lists. A state is kept by reference,
  never copied. Nothing recurses; steps and calls are counted.
- **Memory.** A length is compared with the bytes that are left before anything is read. Long text and bytes are not
  read at all but become a `Span`, a place in the file. What the other values take is estimated as they are made, and
  may not exceed a multiple of the pickle's size; gaps in the memo count.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.pickled_steps import STEP, STEPS, STOP

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.weights.read.pickled_values import Source

_MOST_STEPS = 2_000_000
_MOST_CALLS = 200_000
_MOST_EXPANSION = 8  # objects of Python are larger than their pickle
_SMALL = 1 << 26  # bytes that the objects of any pickle may take


def read_pickle(
    source: Source,
    find: Callable[[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value of the pickle that begins where the source is; the source is then behind it.

    Args:
        source: the bytes.
        find: what a module and a name in it stand for: a `Name`, a `Known` or a value of the caller's.
        persistent: what a persistent id stands for; without it there may be none.

    Returns:
        None, bool, int, float, str, bytes, tuple, list, dict (their items likewise), `Span`, `Name`, `Known`, `Inert`,
        `Opaque`, or a value of `find` or `persistent`. Lists and dicts may contain themselves: walk them with a limit.

    Raises:
        WeightFileError: it is damaged, asks for what no weight file needs, or is out of proportion.
    """
    return Machine(source, find, persistent).run()


class Machine:
    """The stack, the memo and what is left of the bounds; the steps are in `pickled_steps`."""

    def __init__(
        self,
        source: Source,
        find: Callable[[str, str], Any],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.source: Source = source
        self.find = find
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.names: dict[tuple[str, str], Any] = {}
        self.calls = 0
        self.left = _SMALL + _MOST_EXPANSION * (source.size - source.place)

    def run(self) -> Any:
        """Step by step to STOP."""
        read, steps = self.source.read, STEPS
        try:
            for _ in range(_MOST_STEPS):
                code = read(1)[0]
                self.charge(STEP)
                if code == STOP:
                    return self.stack[-1]
                step = steps.get(code)
                if step is None:
                    raise WeightFileError(f"its pickle is damaged: there is no step {code:#04x} in pickles")
                step(self)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            if isinstance(error, WeightFileError):
                raise
            # The text of the exception is left out: it may hold anything, of any length.
            place = self.source.place
            raise WeightFileError(f"its pickle is damaged at byte {place:,} ({type(error).__name__})") from None
        raise WeightFileError(f"its pickle has more than {_MOST_STEPS:,} steps, which no weight file needs")

    def count_call(self) -> None:
        """Count an object that is made."""
        self.calls += 1
        if self.calls > _MOST_CALLS:
            raise WeightFileError(f"its pickle makes more than {_MOST_CALLS:,} objects, which no weight file needs")

    def charge(self, size: int) -> None:
        """Count what a value takes."""
        self.left -= size
        if self.left < 0:
            raise WeightFileError(
                "its pickle builds more objects than its size justifies. Refused: it could fill the memory"
            )

    def push(self, value: Any, size: int = 0) -> None:
        """Put a value on the stack, and count what it takes beyond the step."""
        self.charge(size)
        self.stack.append(value)

    def number(self, size: int, signed: bool = False) -> int:
        """The next bytes as an integer."""
        return int.from_bytes(self.source.read(size), "little", signed=signed)

    def marked(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items
