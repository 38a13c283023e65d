"""`charging-coupon check`: all that is wrong with rules, and what is probably not meant. Reads files, and prints."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

RulesFile = Annotated[Path, typer.Argument(help="Rules file, or a folder of such files.", show_default=True)]
RULES = Path("rules.yaml")


class CheckFormat(StrEnum):
    """How mistakes are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def check(
    *,
    rules: RulesFile = RULES,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 where there are warnings.")] = False,
    format: Annotated[  # noqa: A002  # as the option is called
        CheckFormat,
        typer.Option("--format", help="For people, for machines, or as annotations of GitHub's."),
    ] = CheckFormat.TEXT,
) -> None:
    """Says all that is wrong with rules, each mistake with its line and a remedy; asks no Kafka.

    Runs their tests, tries every rule on sample events, and warns of what is probably not meant:
    rules that are never reached, names that nothing uses, values that do not fit, fields that a
    charge may lack. Exits 0 when there are no mistakes, 2 when there are.
    """
    from consumer.rulebook import report

    found = report.check(rules)
    match format:
        case CheckFormat.TEXT:
            lines = list(report.in_text(found, str(rules)))
        case CheckFormat.JSON:
            lines = [report.in_json(found)]
        case CheckFormat.GITHUB:
            lines = list(report.for_github(found))
    for line in lines:
        print(line)
    if found.count("error"):
        raise typer.Exit(2)
    if strict and found.count("warning"):
        raise typer.Exit(1)
