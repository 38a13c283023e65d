"""What several commands share: their options, what these mean, and tables. Prints."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.sandbox.scenarios import SCENARIOS

if TYPE_CHECKING:
    from consumer.core.errors import ConfigurationError, Problem
    from consumer.core.events import Coordinates
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


RuleFilter = Annotated[
    list[str] | None, typer.Option("--rule", help="Only those that this rule decided.", metavar="NAME")
]
AccountFilter = Annotated[
    list[str] | None, typer.Option("--account", help="Only of this account.", metavar="NAME")
]
SINCE = "Only decided from then on: 2026-03-01T00:00:00+08:00, or 2h for two hours ago."
UntilOption = Annotated[
    str | None, typer.Option("--until", help="Only decided before then; likewise.", metavar="TIME")
]

ANY_OF_THEM = "May be repeated: any of them."
_CODE = re.compile(r"(?!\d?xx)(?=.*\d)[\w.-]{1,32}", re.ASCII)
"""A code of the platform has a digit. A row of the reply table for many codes, such as `5xx`, is none."""


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


def events_of(file: Path, remedy: str) -> list[tuple[str, bytes]]:
    """A file's events, each with its place: all of it is one, or each of its lines, some of which may be broken."""
    content = content_of(file, remedy)
    name = "standard input" if str(file) == "-" else str(file)
    lines = [(number, line.strip()) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    if len(lines) < 2 or _is_json(content) or 2 * sum(_is_json(line) for _, line in lines) < len(lines):
        return [(name, content.removesuffix(b"\n"))]
    return [(f"{name}:{number}", line) for number, line in lines]


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def headers_given(texts: Iterable[str]) -> tuple[tuple[str, bytes], ...]:
    """For `--header`."""
    pairs = [text.partition("=") for text in texts]
    if not all(name and equals for name, equals, _ in pairs):
        raise wrong("--header", "a header is NAME=VALUE", "write it like ce_type=charge.ended")
    return tuple((name, text.encode()) for name, _, text in pairs)


def confirmed(command: str) -> bool:
    """Somebody typed yes."""
    if not sys.stdin.isatty():
        raise wrong(
            command, "nobody can be asked: standard input is no terminal", "add --yes to send what is shown"
        )
    try:
        return input("Type yes to send: ").strip() == "yes"
    except EOFError:
        print()
        return False


def time_given(option: str, text: str, now: datetime) -> datetime:
    """A time with its zone, or how long ago: 2h."""
    from consumer.settings.values import duration_seconds

    try:
        return now - timedelta(seconds=float(str(duration_seconds(text))))
    except (ValueError, OverflowError):
        pass
    what, example = "is no time", "2026-03-01T00:00:00+08:00"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        if time.tzinfo is not None:
            return time
        what, example = "is a time without a zone", f"{time.isoformat()}+08:00"
    raise wrong(option, f"{text!r} {what}", f"write {example}, or 30m, 2h, 7d for so long ago")


def time_or_problem(
    problems: "list[Problem]", option: str, text: str | None, now: datetime
) -> datetime | None:
    """As `time_given`; what is wrong with it goes to `problems`."""
    from consumer.core.errors import ConfigurationError

    try:
        return None if text is None else time_given(option, text, now)
    except ConfigurationError as error:
        problems += error.problems
        return None


# -- Filters ------------------------------------------------------------------------------------------


def without_the_empty(problems: "list[Problem]", given: dict[str, Any]) -> None:
    """An option's text that is empty is a mistake, and taken out; `given` has them in the plural where they repeat."""
    from consumer.core.errors import Problem

    for name, texts in given.items():
        if any(
            isinstance(text, str) and not text.strip()
            for text in ([texts] if isinstance(texts, str) else texts or ())
        ):
            option = name if name in {"since", "until"} else name.removesuffix("s").replace("_", "-")
            problems.append(Problem(f"--{option}", "it is empty", "give a value, or leave it out"))
            given[name] = None


def known_names(
    problems: "list[Problem]", option: str, names: Iterable[str], known: Iterable[str]
) -> frozenset[str]:
    """Of a closed set; those that are not go to `problems`."""
    from consumer.core.errors import Problem

    names, known = frozenset(names), tuple(known)
    problems += [
        Problem(option, f"{name!r} is none", f"it is one of {', '.join(known)}")
        for name in sorted(names.difference(known))
    ]
    return names


def codes_that_are_none(codes: Iterable[str]) -> "list[Problem]":
    """What is wrong with codes of the platform."""
    from consumer.core.errors import Problem

    return [
        Problem("--code", f"{code!r} is not a code", "write one of the platform's, such as 1405 or 503")
        for code in sorted(codes)
        if _CODE.fullmatch(code) is None
    ]


def until_before_since(since: datetime | None, until: datetime | None) -> "list[Problem]":
    """What is wrong with them: nothing is between."""
    from consumer.core.errors import Problem

    if since is None or until is None or since < until:
        return []
    return [
        Problem(
            "--until",
            f"{until.isoformat(timespec='seconds')} is not after --since, "
            f"{since.isoformat(timespec='seconds')}: nothing was decided between them",
            "give the earlier time to --since",
        )
    ]


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


def this_command() -> str:
    """As it was called: what a person can type again where it is on no path."""
    called = sys.argv[0]
    return called if Path(called).stem == "charging-coupon" else f"{sys.executable} -m consumer"


def once_told_to_stop(act: Callable[[], object]) -> Callable[[], None]:
    """SIGTERM or SIGINT have the running loop do this; a second one ends the process at once. To call what is returned takes it back.

    Also where whoever started us ignores SIGINT, as shells do in the background.
    """
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def take_back() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def stop() -> None:
        take_back()
        act()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    return take_back


def told(text: str) -> str:
    """To be printed: no secret in use, no whole plate, nothing that a terminal obeys."""
    from consumer.core.outcomes import inert
    from consumer.logs import cleaned

    return inert(cleaned(text))


def place_text(place: "Coordinates") -> str:
    """A record's place, as people write it."""
    return f"{place.topic}-{place.partition}@{place.offset}"


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
