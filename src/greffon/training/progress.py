"""What a training tells while it works: to a terminal, a pipe or a notebook, or to nobody."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

Advance = Callable[[int], None]


class Reporter:
    """What the job calls while it works. This one does nothing; a subclass overrides what it wants to show.

    Example:
        >>> from greffon.training.progress import Reporter
        >>> with Reporter().bar("trunk", total=2) as advance:
        ...     advance(2)
    """

    def note(self, text: str) -> None:
        """One line that the user should read."""

    def warn(self, text: str) -> None:
        """One line about something that is probably not as the user wants it."""

    def show(self, renderable: RenderableType) -> None:
        """A table or other Rich renderable."""

    @contextmanager
    def bar(self, name: str, *, total: int | None, unit: str = "pictures") -> Iterator[Advance]:
        """Count work that takes a while.

        Args:
            name: what is being done, such as `trunk`.
            total: how many there are; None where that is not known.
            unit: what is counted.

        Yields:
            A function to call with how many more are done; any thread may call it.
        """
        yield lambda more: None

    def stage(self, name: str, index: int, count: int, table: RenderableType | None = None) -> None:
        """A stage begins.

        Args:
            name: of the stage.
            index: of the stage, from 1.
            count: how many stages there are.
            table: the stage's freeze table.
        """

    def epoch(self, stage: str, epoch: int, epochs: int, logs: Mapping[str, float], best: bool) -> None:
        """An epoch ended.

        Args:
            stage: name of the stage.
            epoch: number of the epoch, from 1.
            epochs: the most that there can be.
            logs: losses and metrics by name, in the order in which they are shown.
            best: whether it is the best epoch of the stage so far.
        """

    def summary(self, renderable: RenderableType) -> None:
        """What came out, at the end."""


class ConsoleReporter(Reporter):
    """Shows everything on a Rich console: bars in a terminal or notebook, a line now and then elsewhere.

    Args:
        console: where to; the default is standard output, or the notebook's cell. A program that keeps standard
            output for its result gives `rich.console.Console(stderr=True)`.
        every: seconds between the lines that stand for a bar where there is no terminal.

    Example:
        >>> from greffon.training.progress import ConsoleReporter
        >>> ConsoleReporter().note("176 pictures of 4 kinds")
        176 pictures of 4 kinds
    """

    def __init__(self, console: Console | None = None, *, every: float = 10.0) -> None:
        self.console = console or get_console()
        self._every = every
        self._columns: tuple[str, ...] = ()  # of the epoch table that is being written

    def note(self, text: str) -> None:
        """One line."""
        self._line(Text(text))

    def warn(self, text: str) -> None:
        """One line that starts with `warning:`."""
        self._line(Text.assemble(("warning: ", "yellow"), text))

    def show(self, renderable: RenderableType) -> None:
        """A table or other Rich renderable; in a notebook as its own HTML where it has one."""
        if self.console.is_jupyter and hasattr(renderable, "_repr_html_"):
            from IPython.display import display

            display(renderable)
        else:
            self._unfolded().print(renderable)

    @contextmanager
    def bar(self, name: str, *, total: int | None, unit: str = "pictures") -> Iterator[Advance]:
        """A bar while it lasts, or lines; then one line with how many, how long and how fast."""
        count = _Count(name, total, unit)
        if self.console.is_jupyter:
            shown = self._notebook_bar(count)
        elif self.console.is_terminal and not self.console.is_dumb_terminal:
            shown = self._terminal_bar(count)
        else:
            shown = self._lines(count)
        try:
            with shown as advance:
                yield advance
        except BaseException:
            if count.done:  # else what went wrong says all
                self._line(Text(f"{name}  stopped after {count.amount()}"))
            raise
        self._line(Text(count.result()))

    def stage(self, name: str, index: int, count: int, table: RenderableType | None = None) -> None:
        """A heading and the freeze table."""
        self._columns = ()
        self.console.print()
        self._line(Text.assemble(f"stage {index} of {count}: ", (name, "bold")))
        if table is not None:
            self.show(table)

    def epoch(self, stage: str, epoch: int, epochs: int, logs: Mapping[str, float], best: bool) -> None:
        """One line of a table whose columns are the losses and metrics."""
        first = max(len("epoch"), 2 * len(str(epochs)) + 1)
        columns = (f"{'epoch':>{first}}", *(f"{name:>{_WIDTH}}" for name in logs))
        if columns != self._columns:
            self._columns = columns
            self._line(Text("  ".join(columns), style="dim"))
        # As wide as the column's name, which may be longer than a number is.
        numbers = [f"{_number(value):>{max(_WIDTH, len(name))}}" for name, value in logs.items()]
        line = Text("  ".join((f"{f'{epoch}/{epochs}':>{first}}", *numbers)))
        self._line(line.append("  best", style="green") if best else line)

    def summary(self, renderable: RenderableType) -> None:
        """What came out, after an empty line."""
        self.console.print()
        self.show(renderable)

    def _unfolded(self) -> Console:
        """The console; a pipe has no width that a table had to fit into, so there one row is one line."""
        if self.console.is_terminal or self.console.is_jupyter:
            return self.console
        return Console(file=self.console.file, width=_NO_WIDTH, highlight=False)

    def _line(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def _terminal_bar(self, count: _Count) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _SpeedColumn(count),
            TimeRemainingColumn(compact=True),
        )
        # Transient: the line that stays is the same everywhere, and is written when the bar has gone.
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(count.name, total=count.total)

            def advance(more: int) -> None:
                count.add(more)
                progress.advance(task, more)

            yield advance

    @contextmanager
    def _lines(self, count: _Count) -> Iterator[Advance]:
        def advance(more: int) -> None:
            if count.add(more, pause=self._every):
                self._line(Text(count.state()))

        yield advance

    @contextmanager
    def _notebook_bar(self, count: _Count) -> Iterator[Advance]:
        # Rich's own bar needs ipywidgets and warns without; one output that is updated in place needs nothing.
        from IPython.display import display

        handle = display(_NotebookLine(count.state()), display_id=True)

        def advance(more: int) -> None:
            if count.add(more, pause=_NOTEBOOK_PAUSE):
                handle.update(_NotebookLine(count.state()))

        try:
            yield advance
        finally:
            handle.update(_NotebookLine(""))


_WIDTH = 8  # of a number in the epoch table
_NO_WIDTH = 10_000  # characters
_NOTEBOOK_PAUSE = 0.3  # seconds between two updates of a cell's output


class _Count:
    """How far some work is, in words."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, more: int, pause: float = 0.0) -> bool:
        """Count; whether it is time to tell, which is at most once per `pause` seconds and not at the end."""
        with self._lock:
            self.done += more
            now = time.monotonic()
            if now - self._told < pause or self.done == self.total:
                return False
            self._told = now
            return True

    def amount(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{self.done:,}{of} {self.unit}"

    def speed(self) -> str:
        took = time.monotonic() - self.began
        return f"{_rate(self.done / took)}/s" if self.done and took > 0 else ""

    def state(self) -> str:
        if self._is_uncounted:
            return self.name
        parts = [self.amount(), self.speed()]
        if self.total is not None and self.done:
            left = (time.monotonic() - self.began) / self.done * max(self.total - self.done, 0)
            parts.append(f"{duration(left)} left")
        return f"{self.name}  {', '.join(part for part in parts if part)}"

    @property
    def _is_uncounted(self) -> bool:
        """Whether nobody said how many there are, nor that any is done: work that is not counted."""
        return self.total is None and not self.done

    def result(self) -> str:
        if self._is_uncounted:
            return f"{self.name}  {duration(time.monotonic() - self.began)}"
        amount = self.amount() if self.total not in (None, self.done) else f"{self.done:,} {self.unit}"
        speed = self.speed()
        return f"{self.name}  {amount} in {duration(time.monotonic() - self.began)}{f', {speed}' if speed else ''}"


class _SpeedColumn(ProgressColumn):
    """The speed since the start: steadier than Rich's own, which looks at the last moments only."""

    def __init__(self, count: _Count) -> None:
        super().__init__()
        self._count = count

    def render(self, task: Task) -> Text:
        speed = self._count.speed()
        return Text(f"{self._count.unit} {speed}" if speed else self._count.unit)


class _NotebookLine:
    """A line of text as Jupyter asks for it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        from html import escape

        return f'<pre style="margin:0">{escape(self._text)}</pre>' if self._text else ""

    def __repr__(self) -> str:
        return self._text


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> from greffon.training.progress import duration
        >>> duration(0.42), duration(65), duration(3700)
        ('0.4 s', '1 min 05 s', '1 h 02 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 9.95 else f"{per_second:.1f}"


def _number(value: Any) -> str:
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    return f"{number:.4f}" if number == 0 or 1e-3 <= abs(number) < 1e3 else f"{number:.1e}"
