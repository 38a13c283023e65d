"""`charging-coupon topics`: the topics and rights that the service needs. Talks to Kafka, unless asked for rights."""

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.common import Format, FormatOption, SettingsFile, keep_logs_quiet, print_table

if TYPE_CHECKING:
    from consumer.settings import Settings
    from consumer.topics import Finding, Right


RIGHTS_DEPEND_ON = ("kafka.bootstrap_servers", "kafka.topics", "kafka.group_id", "retries.delays")
TOPICS_DEPEND_ON = ("kafka", "retries.delays")


def _principal(text: str) -> str:
    if re.fullmatch(r"[A-Za-z]\w*:\S(.*\S)?", text) is None:
        raise typer.BadParameter(f"{text!r} is not TYPE:NAME; write it like User:charging-coupon")
    return text


def topics(
    *,
    settings: SettingsFile = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create what is missing. What is there is never changed.")
    ] = False,
    acls: Annotated[
        bool,
        typer.Option(
            "--acls",
            help="List the rights (ACLs) that `run` and this command need, with kafka-acls.sh lines; asks no Kafka.",
        ),
    ] = False,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="With --acls: the rights that `charging-coupon replay` needs instead."),
    ] = False,
    principal: Annotated[
        str,
        typer.Option(callback=_principal, help="Whom --acls grants the rights to.", metavar="TYPE:NAME"),
    ] = "User:charging-coupon",
    format: FormatOption = Format.TABLE,  # noqa: A002  # as the option is called
) -> None:
    """Checks the topics that the service needs, and creates those of its own that are missing.

    Events topics are only looked for. Exits 0 when all is as recommended, 1 when something is
    missing or differs. It needs the rights Describe and DescribeConfigs on all of them, and with
    --create also Create. Of the settings it reads kafka, retries and guarantee; for --acls no
    secret or certificate has to be there.
    """
    from consumer.settings import load_settings
    from consumer.topics import command_rights, replay_rights, rights

    if replay and not acls:
        raise typer.BadParameter("it goes with --acls", param_hint="--replay")
    chosen = load_settings(settings, needed=RIGHTS_DEPEND_ON if acls else TOPICS_DEPEND_ON)
    if acls:
        needed = {"run": rights(chosen), "topics": command_rights(chosen, create=create)}
        _print_rights(chosen, {"replay": replay_rights(chosen)} if replay else needed, principal, format)
        return
    keep_logs_quiet()
    created, findings = _look(chosen, create=create)
    _print_findings(created, findings, format)
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


def _print_rights(
    settings: "Settings",
    needed: "dict[str, list[Right]]",
    principal: str,
    format: Format,  # noqa: A002  # as the option is called
) -> None:
    """By the command that needs them."""
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
    servers = ",".join(settings.kafka.bootstrap_servers)
    for command, rights in needed.items():
        print(f"\n# for charging-coupon {command}")
        for right in rights:
            print(right.command(servers, principal))


def _look(settings: "Settings", *, create: bool) -> "tuple[tuple[str, ...], list[Finding]]":
    """What was created, and what is so now."""
    import asyncio

    from rich.console import Console

    from consumer.connection import arguments, reach
    from consumer.topics import compare, ensure_topics, look, plan

    kafka = settings.kafka
    servers = ",".join(kafka.bootstrap_servers)
    options = arguments(kafka, settings.secret)
    plans = plan(settings)

    async def looked() -> "tuple[tuple[str, ...], list[Finding]]":
        created: tuple[str, ...] = ()
        await reach(options)
        cluster = await look(options, [topic.name for topic in plans])
        missing = [topic for topic in plans if topic.ours and topic.name not in cluster.topics]
        if create and missing:
            report = await ensure_topics(
                options, {topic.name: topic.spec(cluster.brokers) for topic in missing}
            )
            created = report.created
            cluster = await look(options, [topic.name for topic in plans])
        return created, compare(plans, cluster, servers)

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
