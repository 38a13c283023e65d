"""What several commands share: their options, what these mean, and tables. Prints."""

import logging
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.sandbox.scenarios import SCENARIOS

if TYPE_CHECKING:
    from consumer.core.errors import ConfigurationError
    from consumer.core.rules import RuleBook
    from consumer.core.sources import Source
    from consumer.settings import Settings

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        envvar="CHARGING_COUPON__SETTINGS",
        help="Settings file (YAML). The environment (CHARGING_COUPON__...) wins over it.",
    ),
]

RevealOption = Annotated[bool, typer.Option("--reveal", help="Show whole plates.")]
SourceOption = Annotated[
    str | None, typer.Option(help="Who reads the events, whatever their topic.", metavar="NAME")
]


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="For people, or for machines.")]


class Telling(StrEnum):
    """How something is told that is no table."""

    TEXT = "text"
    JSON = "json"


TellingOption = Annotated[Telling, typer.Option("--format", help="For people, or for machines.")]


def wrong(place: str, message: str, remedy: str) -> "ConfigurationError":
    """To be raised for one mistake in what a command was given."""
    from consumer.core.errors import ConfigurationError, Problem

    return ConfigurationError([Problem(place, message, remedy)])


def source_named(book: "RuleBook", name: str) -> "Source":
    """For `--source`."""
    from consumer.rulebook.bundle import did_you_mean

    by_name = {source.name: source for source in book.sources}
    if name not in by_name:
        raise wrong("--source", f"there is no source `{name}`", did_you_mean(name, list(by_name)))
    return by_name[name]


def source_of(book: "RuleBook", topic: str | None) -> "Source":
    """Who reads a file's event: the source of the topic where it was found, or the only one."""
    found = book.source_for(topic) if topic is not None else None
    if topic is not None and found is None:
        remedy = f"name one of {', '.join(book.topics()) or 'none'}, or --source"
        raise wrong("--topic", f"no source reads the topic {topic}", remedy)
    if found is None and len(book.sources) > 1:
        names = ", ".join(source.name for source in book.sources)
        raise wrong("EVENT", "there are several sources that could read it", f"name --source, one of {names}")
    return found or book.sources[0]


def content_of(file: Path, remedy: str) -> bytes:
    """What stands in a file that was named; `-` is standard input."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise wrong(str(file), f"cannot be read: {error.strerror}", remedy) from error


def time_given(option: str, text: str, now: datetime) -> datetime:
    """A time with its zone, or how long ago: 2h."""
    from consumer.settings.values import duration_seconds

    try:
        return now - timedelta(seconds=float(str(duration_seconds(text))))
    except (ValueError, OverflowError):
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        what = "is no time"
    else:
        if time.tzinfo is not None:
            return time
        what = "is a time without a zone"
    raise wrong(option, f"{text!r} {what}", "write 2026-03-01T00:00:00+08:00, or 30m, 2h, 7d for so long ago")


def scenario_option(help: str) -> Any:  # noqa: A002  # as the option calls it
    """`--scenario`: one of the names in `consumer.sandbox.scenarios`."""
    return typer.Option(
        metavar=f"[{'|'.join(SCENARIOS)}]",
        autocompletion=lambda: list(SCENARIOS),
        callback=_known_scenario,
        help=help,
    )


def _known_scenario(name: str | None) -> str | None:
    if name is not None and name not in SCENARIOS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(SCENARIOS)}")
    return name


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In columns as wide as they need to be: no wrapping, no colour, so that `grep` and `awk` can read it."""
    table = [heads, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def quiet_settings(file: Path | None, needed: Sequence[str]) -> "Settings":
    """For commands that talk to Kafka and print: no log line, nor an error, shows a secret of theirs."""
    from consumer.connection import secrets_in_use
    from consumer.settings import load_settings

    settings = load_settings(file, needed=needed)
    keep_logs_quiet(hide=secrets_in_use(settings.kafka, settings.secret))
    return settings


def keep_logs_quiet(hide: Iterable[str] = ()) -> None:
    """For commands that print: what Kafka's client logs, the error that ends the command says better."""
    from consumer import logs

    logs.configure("error", hide=hide)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
