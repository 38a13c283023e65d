"""`charging-coupon run`: the service, until it is told to stop. Reads files, starts the event loop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from consumer.service import Service


def run(
    *,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            "-s",
            envvar="CHARGING_COUPON_SETTINGS",
            help="Settings file (YAML). The environment (CHARGING_COUPON__...) wins over it.",
        ),
    ] = None,
) -> None:
    """Runs the service: events in, coupons asked for, outcomes out. SIGTERM and SIGINT drain and end it."""
    from consumer import logs, rulebook
    from consumer.service import Service
    from consumer.settings import load_settings

    chosen = load_settings(settings)
    rules = rulebook.load(chosen.rules)
    secrets = [account.secret for account in rules.accounts.values()]
    chosen.check_secrets(secrets)
    hide = [*map(chosen.secret, secrets), chosen.plate_privacy().hash_key.decode()]
    logs.configure(chosen.log.level, chosen.log.format, hide=hide)
    serve(Service(chosen, rules=rules, registry=None))


def serve(service: "Service") -> None:
    """Runs the service on the fastest event loop there is."""
    import asyncio

    try:
        import uvloop
    except ImportError:  # not on Windows
        new_event_loop = None
    else:
        new_event_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_until_told_to_stop(service))


async def _until_told_to_stop(service: "Service") -> None:
    import asyncio
    import signal

    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)  # a second one ends the process at once
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await service.run()
