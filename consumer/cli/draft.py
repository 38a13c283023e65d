"""`charging-coupon draft`: a first rules file from raw messages. Reads files, writes one where that is asked for, and prints."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.common import content_of, wrong


def draft(
    *,
    samples: Annotated[
        list[Path],
        typer.Argument(
            help="Files of messages: one JSON message, one on each line, or a list; - is standard input."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write it there, and not to standard output.", metavar="FILE"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Drafts a rules file that reads a platform's raw messages; asks no Kafka.

    Where the orders stand, and which field is the plate, the start, the end, the energy and in which unit, is
    guessed from names and values. Each guess is marked `# confirm:` in the file, with why and what
    else it could be. It checks and tests as it is. No plate of the messages is in it.
    """
    from consumer.rulebook.drafting import draft as drafted
    from consumer.rulebook.drafting import samples_of

    if output is not None and output.exists() and not force:
        raise wrong("--output", f"{output} is there already", "name another file, or add --force")
    found = drafted(samples_of([_content(file) for file in samples]))
    for line in found.told:
        print(line, file=sys.stderr)
    if output is None:
        sys.stdout.write(found.text)
        return
    try:
        output.write_text(found.text, "utf-8")
    except OSError as error:
        message = f"{output} cannot be written: {error.strerror}"
        raise wrong("--output", message, "name another file") from error


def _content(file: Path) -> tuple[str, bytes]:
    """What it is called in messages, and what is in it."""
    name = "standard input" if str(file) == "-" else str(file)
    return name, content_of(file, "name a file of messages, or - for standard input")
