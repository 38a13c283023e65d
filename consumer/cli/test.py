"""`charging-coupon test`: the tests that stand in rules. Reads files, prints, writes a file where one is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.check import RULES, RulesFile
from consumer.cli.common import RevealOption


def run_tests(
    *,
    rules: RulesFile = RULES,
    only: Annotated[str, typer.Option("-k", help="Only tests whose name holds this.", metavar="TEXT")] = "",
    junit: Annotated[
        Path | None, typer.Option(help="Write the results there too, as JUnit's XML.", metavar="FILE")
    ] = None,
    reveal: RevealOption = False,
) -> None:
    """Runs the tests that stand in rules, and shows what is not as they expect; asks no Kafka.

    Exits 0 when all passed, 1 when one failed or there was none to run, 2 when the rules have mistakes.
    """
    from consumer.core.errors import ConfigurationError, Problem
    from consumer.rulebook import runs

    done = runs.run(rules, only, reveal=reveal)
    if junit is not None:
        try:
            junit.write_bytes(runs.in_junit(done, str(rules)))
        except OSError as error:
            problem = Problem("--junit", f"{junit} cannot be written: {error.strerror}", "name another file")
            raise ConfigurationError([problem]) from error
    if not done:
        what = f"no test of {rules} has `{only}` in its name" if only else f"{rules} holds no tests"
        print(f"{what}; add some under `tests:`" if not only else what)
        raise typer.Exit(1)
    for line in runs.in_text(done):
        print(line)
    if any(each.differences for each in done):
        raise typer.Exit(1)
