"""`charging-coupon run`: the service, until it is told to stop. Reads files, starts the event loop."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.common import Format, FormatOption, SettingsFile, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from consumer.service import Service


def run(
    *,
    settings: SettingsFile = None,
    print_settings: Annotated[
        bool,
        typer.Option(
            "--print-settings", help="Print what is in force and where each value came from, then end."
        ),
    ] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002  # as the option is called
) -> None:
    """Runs the service: events in, coupons asked for, outcomes out. SIGTERM and SIGINT drain and end it."""
    if print_settings:
        _print_settings(settings, format)
    else:
        serve(_service(settings))


def _print_settings(file: "Path | None", format: Format) -> None:  # noqa: A002  # as the option is called
    from consumer.settings import settings_in_force

    settings = settings_in_force(file)
    if format is Format.JSON:
        found = [{"setting": name, "value": value, "source": source} for name, value, source in settings]
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    rows = [(name, _text(value), source) for name, value, source in settings]
    print_table(("SETTING", "VALUE", "FROM"), rows)


def _text(value: str | float | list[str] | None) -> str:
    match value:
        case None:
            return "-"
        case list():
            return ",".join(value)
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _service(file: "Path | None") -> "Service":
    """From settings, rules and secrets that are all right, and fit together; else all that is wrong."""
    from consumer import logs, rulebook, selfcheck
    from consumer.connection import secrets_in_use
    from consumer.core.errors import ConfigurationError, Problem
    from consumer.service import Service
    from consumer.settings import load_settings

    selfcheck.check()
    chosen = load_settings(file)
    rules = rulebook.load(chosen.rules)
    secrets = [account.secret for account in rules.accounts.values()]
    problems: list[Problem] = []
    try:
        chosen.check_secrets(secrets)
    except ConfigurationError as error:
        problems += error.problems
    try:
        service = Service(chosen, rules=rules, registry=None)
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))
    hide = [
        *map(chosen.secret, secrets),
        *secrets_in_use(chosen.kafka, chosen.secret),
        chosen.plate_privacy().hash_key.decode(),
    ]
    logs.configure(chosen.log.level, chosen.log.format, hide=hide)
    return service


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
