"""`charging-coupon demo`: the whole service on a Kafka and a platform of its own, and a reconciliation. Does it all.

What it runs is the very same service as `charging-coupon run`, with `demo-rules.yaml`.
"""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.common import keep_logs_quiet, scenario_option, this_command
from consumer.sandbox.scenarios import MOST_WATCHED, SCENARIOS

if TYPE_CHECKING:
    from consumer.cli.stage import Play
    from consumer.sandbox.reconcile import Report
    from consumer.sandbox.screen import Screen

SIGTERM_EXIT = 143


def demo(
    *,
    scenario: Annotated[
        str,
        scenario_option(" ".join(f"{each.name}: {each.words}." for each in SCENARIOS.values())),
    ] = "steady",
    events: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            show_default=False,
            help="How many records to produce; each scenario has a default. They are spread over it, to be watched; "
            f"more than {MOST_WATCHED:,} go at once (steady: to a platform that answers in 20 ms), and it says how fast the service was "
            "(not where the platform changes in the course of it).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample events.")] = 1,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Stay up after the summary, until Ctrl-C, to look around and send own events."
        ),
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines instead of a live view, as where there is no terminal.")
    ] = False,
) -> None:
    """Shows the whole path: a real Kafka, sample charges, the service, a sandbox platform, every outcome.

    Needs the extra [demo] and some 40 seconds. The first run fetches Kafka (45 MB) into the
    cache folder. Exits 1 if any order is missing, doubled, or ended otherwise than it may.
    """
    import asyncio

    from consumer.cli.stage import Play
    from consumer.sandbox.gateway import DEMO_APP_SECRET
    from consumer.sandbox.screen import Screen

    keep_logs_quiet(hide=[DEMO_APP_SECRET])
    play = Play(SCENARIOS[scenario], events=events, seed=seed, keep=keep)
    try:
        with Screen(plain=plain) as screen:
            report = asyncio.run(_show(play, screen))
            screen.lines(*_what_next(scenario, sized=events is not None, keep=keep))
    except asyncio.CancelledError:  # SIGTERM
        raise typer.Exit(SIGTERM_EXIT) from None
    if not report.agrees:
        raise typer.Exit(1)


async def _show(play: "Play", screen: "Screen") -> "Report":
    from consumer import eventloop
    from consumer.sandbox.broker import EmbeddedBroker

    eventloop.prepare_memory()
    _let_sigterm_cancel()
    async with AsyncExitStack() as stack:
        broker = EmbeddedBroker()
        stack.push_async_exit(broker)
        async with play:  # ends before Kafka does
            await broker.start(screen.step)
            report = await play.run(broker.bootstrap_servers, screen)
        await broker.stop(screen.step)
    return report


def _let_sigterm_cancel() -> None:
    """What Ctrl-C does: everything is taken down."""
    import asyncio
    import signal

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):  # else the temporary folder would stay
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _what_next(scenario: str, *, sized: bool, keep: bool) -> list[str]:
    """What has not just been done."""
    from importlib.resources import files

    if scenario != "brown-out":
        suggestions = {"demo --scenario brown-out": "the platform fails for a while"}
    else:
        suggestions = {"demo --scenario slow": "the platform takes seconds for a reply"}
    if not sized:
        suggestions["demo --events 20000"] = "many charges at once"
    if not keep:
        suggestions["demo --keep"] = "stays up, to look around"
    suggestions["run --help"] = "on your own Kafka and platform"
    return [
        "",
        "What next:",
        *(f"  {this_command()} {command:<27} {words}" for command, words in suggestions.items()),
        f"The rules that decided: {files('consumer.sandbox') / 'demo-rules.yaml'}",
    ]
