"""`charging-coupon topics`: the topics and rights that the service needs. Talks to Kafka, unless asked for a plan or rights."""

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.common import Format, FormatOption, SettingsFile, keep_logs_quiet, known_names, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consumer.settings import Settings
    from consumer.topics import Command, Finding, Right, TopicPlan


RIGHTS_DEPEND_ON = ("kafka.bootstrap_servers", "kafka.topics", "kafka.group_id", "retries.delays")
TOPICS_DEPEND_ON = ("kafka", "retries.delays")
PRINCIPAL = "User:charging-coupon"
PLANNED_BROKERS = 3
"""That a plan is for: from three on, nothing changes."""


def _principal(text: str | None) -> str | None:
    if text is not None and re.fullmatch(r"[A-Z]\w*:\S(.*\S)?", text) is None:
        raise typer.BadParameter(f"{text!r} is not TYPE:NAME; write it like {PRINCIPAL}")
    return text


def topics(
    *,
    settings: SettingsFile = None,
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            help="Create what is missing; what is there is never changed. With --acls: add the rights to do so.",
        ),
    ] = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="With --create and --plan: the events topics, too, for a trial; else these are left to whose charges they are.",
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Say how each topic is to be made and why, with kafka-topics.sh lines; asks no Kafka.",
        ),
    ] = False,
    acls: Annotated[
        bool,
        typer.Option(
            "--acls",
            help="List the rights (ACLs) that commands need, with kafka-acls.sh lines; asks no Kafka.",
        ),
    ] = False,
    commands: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            help="With --acls: whose rights: run, topics, replay, outcomes, explain, diff or send. Repeatable.",
            metavar="COMMAND",
            show_default="run and topics",
        ),
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(
            callback=_principal,
            help="With --acls: whom the rights are granted to.",
            metavar="TYPE:NAME",
            show_default=f"User: and kafka.security.username; without one {PRINCIPAL}",
        ),
    ] = None,
    missing_only: Annotated[
        bool,
        typer.Option(
            "--missing-only",
            help="Only a topic that is missing makes it exit with 1; what differs is told all the same.",
        ),
    ] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002  # as the option is called
) -> None:
    """Checks the topics that the service needs, and creates those of its own that are missing.

    Events topics are only looked for, unless --events says otherwise. Exits 0 when all is as recommended, 1 when something is
    missing or differs; with --missing-only a difference is no reason. It needs the rights Describe and DescribeConfigs on all of them, and with
    --create also Create. Of the settings it reads kafka, retries and guarantee; for --plan and
    --acls no secret or certificate has to be there.
    """
    from consumer import topics as wanted
    from consumer.core.errors import ConfigurationError, Problem
    from consumer.settings import load_settings

    for option, given in (("--for", bool(commands)), ("--principal", principal is not None)):
        if given and not acls:
            raise typer.BadParameter("it goes with --acls", param_hint=option)
    if events and not (create or plan):
        raise typer.BadParameter("it goes with --create or --plan", param_hint="--events")
    problems: list[Problem] = []
    asked = known_names(problems, "--for", commands or ("run", "topics"), wanted.COMMANDS)
    if problems:
        raise ConfigurationError(problems)
    if plan and (acls or create):
        other = "--acls" if acls else "--create"
        raise typer.BadParameter(
            f"it asks no Kafka, and prints topics only; leave out {other}", param_hint="--plan"
        )
    if missing_only and (plan or acls):
        raise typer.BadParameter("it goes with a look at Kafka", param_hint="--missing-only")
    chosen = load_settings(settings, needed=RIGHTS_DEPEND_ON if acls or plan else TOPICS_DEPEND_ON)
    if plan:
        plans = [(topic, topic.ours or events) for topic in wanted.plan(chosen)]
        _print_plan(plans, wanted.tool_options(chosen), format)
        return
    if acls:
        needed = {
            each: wanted.rights(chosen, each, create=create, events=events)
            for each in wanted.COMMANDS
            if each in asked
        }
        username = chosen.kafka.security.username
        ours = PRINCIPAL if username is None else f"User:{username}"
        _print_rights(needed, wanted.tool_options(chosen), principal or ours, format)
        return
    keep_logs_quiet()
    created, findings = _look(chosen, create=create, events=events)
    _print_findings(created, findings, format)
    if any(finding.missing if missing_only else not finding.fine for finding in findings):
        raise typer.Exit(1)


def _print_plan(plans: "list[tuple[TopicPlan, bool]]", options: str, format: Format) -> None:  # noqa: A002  # as the option is called
    """Each with whether it is ours to make: topics of others without properties, which are theirs to choose."""
    from consumer.topics import readable

    if format is Format.JSON:
        found = [
            {
                "topic": topic.name,
                "why": topic.why,
                "created_by": f"topics --create{' --events' * (not topic.ours)}" if made else None,
                "properties": [
                    {"name": want.name, "value": want.value, "at_least": want.at_least, "why": want.why}
                    for want in (topic.creation(PLANNED_BROKERS) if made else ())
                ],
            }
            for topic, made in plans
        ]
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    rows = [("TOPIC", "PROPERTY", "VALUE", "WHY")]
    for topic, made in plans:
        rows.append((topic.name, "", "", topic.why))
        rows += [
            (
                topic.name,
                want.name,
                readable(want.name, str(want.value)) + " or more" * want.at_least,
                want.why,
            )
            for want in (topic.creation(PLANNED_BROKERS) if made else ())
        ]
    print_table(rows[0], rows[1:])
    print(
        f"\n# for {PLANNED_BROKERS} brokers or more; `charging-coupon topics --create` does the same, for as many as there are"
    )
    for topic, made in plans:
        print(
            topic.command(options, PLANNED_BROKERS)
            if made
            else f"# {topic.name} is whose charges they are: have it created"
        )


def _print_rights(
    needed: "Mapping[Command, list[Right]]",
    options: str,
    principal: str,
    format: Format,  # noqa: A002  # as the option is called
) -> None:
    """By the command that needs them."""
    if not principal.startswith("User:"):
        kind = principal.partition(":")[0]
        print(
            f"warning: Kafka's own authoriser knows only User, not {kind}: another one has to",
            file=sys.stderr,
        )
    if format is Format.JSON:
        found = [
            {
                "for": command,
                "principal": principal,
                "resource": right.resource,
                "name": right.name,
                "pattern": "prefixed" if right.prefixed else "literal",
                "operations": right.operations,
                "why": right.why,
            }
            for command, rights in needed.items()
            for right in rights
        ]
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    print_table(
        ("FOR", "RESOURCE", "NAME", "OPERATIONS", "WHY"),
        [
            (
                command,
                right.resource,
                right.name + "*" * right.prefixed,
                ", ".join(right.operations),
                right.why,
            )
            for command, rights in needed.items()
            for right in rights
        ],
    )
    for command, rights in needed.items():
        print(f"\n# for charging-coupon {command}")
        for right in rights:
            print(right.command(options, principal))


def _look(settings: "Settings", *, create: bool, events: bool) -> "tuple[tuple[str, ...], list[Finding]]":
    """What was created, and what is so now."""
    import asyncio

    from rich.console import Console

    from consumer.connection import arguments, reach
    from consumer.topics import compare, ensure_topics, look, plan, tool_options

    kafka = settings.kafka
    servers = ",".join(kafka.bootstrap_servers)
    options = arguments(kafka, settings.secret)
    plans = plan(settings)

    async def looked() -> "tuple[tuple[str, ...], list[Finding]]":
        created: tuple[str, ...] = ()
        await reach(options)
        cluster = await look(options, [topic.name for topic in plans])
        missing = [topic for topic in plans if (topic.ours or events) and topic.name not in cluster.topics]
        if create and missing:
            report = await ensure_topics(
                options, {topic.name: topic.spec(cluster.brokers) for topic in missing}
            )
            created = report.created
            cluster = await look(options, [topic.name for topic in plans])
        return created, compare(plans, cluster, tool_options(settings))

    with Console(stderr=True).status(f"Asking Kafka at {servers}"):  # on a terminal only
        return asyncio.run(looked())


def _print_findings(created: "tuple[str, ...]", findings: "list[Finding]", format: Format) -> None:  # noqa: A002  # as the option is called
    if format is Format.JSON:
        found = [
            {
                "topic": finding.topic,
                "property": finding.name,
                "is": finding.is_,
                "should_be": finding.should_be,
                "fine": finding.fine,
                "why": finding.why,
                "remedy": finding.remedy or None,
            }
            for finding in findings
        ]
        print(json.dumps({"created": created, "findings": found}, ensure_ascii=False, indent=2))
        return
    print_table(
        ("", "TOPIC", "PROPERTY", "IS", "SHOULD BE", "WHY"),
        [
            ("ok" if row.fine else "!!", row.topic, row.name, row.is_, row.should_be, row.why)
            for row in findings
        ],
    )
    if created:
        print(f"\nCreated {', '.join(created)}.")
    wrong = [finding for finding in findings if not finding.fine]
    if wrong:
        print()
    for row in wrong:
        print(
            f"{row.topic}: {row.name} is {row.is_}, where {row.should_be} is needed; {row.remedy}"
            if row.name != "exists"
            else f"{row.topic}: there is no such topic; {row.remedy}"
        )
