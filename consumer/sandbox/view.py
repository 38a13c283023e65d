"""The state of a demo -> what a terminal shows of it, and the same in a line. Performs no I/O, reads no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.text import Text

from consumer.core.plates import mask
from consumer.sandbox.reconcile import OutcomeFields

REPLIES: Mapping[str, str] = {
    "1001": "granted",
    "1002": "the car is not in the lot",
    "1003": "the car's limit is reached",
    "1401": "no coupon set up",
    "1403": "granted before",
    "1405": "the lot could not issue it",
    "400": "bad request",
    "429": "too many requests",
    "500": "platform error",
    "503": "platform unavailable",
    "5xx": "platform error",
    "no_json": "no JSON",
    "reset": "cut off",
    "timeout": "no reply in time",
    "connect": "not reached",
    "other": "a code no one knows",
}
"""The labels of replies in words; a label without words is shown alone."""

STYLES: Mapping[str, str] = {
    "granted": "green",
    "already_granted": "green",
    "not_entered": "yellow",
    "limited": "yellow",
    "not_configured": "yellow",
    "skipped": "dim",
    "unmatched": "dim",
}
"""Colours of outcomes; every other one went wrong."""

_WRONG = "red"
_REPLY_STYLES = {"1001": "green", "1403": "green", "1002": "yellow", "1003": "yellow", "1401": "yellow"}
_EXPLANATION = (
    "Charges arrive on a Kafka topic. For each, the service asks the parking platform (here a stand-in) "
    "for a coupon, and writes exactly one outcome to another topic."
)
_BAR = 24
_NARROW, _LOW = 76, 20
_FOR_BOTH = 9
"""Lines from which on there is room for counts and examples."""

_MOST_ROWS = 9
"""Of replies and of outcomes."""


@dataclass(frozen=True, slots=True)
class State:
    """A demo at one moment.

    Attributes:
        seconds: since the first record.
        phase: what the platform does, in words.
        left: seconds until it does something else; None if it goes on like that.
        troubled: the platform fails more calls than the samples ask for.
        records: that will be produced; `produced` of them are.
        orders: in the records produced so far; `done` of them have an outcome.
        rate: outcomes a second.
        p50, p99: seconds of recent calls; None if there are none.
        replies: calls by the code of their reply.
        repeated: calls after the first for the same order.
        examples: outcomes in short, the latest last.

    """

    scenario: str
    seconds: float
    phase: str
    left: float | None
    troubled: bool
    records: int
    produced: int
    orders: int
    done: int
    rate: float
    in_flight: int
    p50: float | None
    p99: float | None
    repeated: int
    dead_letters: int
    replies: Mapping[str, int]
    outcomes: Mapping[str, int]
    examples: Sequence["Example"]

    @property
    def to_do(self) -> int:
        """Orders that are sent and have no outcome."""
        return max(0, self.orders - self.done)

    @property
    def is_last(self) -> bool:
        """Everything is done: an outcome and its record's offset are written in one."""
        return self.done >= self.orders and self.produced == self.records


@dataclass(frozen=True, slots=True)
class Example:
    """One outcome in short, its plate masked."""

    outcome: str
    reason: str | None
    plate: str
    said: str
    calls: int

    @classmethod
    def of(cls, outcome: OutcomeFields) -> "Example":
        """From the outcome topic."""
        said = " ".join(f"{outcome['code'] or ''} {outcome['message'] or outcome['detail'] or ''}".split())
        plate = mask(outcome["plate"]) if outcome["plate"] else "-"
        return cls(outcome["outcome"], outcome["reason"], plate, said, outcome["attempts"]["count"])

    @property
    def kind(self) -> str:
        """What it has in common with others."""
        return f"{self.outcome} {self.reason or ''}".strip()

    @property
    def line(self) -> Text:
        """In columns."""
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(_fit(self.kind, 24) + " ", STYLES.get(self.outcome, _WRONG))
        text.append(f"{_fit(self.plate, 11)} {self.said}")
        if self.calls > 1:
            text.append(f", {self.calls} calls", "dim")
        return text


def render(state: State, width: int, height: int) -> Text:
    """For a terminal of this size: never higher than it, never wider, and everything that fits.

    One text put together by hand: rich's tables within tables take a hundred times as long.
    """
    narrow, low = width < _NARROW, height < _LOW
    lines = [_title(state, width)]
    if not low:
        lines += [*(Text(line, "dim") for line in wrap(_EXPLANATION, width)), Text()]
    lines += [*_flow(state, narrow=narrow), Text()]
    room = height - 1 - len(lines)
    alone = narrow or room < _FOR_BOTH
    rows = min(_MOST_ROWS, room - 1 if alone else (room - 2) // 2)
    if rows > 1:
        lines += _counts(state, rows, narrow=narrow)
    shown = room - 1 - rows - 2
    if not alone:
        lines += [Text(), Text("Outcomes as they come, a sample", "bold")]
        lines += [Text("  ") + example.line for example in state.examples[-shown:]]
        lines += [Text()] * (shown - len(state.examples))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines[: height - 1])


def plain_line(state: State) -> str:
    """The state in a line, for a file or a pipe."""
    return (
        f"{state.done} of {state.orders} orders done, {state.to_do} to do, {state.rate:.0f}/s; "
        f"calls: {_calls(state)}"
    )


def _calls(state: State) -> str:
    if state.p50 is None or state.p99 is None:
        return f"{state.in_flight} in flight"
    return f"{state.in_flight} in flight, half in {_duration(state.p50)}, 99% in {_duration(state.p99)}"


def _title(state: State, width: int) -> Text:
    name = Text.assemble(("charging-coupon demo", "bold"), f"  scenario {state.scenario}")
    time = f"{state.seconds:.0f} s"
    return name.append(" " * max(1, width - name.cell_len - len(time)) + time)


def _flow(state: State, *, narrow: bool) -> list[Text]:
    """From the top: what the platform does, how much came in, how much is done, how it goes."""
    left = "" if state.left is None else f", {max(1.0, state.left):.0f} s more"
    platform = Text.assemble((state.phase, f"bold {_WRONG}" if state.troubled else ""), (left, "dim"))
    sent = f"{state.produced} of {state.records} sent"
    written = f"{state.done} of {state.orders} written, {state.rate:.0f} orders/s"
    parts = (
        ("Platform", platform),
        ("Charges", (Text() if narrow else _bar(state.produced, state.records)).append(sent)),
        ("Outcomes", (Text() if narrow else _bar(state.done, state.orders)).append(written)),
        (
            "Calls",
            Text(_calls(state)),
        ),
        (
            "To do",
            Text(f"{state.to_do} orders; {state.repeated} calls repeated, {state.dead_letters} dead letters"),
        ),
    )
    return [Text(f"{name:<10}") + words for name, words in parts]


def _bar(done: int, total: int) -> Text:
    full = _BAR * done // total if total else 0
    return Text.assemble(("━" * full, "green"), ("─" * (_BAR - full), "dim"), " ")


def _counts(state: State, rows: int, *, narrow: bool) -> list[Text]:
    replies = [
        (f"{code:<8}{REPLIES.get(code, '')}", count, _REPLY_STYLES.get(code, _WRONG))
        for code, count in state.replies.items()
    ]
    outcomes = [(name, count, STYLES.get(name, _WRONG)) for name, count in state.outcomes.items()]
    right = _ranking("Outcomes of orders", outcomes, rows, 18)
    if narrow:
        return right
    left = _ranking("Replies to calls", replies, rows, 34)
    return [Text("    ").join(pair) for pair in zip(left, right, strict=True)]


def _ranking(title: str, counts: Sequence[tuple[str, int, str]], rows: int, cells: int) -> list[Text]:
    """The most frequent first; what does not fit is one row. Always as high, so that nothing jumps."""
    ranked = sorted(counts, key=lambda each: -each[1])
    if len(ranked) > rows:
        others = ranked[rows - 1 :]
        ranked = [*ranked[: rows - 1], (f"{len(others)} others", sum(count for _, count, _ in others), "dim")]
    blank = [Text(" " * (cells + 7))] * (rows - len(ranked))
    return [
        Text(_fit(title, cells + 7), "bold"),
        *(Text.assemble((_fit(name, cells), style), f"{count:7}") for name, count, style in ranked),
        *blank,
    ]


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _fit(text: str, cells: int) -> str:
    padded = Text(text)
    padded.truncate(cells, overflow="ellipsis", pad=True)
    return padded.plain
