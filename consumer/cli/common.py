"""What several commands share: their options, and tables. Prints."""

import logging
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from consumer.sandbox.scenarios import SCENARIOS

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        envvar="CHARGING_COUPON__SETTINGS",
        help="Settings file (YAML). The environment (CHARGING_COUPON__...) wins over it.",
    ),
]


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="For people, or for machines.")]


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


def keep_logs_quiet(hide: Iterable[str] = ()) -> None:
    """For commands that print: what Kafka's client logs, the error that ends the command says better."""
    from consumer import logs

    logs.configure("error", hide=hide)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
