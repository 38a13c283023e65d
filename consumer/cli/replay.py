"""`charging-coupon replay`: dead letters back to where they came from, after a look at them. Talks to Kafka."""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from consumer.cli.common import (
    ANY_OF_THEM,
    SINCE,
    AccountFilter,
    Format,
    FormatOption,
    RevealOption,
    RuleFilter,
    SettingsFile,
    UntilOption,
    codes_that_are_none,
    known_names,
    place_text,
    print_table,
    quiet_settings,
    time_or_problem,
    told,
    until_before_since,
    without_the_empty,
)

if TYPE_CHECKING:
    from consumer.core.errors import Problem
    from consumer.core.events import Coordinates
    from consumer.core.letters import DeadLetter, Filters
    from consumer.core.rules import RuleBook
    from consumer.replay import Kind, Replayer, Selection
    from consumer.settings import Settings

INTERRUPTED_EXIT = 130


def replay(
    *,
    settings: SettingsFile = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters: no filter is given.")] = False,
    outcome: Annotated[
        list[str] | None, typer.Option(help=f"Only of this outcome. {ANY_OF_THEM}", metavar="NAME")
    ] = None,
    reason: Annotated[
        list[str] | None, typer.Option(help="Only for this reason, such as not_json.", metavar="NAME")
    ] = None,
    code: Annotated[
        list[str] | None, typer.Option(help="Only of this last code of the platform.", metavar="CODE")
    ] = None,
    rule: RuleFilter = None,
    account: AccountFilter = None,
    order: Annotated[
        list[str] | None, typer.Option(help="Only of this order number.", metavar="ORDER")
    ] = None,
    plate: Annotated[
        list[str] | None,
        typer.Option(
            help="Only of this plate (whole), as the rules read it, or as it stands in the key.",
            metavar="PLATE",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help=SINCE,
            metavar="TIME",
        ),
    ] = None,
    until: UntilOption = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="Only of events of this topic.", metavar="NAME")
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option(help="Only of events of this partition.", metavar="NUMBER")
    ] = None,
    offset: Annotated[
        list[str] | None,
        typer.Option(help="Only of events at this offset, or at these: 17-40.", metavar="OFFSET"),
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Send them back. Without it nothing is sent.")] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Implausible ones (`suspect`) are granted all the same.")
    ] = False,
    max_replays: Annotated[
        int, typer.Option(min=1, max=1000, help="Leave out what was sent back so often before.")
    ] = 3,
    rate: Annotated[float, typer.Option(min=0.01, max=100_000, help="Send at most so many a second.")] = 50.0,
    rows: Annotated[int, typer.Option(min=0, max=100_000, help="Show so many of them.")] = 20,
    reveal: RevealOption = False,
    format: FormatOption = Format.TABLE,  # noqa: A002  # as the option is called
) -> None:
    """Shows which dead letters would go back to their topics, to be run again; with --send sends them.

    Filters of different kinds must all hold. Each dead letter is sent back once: an interrupted
    replay goes on when it is started again. Of an event with several orders only the one that
    failed is run again. Of the settings it reads kafka and guarantee, and for plates the rules.
    """
    import asyncio

    from consumer import rulebook
    from consumer.core.errors import ConfigurationError

    problems: list[Problem] = []
    filters = _filters(
        problems,
        outcomes=outcome, reasons=reason, codes=code, rules=rule, accounts=account, orders=order, plates=plate,
        since=since, until=until, topics=topic, partitions=partition, offsets=offset,
    )  # fmt: skip  # option by option
    if not problems:
        problems += _contradictions(filters, everything=everything)
    if problems:
        raise ConfigurationError(problems)
    read = bool(filters.plates) or reveal
    chosen = quiet_settings(settings, ("kafka", "guarantee", *(("rules",) if read else ())))
    book = rulebook.load(chosen.rules) if read else None
    work = _Work(filters, max_replays, rate, rows, book, send=send, release=release)
    result = _Result(chosen.kafka.topics.dead_letters, work)
    try:
        asyncio.run(_do(chosen, work, result))
    finally:
        if result.selection is not None:
            _print_result(result, format, reveal=reveal)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED_EXIT)
    if result.refused:
        raise typer.Exit(1)


# -- What is asked for ------------------------------------------------------------------------------


def _filters(problems: "list[Problem]", **given: Any) -> "Filters":
    """Of the options; what is wrong with them goes to `problems`."""
    from consumer.core.errors import Problem
    from consumer.core.letters import Filters
    from consumer.core.outcomes import Outcome, Reason
    from consumer.core.plates import normalise

    without_the_empty(problems, given)
    wanted: dict[str, Any] = {
        name: frozenset(given[name] or ())
        for name in ("outcomes", "reasons", "codes", "rules", "accounts", "orders", "topics", "partitions")
    }
    wanted["outcomes"] = known_names(problems, "--outcome", wanted["outcomes"], Outcome)
    wanted["reasons"] = known_names(problems, "--reason", wanted["reasons"], Reason)
    problems += codes_that_are_none(wanted["codes"])
    problems += [
        Problem("--partition", f"{number} is below 0", "write 0, 1 ...")
        for number in sorted(wanted["partitions"])
        if number < 0
    ]
    wanted["plates"] = frozenset(normalise(plate) for plate in given["plates"] or ())
    if "" in wanted["plates"]:
        problems.append(Problem("--plate", "nothing is left of it as a plate", "write it whole"))
    wanted["offsets"] = tuple(_offsets(problems, text) for text in given["offsets"] or ())
    now = datetime.now(UTC)
    wanted["since"] = time_or_problem(problems, "--since", given["since"], now)
    wanted["until"] = time_or_problem(problems, "--until", given["until"], now)
    return Filters(**wanted)


def _offsets(problems: "list[Problem]", text: str) -> range:
    from consumer.core.errors import Problem

    first, dash, last = text.partition("-")
    if first.isdecimal() and last.isdecimal() and int(last) < int(first):
        problems.append(Problem("--offset", f"{text!r} ends before it begins", f"write {last}-{first}"))
        return range(0)
    if first.isdecimal() and (last.isdecimal() if dash else True):
        return range(int(first), int(last or first) + 1)
    problems.append(Problem("--offset", f"{text!r} is no offset", "write 17, or 17-40"))
    return range(0)


def _contradictions(filters: "Filters", *, everything: bool) -> "list[Problem]":
    from consumer.core.errors import Problem

    if everything and not filters.none:
        return [Problem("--all", "there are filters, too", "leave out one or the other")]
    if filters.none and not everything:
        return [
            Problem(
                "replay", "no dead letter is chosen", "give filters (--help lists them), or --all for all"
            )
        ]
    if backwards := until_before_since(filters.since, filters.until):
        return backwards
    if filters.offsets and not filters.partitions:
        return [
            Problem("--offset", "each partition has such an offset", "give its --partition, and its --topic")
        ]
    return []


# -- Doing it ---------------------------------------------------------------------------------------


class _Work(NamedTuple):
    filters: "Filters"
    max_replays: int
    rate: float
    rows: int
    book: "RuleBook | None"
    send: bool
    release: bool


class _Result:
    """What was found and done so far: it is told however it ends."""

    def __init__(self, topic: str, work: _Work) -> None:
        self.topic = topic
        self.work = work
        self.selection: Selection | None = None
        self.orders: list[tuple[DeadLetter, tuple[str, ...]]] = []
        self.kinds: list[tuple[Kind, int]] = []
        self.total = 0
        self.replayer: Replayer | None = None
        self.interrupted = False

    @property
    def sent(self) -> int:
        return self.replayer.sent if self.replayer else 0

    @property
    def unsettled(self) -> int:
        return self.replayer.unsettled if self.replayer else 0

    @property
    def refused(self) -> "list[tuple[Coordinates, str]]":
        return self.replayer.refused if self.replayer else []


async def _do(settings: "Settings", work: _Work, result: _Result) -> None:
    from rich.console import Console

    from consumer.replay import Replayer

    console = Console(stderr=True)
    async with Replayer.connect(settings, sending=work.send) as replayer:
        result.replayer = replayer
        with console.status(f"Reading {result.topic}"):  # on a terminal only
            selection = await replayer.select(work.filters, max_replays=work.max_replays, book=work.book)
            result.kinds, result.total = selection.kinds.most_common(), len(selection)
            result.orders = await replayer.show(selection, work.rows, work.book)
            result.selection = selection
        if work.send:
            await _send(replayer, selection, work, result, console)


async def _send(
    replayer: "Replayer", selection: "Selection", work: _Work, result: _Result, console: Any
) -> None:
    import asyncio
    import signal

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)  # a second one ends the process at once
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    columns = (TextColumn("Sending back"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=result.total)
        await replayer.send(
            selection,
            rate=work.rate,
            release=work.release,
            stopping=stopping,
            on_sent=lambda sent: progress.update(task, completed=sent),
        )
    result.interrupted = stopping.is_set() and len(selection) > 0


# -- Telling it -------------------------------------------------------------------------------------


def _print_result(result: _Result, format: Format, *, reveal: bool) -> None:  # noqa: A002  # as the option is called
    from consumer.core.outcomes import inert

    assert result.selection is not None
    text = told if not reveal else inert
    if format is Format.JSON:
        print(
            json.dumps(_as_json(result, result.selection, text, reveal=reveal), ensure_ascii=False, indent=2)
        )
        return
    chosen = f"{result.selection.read} dead letters in {result.topic}, of which {result.total} "
    print(chosen + ("are to go back" if result.work.send else "would go back"))
    if result.total:
        print()
        _print_kinds(result.kinds, text)
        print()
        _print_orders(result, text, reveal=reveal)
    if result.selection.held_back:
        print("\nThese do not go:")
        print_table(
            ("DEAD LETTERS", "WHY", "EVENTS"),
            [
                (str(held.count), text(why), ", ".join(map(place_text, held.places)) + _more(held))
                for why, held in result.selection.held_back.items()
            ],
        )
    for place, why in result.refused:
        print(f"\n{place_text(place)} was not sent: {text(why)}")
    for note in _notes(result):
        print(f"\n{note}")
    print()
    print(_end(result))


def _notes(result: _Result) -> Iterable[str]:
    from consumer.core.letters import unlettered

    names = unlettered(result.work.filters)
    if names and not result.total:
        yield (
            f"No dead letter is written of {', '.join(names)}, unless `replies` in the rules says so (dead_letter: true): "
            "when the cause is mended, such a charge has to be pushed again."
        )


def _more(held: Any) -> str:
    return ", ..." if held.count > len(held.places) else ""


def _end(result: _Result) -> str:
    if not result.work.send:
        return "Nothing was sent; with --send they are." if result.total else "Nothing was sent."
    words = f"{result.sent} of {result.total} were sent back"
    if result.unsettled:
        words += f"; whether {result.unsettled} more were, their receipts tell"
    if result.selection:
        words += "; the same command goes on with the rest"
        if result.replayer is not None and not result.replayer.exactly_once:
            words += ", and may repeat one (guarantee: at_least_once)"
    return f"{words}."


def _print_kinds(kinds: "Iterable[tuple[Kind, int]]", text: Callable[[str], str]) -> None:
    print_table(
        ("DEAD LETTERS", "OUTCOME", "REASON", "CODE", "RULE"),
        [(str(count), *(text(each or "-") for each in kind)) for kind, count in kinds],
    )


def _print_orders(result: _Result, text: Callable[[str], str], *, reveal: bool) -> None:
    now = datetime.now(UTC)
    with_plates = result.work.book is not None
    heads = (
        "EVENT",
        "ORDER",
        *(("PLATE",) if with_plates else ()),
        "OUTCOME",
        "REASON",
        "CODE",
        "AGE",
        "SENT BACK",
    )
    table = [
        (
            place_text(letter.origin) + (f" #{letter.index}" if letter.index else ""),
            text(letter.order_id or "-"),
            *((_plates(plates, reveal=reveal),) if with_plates else ()),
            *(text(each or "-") for each in (letter.outcome, letter.reason, letter.code)),
            _age(now - letter.decided_at),
            str(letter.replays),
        )
        for letter, plates in result.orders
    ]  # fmt: skip  # a row an order
    print_table(heads, table)
    if result.total > len(table):
        print(f"... and {result.total - len(table)} more; --rows shows more of them")


def _as_json(
    result: _Result, selection: "Selection", text: Callable[[str], str], *, reveal: bool
) -> dict[str, Any]:
    def maybe(word: str | None) -> str | None:
        return None if word is None else text(word)

    return {
        "topic": result.topic,
        "read": selection.read,
        "chosen": result.total,
        "sent": result.sent,
        "unsettled": result.unsettled,
        "kinds": [
            {name: maybe(word) for name, word in kind._asdict().items()} | {"count": count}
            for kind, count in result.kinds
        ],
        "orders": [
            {
                **letter.origin._asdict(),
                "order_index": letter.index,
                "order_id": maybe(letter.order_id),
                "outcome": letter.outcome,
                "reason": maybe(letter.reason),
                "detail": maybe(letter.detail),
                "code": maybe(letter.code),
                "rule": maybe(letter.rule),
                "account": maybe(letter.account),
                "decided_at": letter.decided_at.isoformat(),
                "replays": letter.replays,
                **({"plate": _plates(plates, reveal=reveal)} if result.work.book is not None else {}),
            }
            for letter, plates in result.orders
        ],
        "held_back": [
            {"why": text(why), "count": held.count, "events": [place._asdict() for place in held.places]}
            for why, held in selection.held_back.items()
        ],
        "notes": list(_notes(result)),
        "refused": [{**place._asdict(), "why": text(why)} for place, why in result.refused],
    }


def _plates(plates: Iterable[str], *, reveal: bool) -> str:
    from consumer.core.outcomes import inert
    from consumer.core.plates import mask

    return inert(", ".join(plate if reveal else mask(plate) for plate in plates)) or "-"


def _age(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
