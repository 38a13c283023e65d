"""What the demo shows: its steps, some outcomes, the summary. Writes to a terminal, or plain lines elsewhere."""

import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from consumer.core.plates import mask
from consumer.sandbox.reconcile import OutcomeFields, Report

SHOWN_OF_EACH = 2
"""Outcomes of each kind that are shown as they come; all would be hundreds of lines."""

MOST_PROBLEMS = 20
_PLAIN_WIDTH = 110
_PLAIN_EVERY = 2.0  # seconds


class Screen:
    """A terminal with a bar for what is done, or lines that say it. Enter it around what it is to show."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(
                file=self._console.file, width=_PLAIN_WIDTH, highlight=False, color_system=None
            )
        self._bar = Progress(
            TextColumn("  Orders with an outcome"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, visible=False)
        self._shown: Counter[str] = Counter()
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, line: str) -> None:
        """What is being done."""
        self._console.print(f"{time.monotonic() - self._began:5.1f}s  {line}", markup=False)

    def outcome(self, outcome: OutcomeFields) -> None:
        """The first ones of each kind, plates masked."""
        kind = f"{outcome['outcome']} {outcome['reason'] or ''}".strip()
        self._shown[kind] += 1
        if self._shown[kind] > SHOWN_OF_EACH:
            return
        plate = mask(outcome["plate"]) if outcome["plate"] else "-"
        attempts = outcome["attempts"]["count"]
        said = f"{outcome['code'] or ''} {outcome['message'] or outcome['detail'] or ''}".strip()
        calls = f", {attempts} calls" if attempts > 1 else ""
        self._console.print(f"        {kind:<24} {plate:<10} {said}{calls}", markup=False)

    def progress(self, done: int, total: int) -> None:
        """How many orders have an outcome."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, visible=done < total)
        elif time.monotonic() - self._said > _PLAIN_EVERY or done == total:
            self._said = time.monotonic()
            self.step(f"{done} of {total} orders have an outcome")

    def summary(self, report: Report) -> None:
        """Every kind of sample and what became of it; what disagrees, by name."""
        table = Table("what was produced", "records", "orders", "outcomes", title_justify="left")
        for column in table.columns[1:3]:
            column.justify = "right"
        for row in report.rows:
            outcomes = ", ".join(f"{name} {count}" for name, count in sorted(row.outcomes.items()))
            table.add_row(row.words, str(row.records), str(row.orders), outcomes)
        table.add_section()
        table.add_row("all", str(report.records), str(report.orders), str(report.outcomes))
        self._console.print(table)
        if report.agrees:
            self._console.print(
                f"Every order has exactly one outcome, the expected one; the platform granted {report.grants} "
                "coupons and its journal says the same; every offset is committed.",
                markup=False,
            )
            return
        self._console.print(f"{len(report.problems)} disagreements:", markup=False)
        for problem in report.problems[:MOST_PROBLEMS]:
            self._console.print(f"  {problem}", markup=False, soft_wrap=True)
        if len(report.problems) > MOST_PROBLEMS:
            self._console.print(f"  and {len(report.problems) - MOST_PROBLEMS} more")
