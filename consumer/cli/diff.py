"""`charging-coupon diff`: which orders two rules files treat differently, or a service on trial and what it is to replace.

Reads files, or the latest records of Kafka.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.common import (
    RevealOption,
    SettingsFile,
    SourceOption,
    Telling,
    TellingOption,
    content_of,
    events_of,
    quiet_settings,
    source_named,
    source_of,
    time_given,
    wrong,
)

if TYPE_CHECKING:
    from consumer.core.events import Record
    from consumer.core.rules import RuleBook
    from consumer.rulebook.comparison import Planned
    from consumer.settings import Settings

KAFKA_DEPENDS_ON = ("kafka", "retries.delays")
FEW = 3
"""Orders of a group that are shown."""


def diff(
    *,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="OLD NEW EVENTS",
            help="Two rules files or folders, then files of events: one, or one a line; - is standard input.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Instead of OLD: JSON lines of what another integration sent. Without NEW, the outcomes of Kafka are NEW.",
            metavar="FILE",
        ),
    ] = None,
    settings: SettingsFile = None,
    topic: Annotated[
        str | None,
        typer.Option(help="Events of this topic of Kafka; of files: where they were found.", metavar="NAME"),
    ] = None,
    last: Annotated[
        int | None, typer.Option(min=1, help="Of Kafka the last so many records.", metavar="NUMBER")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Of Kafka what was written since 2026-03-01T00:00:00+08:00, or 2h ago.", metavar="TIME"
        ),
    ] = None,
    source: SourceOption = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=0, help="Show so many orders of each group.", show_default=f"{FEW}; all with --against"
        ),
    ] = None,
    reveal: RevealOption = False,
    format: TellingOption = Telling.TEXT,  # noqa: A002  # as the option is called
) -> None:
    """Tells which orders are treated differently, in groups, and how the values of their requests change.

    Two rules files, over files of events or what Kafka holds; or, with --against, what an old
    integration sent beside what the service on trial (state shadow) would have. Nothing is sent or
    changed. Exits 0 when nothing differs, 1 when something does, 2 for what it cannot use.
    """
    from consumer import rulebook
    from consumer.rulebook import comparison, trial
    from consumer.rulebook.comparison import Comparison

    given = list(paths or ())
    books = [rulebook.compiled(path)[1] for path in _rules(given, against)]
    files = given[len(books) :]
    compared = Comparison()
    if against is None:
        for place, record, now in _events(files, settings, topic, last, since):
            old, new = (_planned(book, record, now, source, topic) for book in books)
            for pair in comparison.pairs_of(old, new, place):
                compared.add(pair)
            compared.events = (compared.events or 0) + 1
    else:
        sent = trial.sent_rows(_text_of(against), str(against))
        if books:
            ours = [
                trial.planned_row(item, plan, place)
                for place, record, now in _events(files, settings, topic, last, since)
                for item, plan in _planned(books[0], record, now, source, topic)
            ]
        else:
            ours = [trial.outcome_row(body) for body in _outcomes(settings, last, since)]
        trial.compare(sent, ours, compared)
    if format is Telling.JSON:
        print(comparison.in_json(compared, reveal=reveal))
    else:
        shown = FEW if rows is None and against is None else rows
        for line in comparison.in_text(compared, rows=shown, reveal=reveal):
            print(line)
    if compared.different:
        raise typer.Exit(1)


def _rules(given: list[Path], against: Path | None) -> list[Path]:
    """The paths that are rules."""
    if against is not None:
        return given[:1]
    if len(given) < 2:
        raise wrong("diff", "two rules files are compared", "name the OLD and the NEW one, or --against FILE")
    return given[:2]


def _planned(
    book: "RuleBook", record: "Record", now: datetime | None, source: str | None, topic: str | None
) -> "Planned":
    from consumer.rulebook.comparison import planned

    reader = None
    if source is not None:
        reader = source_named(book, source)
    elif now is None:
        reader = source_of(book, topic)
    return planned(book, record, now, reader)


# -- What is read -------------------------------------------------------------------------------------


def _events(
    files: list[Path], settings: Path | None, topic: str | None, last: int | None, since: str | None
) -> "Iterator[tuple[str, Record, datetime | None]]":
    """Each with its place, and when the service read it, if it came from Kafka."""
    if files:
        if last is not None or since is not None:
            raise wrong("--last and --since", "events of files are all read", "leave these out, or the files")
        for file in files:
            yield from _events_of(file, topic or "events")
        return
    if topic is None:
        raise wrong("EVENTS", "there are none", "name files, or - for standard input, or --topic with --last")
    for record in _latest(quiet_settings(settings, KAFKA_DEPENDS_ON), topic, last, since):
        place = record.coordinates
        text = f"{place.topic}-{place.partition}@{place.offset}"
        yield text, record, datetime.fromtimestamp(max(record.timestamp_ms, 0) / 1000, UTC)


def _events_of(file: Path, topic: str) -> "Iterator[tuple[str, Record, None]]":
    from consumer.core.events import Coordinates, Record

    for number, (place, value) in enumerate(events_of(file, "name a file with events")):
        yield place, Record(Coordinates(topic, 0, number), -1, None, value), None


def _text_of(file: Path) -> str:
    content = content_of(file, "name a file with a line of JSON for each order that was sent")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise wrong(str(file), f"not UTF-8 at byte {error.start}", "save it as UTF-8") from error


def _outcomes(settings: Path | None, last: int | None, since: str | None) -> "Iterator[dict[str, object]]":
    chosen = quiet_settings(settings, KAFKA_DEPENDS_ON)
    for record in _latest(chosen, chosen.kafka.topics.outcomes, last, since):
        try:
            body = json.loads(record.value or b"")
        except ValueError:
            body = None
        if not isinstance(body, dict) or "outcome_id" not in body:
            place = f"{record.coordinates.topic}-{record.coordinates.partition}@{record.coordinates.offset}"
            raise wrong(place, "no outcome of ours", "name the outcome topic in kafka.topics.outcomes")
        yield body


def _latest(settings: "Settings", topic: str, last: int | None, since: str | None) -> "list[Record]":
    import asyncio

    from consumer.lookup import latest

    if last is None and since is None:
        raise wrong("--last", f"{topic} may hold months", "say how much of it: --last 10000, or --since 1d")
    start = None if since is None else time_given("--since", since, datetime.now(UTC))
    return asyncio.run(latest(settings, topic, count=last, since=start))
