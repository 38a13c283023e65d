"""What the demo shows: its steps, a live view, some outcomes, the summary. Writes to a terminal, or plain lines elsewhere."""

import time
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.status import Status
from rich.text import Text

from consumer.sandbox.figures import Pace
from consumer.sandbox.reconcile import OutcomeFields, Report
from consumer.sandbox.summary import summarise
from consumer.sandbox.view import Example, State, plain_line, render

SHOWN_OF_EACH = 2
"""Outcomes of each kind that are sure to be shown; all would be hundreds of lines."""

_PLAIN_WIDTH = 100
_EVERY, _LATER_EVERY = 2.0, 10.0
_LATER = 45.0
"""Seconds after which plain lines come less often."""

_EXAMPLE_EVERY = 0.5  # seconds; more could not be read
_EXAMPLES_KEPT = 30


class Screen:
    """A live view on a terminal, or lines that say the same. Enter it around what it is to show."""

    def __init__(self, console: Console | None = None, *, plain: bool = False) -> None:
        console = console or Console(highlight=False)
        self._live = console.is_terminal and not console.is_dumb_terminal and not plain
        if not self._live:
            console = Console(file=console.file, width=_PLAIN_WIDTH, highlight=False, color_system=None)
        self._console = console
        self._view: Live | None = None
        self._status: Status | None = None
        self._step = Text()
        self._shown: Counter[tuple[str, str | None]] = Counter()
        self._examples: list[Example] = []
        self._phase = ""
        self._troubled = False
        self._outcome_at = 0.0
        self._began = time.monotonic()
        self._said = 0.0

    @property
    def examples(self) -> list[Example]:
        """Outcomes to show, the latest last."""
        return self._examples

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.callback(self._end_view)
            stack.callback(self._end_status)
        if error is not None and not isinstance(error, Exception):
            self._console.print("Interrupted: broker, sandbox and service are gone, and their files.")

    def step(self, line: str) -> None:
        """What is being done from now on; on a terminal with something that turns, until it is done."""
        self._end_view()
        self._end_status()
        if not self._live:
            self._say(line)
            return
        self._step = Text(self._timed(line))
        self._status = self._console.status(self._step)
        self._status.start()

    def show(self, state: State) -> None:
        """Where it stands: often on a terminal, now and then in lines."""
        if self._live:
            self._end_status()
            if self._view is None:
                self._view = Live(console=self._console, auto_refresh=False)
                self._view.start()
            width, height = self._console.size
            self._view.update(render(state, width, height), refresh=True)
            return
        if state.phase != self._phase:
            catching_up = self._troubled and not state.troubled and state.to_do > 0
            self._phase, self._troubled = state.phase, state.troubled
            more = f"; the service catches up: {state.to_do} orders to do" if catching_up else ""
            self._say(f"The platform {state.phase}{more}")
            self._said = self._said or time.monotonic()
        elapsed = time.monotonic() - self._said
        if elapsed > (_EVERY if state.seconds < _LATER else _LATER_EVERY) or state.is_last:
            self._said = time.monotonic()
            self._say(plain_line(state))

    def outcome(self, outcome: OutcomeFields) -> None:
        """The first ones of each kind, in the view also some of the others; plates masked."""
        kind = (outcome["outcome"], outcome["reason"])
        self._shown[kind] += 1
        rare = self._shown[kind] <= SHOWN_OF_EACH
        if not self._live:
            if rare:
                if self._shown.total() == 1:
                    self._say(f"Outcomes, a sample: the first {SHOWN_OF_EACH} of each kind")
                self._print_example(Example.of(outcome))
            return
        now = time.monotonic()
        if rare or now - self._outcome_at > _EXAMPLE_EVERY:
            self._outcome_at = now
            self._examples = [*self._examples[-_EXAMPLES_KEPT:], Example.of(outcome)]

    def each_outcome(self, outcome: OutcomeFields) -> None:
        """A line for it, plate masked."""
        self._print_example(Example.of(outcome))

    def lines(self, *lines: str) -> None:
        """Text that can be copied: no line is broken."""
        self._end_view()
        self._end_status()
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)

    def summary(self, report: Report, dead_letters: str, pace: Pace | None = None) -> None:
        """What was sent, what became of it, and whether all of it agrees. `dead_letters` is the topic's name."""
        self._end_view()
        self._end_status()
        self._console.print()
        for line in summarise(report, dead_letters, self._console.width, pace):
            self._console.print(line, soft_wrap=True)

    def _say(self, line: str) -> None:
        self._console.print(self._timed(line), markup=False, soft_wrap=True)

    def _timed(self, line: str) -> str:
        return f"{time.monotonic() - self._began:5.1f}s  {line}"

    def _print_example(self, example: Example) -> None:
        line = Text("        ") + example.line
        line.rstrip()
        self._console.print(line)

    def _end_view(self) -> None:
        if self._view is not None:
            self._view.stop()
            self._view = None

    def _end_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
            self._console.print(self._step, soft_wrap=True)
