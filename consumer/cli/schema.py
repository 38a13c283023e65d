"""`charging-coupon schema`: the JSON Schemas of files and topics, for editors. Prints."""

import sys
from enum import StrEnum
from typing import Annotated

import typer


class Described(StrEnum):
    """What there are schemas of."""

    SETTINGS = "settings"
    RULES = "rules"
    EVENTS = "events"
    OUTCOMES = "outcomes"
    STATUS = "status"


def schema(
    *,
    of: Annotated[
        Described,
        typer.Argument(metavar="WHAT", help="Of which files, topic or page."),
    ] = Described.RULES,
) -> None:
    """Prints a JSON Schema: of the settings file, of rules, of our own events, of the outcome topic, of /status.json.

    An editor that knows YAML's language server then completes and checks a file that begins with
    `# yaml-language-server: $schema=rules.v1.schema.json`.
    """
    from consumer import rulebook, schemas, settings

    match of:
        case Described.SETTINGS:
            text = settings.schema_text()
        case Described.RULES:
            text = rulebook.schema_text()
        case _:
            text = schemas.written(of)
    sys.stdout.write(text)
