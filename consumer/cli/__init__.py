"""The command line: `charging-coupon`. Prints, and leaves the work to a module for each command.

Exit codes: 0 done, 1 failed unexpectedly or found something wrong, 2 wrong configuration or
arguments, 3 Kafka cannot be reached, 4 Kafka or the platform refuses us, 130 interrupted.
"""

import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from consumer import __version__
from consumer.cli import (
    check,
    demo,
    diff,
    draft,
    explain,
    outcomes,
    probe,
    replay,
    run,
    sandbox,
    schema,
    send,
    test,
    topics,
)
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, RefusedError


class _Commands(TyperGroup):
    """What is wrong with an argument is told without the words that pydantic, with which Typer reads it, puts before it."""

    def invoke(self, ctx: Any) -> Any:
        """Parse and run the command that is named. Raises what that raises."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="charging-coupon",
    cls=_Commands,
    help="Charging-completed events from Kafka become parking coupons.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would print local variables, secrets among them
    rich_markup_mode=None,
    epilog=(
        "Exit codes: 0 done, 1 failed or found something wrong, 2 wrong configuration or arguments, "
        "3 Kafka cannot be reached, 4 refused by Kafka or the platform, 130 interrupted."
    ),
)
app.command(
    short_help="Runs the service: reads events and asks for coupons.",
    epilog="Example: charging-coupon run --settings settings.yaml",
)(run.run)
app.command(
    short_help="Checks or creates the service's topics, lists its rights.",
    epilog="Example: charging-coupon topics --settings settings.yaml --create",
)(topics.topics)
app.command(
    short_help="Drafts rules from a platform's raw messages.",
    epilog="Example: charging-coupon draft messages.jsonl --output rules.yaml",
)(draft.draft)
app.command(
    short_help="Says all that is wrong with rules, and what looks it.",
    epilog="Example: charging-coupon check rules.yaml --strict",
)(check.check)
app.command(
    "test",
    short_help="Runs the tests that stand in rules.",
    epilog="Example: charging-coupon test rules.yaml --junit tests.xml",
)(test.run_tests)
app.command(
    short_help="Tells how an event is read, and which rule decides why.",
    epilog="Example: charging-coupon explain rules.yaml event.json --source charging",
)(explain.explain)
app.command(
    short_help="Tells which orders two rules files treat differently.",
    epilog="Example: charging-coupon diff rules.yaml new-rules.yaml events.jsonl",
)(diff.diff)
app.command(
    short_help="Sends the platform one request, and explains its reply.",
    epilog="Example: charging-coupon probe --settings settings.yaml --plate 粤BD12345 --store store-17",
)(probe.probe)
app.command(
    short_help="Prints JSON Schemas of files and topics, for editors.",
    epilog="Example: charging-coupon schema rules > rules.v1.schema.json",
)(schema.schema)
app.command(
    short_help="Tells what became of orders: why one got no coupon.",
    epilog="Example: charging-coupon outcomes --settings settings.yaml --order MA5DA0012026030119100000001",
)(outcomes.outcomes)
app.command(
    short_help="Sends dead letters back to their topics, to be run again.",
    epilog="Example: charging-coupon replay --settings settings.yaml --code 503 --since 2h --send",
)(replay.replay)
app.command(
    short_help="Writes a file's events to a topic, to try a service.",
    epilog="Example: charging-coupon send events.jsonl --settings settings.yaml --topic charging-completed --key plate",
)(send.send)
app.command(
    short_help="Shows the service at work on a Kafka that it starts itself.",
    epilog="Example: charging-coupon demo --scenario brown-out",
)(demo.demo)
app.command(
    short_help="Runs a stand-in for the parking platform, until Ctrl-C.",
    epilog="Example: charging-coupon sandbox --port 8088 --failure 503=0.05",
)(sandbox.sandbox)


def _print_version(wanted: bool) -> None:
    if wanted:
        commit = _commit()
        print(f"charging-coupon {__version__}" + (f" ({commit})" if commit else ""))
        raise typer.Exit


def _commit() -> str:
    """The commit that runs: as stamped when an image was built, else a checkout's own; empty where unknown."""
    package = Path(__file__).parents[1]
    stamp = package / "COMMIT"
    if stamp.exists():
        return stamp.read_text("utf-8").strip()
    if not (package.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(package.parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, timeout=5).strip()  # noqa: S603  # our own command
    except (OSError, subprocess.SubprocessError):
        return ""


@app.callback()
def _common(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and its commit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from (a traceback).")
    ] = False,
) -> None:
    """Options that stand before the command; `main` itself looks for `--debug`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if os.getpid() == 1:  # the kernel lets a container's first process ignore what it does not handle
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
    # A plate is no reason to fail where a locale has no letters for it.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(arguments, prog_name="charging-coupon")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  # the last to see it: says it, and ends the process
        _explain(error, debug=arguments[:1] == ["--debug"])
        sys.exit(_exit_code(error))


def _explain(error: Exception, *, debug: bool) -> None:
    """On standard error, through the gate that log lines pass: no secret in use, no whole plate."""
    from consumer.core.outcomes import inert
    from consumer.logs import cleaned

    for line in _traceback(error) if debug else _lines(error):
        print(inert(cleaned(line), keep="\t\n"), file=sys.stderr)


def _traceback(error: Exception) -> Sequence[str]:
    return "".join(traceback.format_exception(error)).splitlines()


def _lines(error: Exception) -> Sequence[str]:
    match error:
        case ConfigurationError():
            return [f"error: {problem}" for problem in error.problems]
        case BrokerUnavailableError() | RefusedError():
            return [f"error: {' '.join(str(error).split())}"]
        case _:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            return [f"error: unexpected {what}; `charging-coupon --debug ...` shows where"]


def _exit_code(error: Exception) -> int:
    match error:
        case ConfigurationError():
            return 2
        case BrokerUnavailableError():
            return 3
        case RefusedError():
            return 4
        case _:
            return 1
