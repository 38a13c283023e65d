"""The command line: `charging-coupon`. Prints, and leaves the work to a module for each command.

Exit codes: 0 done, 1 failed unexpectedly or found something wrong, 2 wrong configuration or
arguments, 3 Kafka cannot be reached, 4 Kafka or the platform refuses us, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from consumer import __version__
from consumer.cli import demo, run, sandbox
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, RefusedError

app = typer.Typer(
    name="charging-coupon",
    help="Charging-completed events from Kafka become parking coupons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print local variables, secrets among them
    rich_markup_mode=None,
    epilog=(
        "Exit codes: 0 done, 1 failed, 2 wrong configuration, 3 Kafka cannot be reached, "
        "4 refused by Kafka or the platform, 130 interrupted."
    ),
)
app.command()(run.run)
app.command()(demo.demo)
app.command()(sandbox.sandbox)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"charging-coupon {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before the command; `main` itself looks for `--debug`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(arguments, prog_name="charging-coupon")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if arguments[:1] == ["--debug"]:
            raise
        _explain(error)
        sys.exit(_exit_code(error))


def _explain(error: Exception) -> None:
    match error:
        case ConfigurationError():
            for problem in error.problems:
                print(f"error: {problem}", file=sys.stderr)
        case BrokerUnavailableError() | RefusedError():
            print(f"error: {error}", file=sys.stderr)
        case _:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"error: unexpected {what}; `charging-coupon --debug ...` shows where", file=sys.stderr)


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
