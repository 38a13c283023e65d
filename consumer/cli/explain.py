"""`charging-coupon explain`: how an event is read, and what the rules do with it. Reads files, or one record of Kafka."""

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
    events_of,
    headers_given,
    keep_logs_quiet,
    place_text,
    quiet_settings,
    source_named,
    source_of,
    time_given,
    wrong,
)

if TYPE_CHECKING:
    from consumer.core.events import Record
    from consumer.core.rules import RuleBook
    from consumer.core.sources import Source
    from consumer.rulebook.compilation import Compilation
    from consumer.rulebook.telling import Sender
    from consumer.settings import Settings

SENDER_DEPENDS_ON = ("gateway.url",)
_OF_RULES = (".yaml", ".yml")
RECORD_DEPENDS_ON = ("kafka", "retries.delays", *SENDER_DEPENDS_ON)


def explain(
    *,
    rules: Annotated[Path, typer.Argument(help="Rules file, or a folder of such files.")],
    event: Annotated[
        Path | None,
        typer.Argument(help="File with the event as it is, or with one a line; - is standard input."),
    ] = None,
    settings: SettingsFile = None,
    topic: Annotated[
        str | None, typer.Option(help="Where the event was found, which says who reads it.", metavar="NAME")
    ] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, help="With --topic and --offset: take it from Kafka.")
    ] = None,
    offset: Annotated[int | None, typer.Option(min=0, help="Likewise.")] = None,
    test: Annotated[
        str | None, typer.Option(help="Take the event of this test of the rules.", metavar="NAME")
    ] = None,
    source: SourceOption = None,
    key: Annotated[str | None, typer.Option(help="The event's key, where rules look at it.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header of the event. Repeatable.", metavar="NAME=VALUE")
    ] = None,
    now: Annotated[
        str | None,
        typer.Option(
            help="When it is read: 2026-03-01T08:00:00+08:00, or 2h ago. Default: now, for Kafka; else just after the charge.",
            metavar="TIME",
        ),
    ] = None,
    reveal: RevealOption = False,
    format: TellingOption = Telling.TEXT,  # noqa: A002  # as the option is called
) -> None:
    """Tells step by step how an event is read, which rule decides and why, and what would be sent.

    Nothing is sent, and nothing changed in Kafka. With --settings the signature is the real one;
    the secret is never shown. JSON of a file with one event a line is a line for each.
    """
    from consumer import rulebook
    from consumer.rulebook import telling
    from consumer.rulebook.explanation import explain as explained

    of_kafka = offset is not None
    if [event is not None, test is not None, of_kafka].count(True) != 1:
        remedy = "name a file, or - for standard input, or --test, or --topic with --partition and --offset"
        raise wrong("EVENT", "the events are named in exactly one way", remedy)
    if (
        event is not None
        and event.suffix in _OF_RULES
        and rules.suffix not in _OF_RULES
        and not rules.is_dir()
    ):
        remedy = f"write `explain {event} {rules}`: the rules first, then the event"
        raise wrong(str(rules), "the rules and the event look swapped", remedy)
    compilation, book = rulebook.compiled(rules)
    chosen = _settings(settings, of_kafka=of_kafka)
    moment = None if now is None else time_given("--now", now, datetime.now(UTC))
    reader = source_named(book, source) if source is not None else None
    if chosen is not None and of_kafka:
        record = _polled(chosen, topic, partition, offset or 0)
        records = [(place_text(record.coordinates), record)]
        moment = moment or datetime.now(UTC)
    elif event is not None:
        reader = reader or source_of(book, topic)
        records = _given(event, topic or next(iter(reader.topics), "events"), key, header or [])
    else:
        record, by, at = _tested(compilation, book, test or "")
        records = [(f"of the test `{test}`", record)]
        reader, moment = reader or by, moment or at
    # Of a test nobody expects that it is of today.
    asked_at = datetime.now(UTC) if test is None else None
    secrets = {name: account.secret for name, account in book.accounts.items()}
    sender = _sender(chosen)
    for number, (place, record) in enumerate(records):
        explanation = explained(book, record, moment, reader, asked_at)
        mask = telling.mask_of(explanation, reveal=reveal)
        if format is Telling.JSON:
            print(
                telling.in_json(explanation, place, secrets, sender, mask, indent=None if records[1:] else 2)
            )
            continue
        if number:
            print()
        for line in telling.in_text(explanation, place, secrets, sender, mask):
            print(line)


def _settings(file: Path | None, *, of_kafka: bool) -> "Settings | None":
    """Only as far as they matter: a file of events needs none."""
    from consumer.settings import load_settings

    if of_kafka:
        return quiet_settings(file, RECORD_DEPENDS_ON)
    if file is None:
        return None
    keep_logs_quiet()
    return load_settings(file, needed=SENDER_DEPENDS_ON)


def _given(event: Path, topic: str, key: str | None, headers: list[str]) -> "list[tuple[str, Record]]":
    """Each with its place."""
    from consumer.core.events import Coordinates, Record

    key_bytes = None if key is None else key.encode()
    return [
        (place, Record(Coordinates(topic, 0, number), -1, key_bytes, value, headers_given(headers)))
        for number, (place, value) in enumerate(events_of(event, "name a file with events"))
    ]


def _tested(
    compilation: "Compilation", book: "RuleBook", name: str
) -> "tuple[Record, Source, datetime | None]":
    """The event of a test, who reads it, and when."""
    from consumer.rulebook.bundle import did_you_mean
    from consumer.rulebook.cases import record_of

    cases = {case.name: (case, source) for _, case, source in compilation.cases(book)}
    if name not in cases:
        raise wrong("--test", f"there is no test `{name}`", did_you_mean(name, list(cases)))
    case, source = cases[name]
    return record_of(source, case), source, datetime.fromisoformat(case.now) if case.now else None


def _polled(settings: "Settings", topic: str | None, partition: int | None, offset: int) -> "Record":
    import asyncio

    from consumer.core.events import Coordinates
    from consumer.lookup import find

    if topic is None or partition is None:
        raise wrong(
            "--offset", "a record of Kafka stands in a partition of a topic", "add --topic and --partition"
        )
    return asyncio.run(find(settings, Coordinates(topic, partition, offset)))


def _sender(settings: "Settings | None") -> "Sender":
    from consumer.core.errors import ConfigurationError
    from consumer.rulebook.telling import Sender

    if settings is None:
        return Sender()

    def secret(name: str) -> str | None:
        try:
            return settings.secret(name)
        except ConfigurationError:
            return None

    return Sender(settings.gateway.url, secret, bool(settings.retries.delays))
