"""`charging-coupon send`: a file's events into a topic, as the charging platform would, after a yes. Talks to Kafka."""

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from consumer.cli.common import (
    SettingsFile,
    confirmed,
    content_of,
    headers_given,
    place_text,
    quiet_settings,
    told,
    wrong,
)

if TYPE_CHECKING:
    from consumer.core.events import Coordinates
    from consumer.core.formats import Path as EventPath
    from consumer.settings import Settings

DEPENDS_ON = ("kafka.bootstrap_servers", "kafka.security")
FEW = 5
"""Mistakes, and places, that are told one by one."""


def send(
    *,
    file: Annotated[
        Path, typer.Argument(help="One event, one a line, or a JSON list of them; - is standard input.")
    ],
    topic: Annotated[str, typer.Option(help="Where to; it has to be there.", metavar="NAME")],
    settings: SettingsFile = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Where in the event its record's key stands, such as plate. Default: no key.", metavar="PATH"
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header of each record. Repeatable.", metavar="NAME=VALUE")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send lines that are no JSON, too, as they are.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Send at most so many a second.", show_default="no limit")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send without asking.")] = False,
) -> None:
    """Writes events to a topic, byte for byte as they stand in the file, to try rules and a service with.

    First it shows where to, and how many, and asks: a service that reads the topic asks its platform
    for coupons, and those are real unless the platform is a sandbox. Of the settings it reads where
    Kafka is, and how to get in.
    """
    import asyncio

    events = list(_events(file, key, raw=raw))
    headers = headers_given(header or [])
    chosen = quiet_settings(settings, DEPENDS_ON)
    _refuse_our_own(chosen, topic)
    partitions = asyncio.run(_partitions(chosen, topic))
    where = f"{topic}, {partitions} partition{'s' * (partitions != 1)}"
    for line in (*_shown(chosen, where, file, events, key), "", *_warned(topic)):
        print(told(line))
    if not (yes or confirmed("send")):
        print("Nothing was sent.")
        return
    places = asyncio.run(_send(chosen, topic, events, headers, rate))
    print(told(f"{_counted(len(places))} sent: {_places(places)}"))
    look = ["charging-coupon", "outcomes", *([] if settings is None else ["--settings", str(settings)])]
    print(f"What becomes of {'it' if len(places) == 1 else 'them'}: {shlex.join(look)} --since 10m")


# -- What is sent -----------------------------------------------------------------------------------


class _Sendable(NamedTuple):
    key: bytes | None
    value: bytes


def _events(file: Path, key: str | None, *, raw: bool) -> Iterator[_Sendable]:
    """All of them, or all that is wrong."""
    from consumer.core.errors import ConfigurationError, Problem
    from consumer.core.formats import Refusal, decode

    if raw and key is not None:
        raise wrong("--key", "nothing is looked for in what is sent raw", "leave out one of --key and --raw")
    path = None if key is None else _path(key)
    found: list[_Sendable] = []
    problems: list[Problem] = []
    for place, value in _values(file, raw=raw):
        body = None if raw else decode(value)
        if isinstance(body, Refusal):
            problems.append(Problem(place, body.detail, "correct it, or send it as it is with --raw"))
            continue
        text = None if path is None else _key_of(body, path)
        if path is not None and text is None:
            problems.append(
                Problem(
                    place,
                    f"no text with anything in it stands at `{key}`, and no number",
                    "name another --key",
                )
            )
        found.append(_Sendable(None if text is None else text.encode("utf-8", "replace"), value))
    if len(problems) > FEW:
        more = f"{len(problems) - FEW} more events cannot be sent"
        problems[FEW:] = [Problem(str(file), more, "see those above")]
    if problems:
        raise ConfigurationError(problems)
    if not found:
        raise wrong(str(file), "there is no event in it", "name a file with one event, or one a line")
    yield from found


def _values(file: Path, *, raw: bool) -> Iterator[tuple[str, bytes]]:
    """The events' bytes, each with its place. What is JSON as a whole is one event, or a list of them."""
    import msgspec

    content = content_of(file, "name a file with events")
    if not raw:
        try:
            listed = msgspec.json.decode(content, type=list[msgspec.Raw])
        except (ValueError, RecursionError):  # a line each, or one event that is no list
            listed = None
        if listed is not None:
            yield from ((f"{file}: item {number}", bytes(each)) for number, each in enumerate(listed, 1))
            return
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            pass
        else:
            yield str(file), content.strip()
            return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield f"{file}:{number}", line.removesuffix(b"\r") if raw else line.strip()


def _path(text: str) -> "EventPath":
    from consumer.core.formats import Path as EventPath

    try:
        return EventPath.parse(text)
    except ValueError as error:
        raise wrong("--key", str(error), "write it like plate, or data.order.plate") from error


def _key_of(body: object, path: "EventPath") -> str | None:
    from consumer.core.formats import Event, scalar_text

    return scalar_text(path.find(body, Event(body, body)))


# -- Before it is sent --------------------------------------------------------------------------------


def _refuse_our_own(settings: "Settings", topic: str) -> None:
    """What the service writes there, everybody has to be able to rely on."""
    topics = settings.kafka.topics
    if topic in (topics.outcomes, topics.dead_letters, *settings.retry_topics):
        raise wrong("--topic", f"the service itself writes {topic}", "name a topic that it reads events from")


async def _partitions(settings: "Settings", topic: str) -> int:
    from consumer.connection import arguments, reach
    from consumer.sandbox.traffic import partitions_of

    options = arguments(settings.kafka, settings.secret)
    await reach(options)
    count = await partitions_of(options, topic)
    if not count:
        remedy = "`charging-coupon topics --create --events` creates those of kafka.topics.events"
        raise wrong("--topic", f"there is no topic {topic}", remedy)
    return count


def _shown(
    settings: "Settings",
    where: str,
    file: Path,
    events: Sequence[_Sendable],
    key: str | None,
) -> Iterator[str]:
    from consumer.core.outcomes import with_plates_masked

    size = sum(len(event.value) for event in events)
    first = events[0].key
    example = "" if first is None else f", such as {with_plates_masked(first.decode())}"
    yield f"Kafka   {', '.join(settings.kafka.bootstrap_servers)}"
    yield f"topic   {where}"
    yield f"events  {len(events)} from {file}, {size} bytes"
    yield f"key     {'none' if key is None else f'{key}{example}'}"


def _warned(topic: str) -> Iterator[str]:
    yield f"A service that reads {topic} asks its platform for a coupon for each charge that its rules choose."
    yield "These are real coupons, unless that platform is a sandbox."


# -- Sending ------------------------------------------------------------------------------------------


async def _send(
    settings: "Settings",
    topic: str,
    events: Sequence[_Sendable],
    headers: Sequence[tuple[str, bytes]],
    rate: float | None,
) -> "list[Coordinates]":
    from consumer.connection import arguments
    from consumer.sandbox.traffic import write

    options = arguments(settings.kafka, settings.secret)
    return await write(
        {**options, "max_request_size": settings.kafka.max_message_size},
        topic,
        [(event.key, event.value, headers) for event in events],
        rate=float("inf") if rate is None else rate,
    )


def _counted(number: int) -> str:
    return "1 event was" if number == 1 else f"{number} events were"


def _places(places: "Sequence[Coordinates]") -> str:
    if len(places) <= FEW:
        return ", ".join(map(place_text, places))
    ranges: dict[int, list[int]] = {}
    for place in places:
        ranges.setdefault(place.partition, []).append(place.offset)
    topic = places[0].topic
    return ", ".join(
        f"{topic}-{partition}@{min(offsets)}" + (f" to {max(offsets)}" if len(offsets) > 1 else "")
        for partition, offsets in sorted(ranges.items())
    )
