"""`charging-coupon run`: the service, until it is told to stop. Reads files, starts the event loop."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.common import Format, FormatOption, SettingsFile, once_told_to_stop, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from consumer.service import Service
    from consumer.settings import InForce, Reading


def run(
    *,
    settings: SettingsFile = None,
    print_settings: Annotated[
        bool,
        typer.Option(
            "--print-settings",
            help="Check settings and rules, print what is in force and where each value came from, then end.",
        ),
    ] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002  # as the option is called
) -> None:
    """Runs the service: events in, coupons asked for, outcomes out.

    SIGTERM and SIGINT drain and end it; SIGHUP has it read the rules at once.
    """
    load_structlog()
    import structlog

    from consumer import eventloop

    reading, service = _checked(settings)
    if print_settings:
        for warning in (*reading.warnings, *service.unread_topics()):
            print(f"warning: {warning}", file=sys.stderr)
        _print_in_force(reading.in_force(), service, format)
        return
    for warning in reading.warnings:
        structlog.get_logger(__name__).warning("settings.variable_ignored", problem=str(warning))
    eventloop.prepare_memory()
    serve(service)


def load_structlog() -> None:
    """Without rich, which it would load for tracebacks that nobody asks it for: a twentieth of the service's memory."""
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # "importing it fails": the import system's own word
    try:
        import structlog  # noqa: F401  # to have it loaded
    finally:
        del sys.modules["rich"]


def _print_in_force(settings: "list[InForce]", service: "Service", format: Format) -> None:  # noqa: A002  # as the option is called
    from consumer import rulebook

    rules = service.rules
    compilation, _ = rulebook.compiled(service.settings.rules)
    tests = sum(1 for _ in compilation.cases(rules))  # all of them passed: else it would not have been loaded
    if format is Format.JSON:
        rows = [
            {
                "setting": each.name,
                "value": each.value,
                "source": each.source,
                "names_secret": each.names_secret,
            }
            for each in settings
        ]
        in_force = {
            "hash": rules.hash,
            "accounts": list(rules.accounts),
            "sources": [source.name for source in rules.sources],
            "rules": len(rules.rules),
            "tests_passed": tests,
        }
        print(json.dumps({"settings": rows, "rules": in_force}, ensure_ascii=False, indent=2))
        return
    print_table(
        ("SETTING", "VALUE", "FROM"),
        [
            (each.name, _text(each.value) + " (name of a secret)" * each.names_secret, each.source)
            for each in settings
        ],
    )
    print()
    print_table(
        ("RULES", "IN FORCE"),
        [
            ("hash", rules.hash),
            ("accounts", _counted(list(rules.accounts))),
            ("sources", _counted([source.name for source in rules.sources])),
            ("rules", str(len(rules.rules))),
            ("tests", f"{tests} passed" if tests else "none; add some under `tests:`"),
        ],
    )


def _counted(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "none"


def _text(value: str | float | list[str] | None) -> str:
    match value:
        case None:
            return "-"
        case list():
            return ", ".join(value) or "-"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _checked(file: "Path | None") -> "tuple[Reading, Service]":
    """Settings, rules and secrets that are all right, and fit together; else all that is wrong."""
    from consumer import logs, rulebook, selfcheck
    from consumer.connection import secrets_in_use
    from consumer.core.errors import ConfigurationError, Problem
    from consumer.service import Service
    from consumer.settings import RULES_PATH, STARTER, read_settings

    selfcheck.check()
    reading = read_settings(file)
    chosen = reading.settings
    problems: list[Problem] = list(reading.problems)
    service = None
    try:
        if reading.usable("rules"):
            remedy = f"rules ({reading.place('rules')}) is to be {RULES_PATH}; {STARTER}"
            files = rulebook.Files(chosen.rules, remedy)
            rules = rulebook.load_files(files)
            if reading.usable("secrets", "secrets_dir", "kafka.topics"):
                problems += chosen.missing_secrets([account.secret for account in rules.accounts.values()])
                service = Service(chosen, rules=rules, files=files)
    except ConfigurationError as error:
        problems += error.problems
    if problems or service is None:
        raise ConfigurationError(list(dict.fromkeys(problems)))
    hide = [
        *service.secrets,
        *secrets_in_use(chosen.kafka, chosen.secret),
        chosen.plate_privacy().hash_key.decode(),
    ]
    logs.configure(chosen.log.level, chosen.log.format, hide=hide)
    return reading, service


def serve(service: "Service") -> None:
    """Runs the service until it is told to stop."""
    from consumer import eventloop

    eventloop.run(_until_told_to_stop(service))


async def _until_told_to_stop(service: "Service") -> None:
    import asyncio
    import signal

    once_told_to_stop(service.stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.reload)
    await service.run()
