"""The command line: exit codes, one line an error, what it loads, how it stops."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer import __version__, cli, logs
from consumer.cli.run import serve
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, Problem, RefusedError
from consumer.topics import COMMANDS as WITH_RIGHTS

COMMANDS = [
    "run",
    "topics",
    "draft",
    "check",
    "test",
    "explain",
    "diff",
    "probe",
    "schema",
    "outcomes",
    "replay",
    "send",
    "demo",
    "sandbox",
]


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert re.fullmatch(
        rf"charging-coupon {re.escape(__version__)}( \([0-9a-f]{{7,}}(-dirty)?\))?\n", capsys.readouterr().out
    )


@pytest.mark.parametrize("arguments", [("schema", "foo"), ("explain", "rules.yaml", "--format", "foo")])
def test_a_choice_that_is_none_is_told_in_plain_words(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2

    assert ": 'foo' is not one of '" in capsys.readouterr().err


def test_the_version_has_the_commit_that_an_image_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "cli" / "__init__.py"))
    assert exit_code("--version") == 0
    (tmp_path / "COMMIT").write_text("1a2b3c4\n", "utf-8")
    assert exit_code("--version") == 0

    unknown, stamped = capsys.readouterr().out.splitlines()
    assert (unknown, stamped) == (
        f"charging-coupon {__version__}",
        f"charging-coupon {__version__} (1a2b3c4)",
    )


def test_help_names_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0

    text = capsys.readouterr().out
    for word in (*COMMANDS, "Exit codes", "130 interrupted"):
        assert word in text


def test_without_a_command_the_help_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code() == 2

    printed = capsys.readouterr()
    assert (printed.out, printed.err.startswith("Usage: charging-coupon")) == ("", True)


def test_every_commands_summary_fits_on_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code("--help") == 0

    listed = re.findall(
        r"^  ([a-z]+) +(\S.*)$", capsys.readouterr().out.split("Commands:")[1].split("\n\n")[0], re.MULTILINE
    )
    assert len(listed) == len(cli.app.registered_commands)
    assert [line for _, line in listed if len(line) > 60 or not line.endswith(".") or "..." in line] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, "--help") == 0

    assert f"Example: charging-coupon {command} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_that_can_be_left_out_stands_in_one_pair_of_brackets(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(command, "--help") == 0

    usage = capsys.readouterr().out.split("\n\n")[0]
    assert "[[" not in usage


def test_every_command_is_listed_in_the_tests_above() -> None:
    names = {
        command.name or command.callback.__name__
        for command in cli.app.registered_commands
        if command.callback
    }

    assert names == set(COMMANDS)


def test_the_shell_completes_commands() -> None:
    asked = {
        "_CHARGING_COUPON_COMPLETE": "complete_bash",
        "COMP_WORDS": "charging-coupon to",
        "COMP_CWORD": "1",
    }
    code = "from consumer import cli; cli.main([])"

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["topics"]


def test_an_unknown_option_is_wrong_configuration() -> None:
    assert exit_code("run", "--speed", "9") == 2


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (
            ConfigurationError([Problem("a:1", "is bad", "mend it"), Problem("b:2", "is too", "mend it")]),
            2,
            ["error: a:1: is bad; mend it", "error: b:2: is too; mend it"],
        ),
        (BrokerUnavailableError("kafka:9092 does not answer"), 3, ["error: kafka:9092 does not answer"]),
        (RefusedError("no right to write"), 4, ["error: no right to write"]),
        (
            ValueError("two\nlines"),
            1,
            ["error: unexpected ValueError: two lines; `charging-coupon --debug ...` shows where"],
        ),
    ],
    ids=["configuration", "unavailable", "refused", "unexpected"],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: Exception,
    code: int,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "app", failing_with(error))

    assert exit_code("run") == code
    assert capsys.readouterr().err.splitlines() == lines


def test_debug_shows_where_an_error_came_from_and_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", failing_with(RefusedError("no")))

    assert exit_code("--debug", "run") == 4
    first, *_, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("Traceback (most recent call last):", "consumer.core.errors.RefusedError: no")


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("options", [(), ("--debug",)], ids=["a line", "a traceback"])
@pytest.mark.parametrize(
    "kind", [ValueError, RefusedError, lambda text: ConfigurationError([Problem("a:1", text, "mend it")])]
)
def test_no_error_shows_a_secret_in_use_or_a_whole_plate(
    options: tuple[str, ...],
    kind: Callable[[str], Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(hide=["the app's secret"])
    monkeypatch.setattr(cli, "app", failing_with(kind("sign of (粤B12345) with the app's secret")))

    exit_code(*options, "run")

    told = capsys.readouterr().err
    assert "sign of (***) with ***" in told
    assert "粤B12345" not in told
    assert "the app's secret" not in told


def failing_with(error: BaseException) -> Any:
    def app(*_: object, **__: object) -> None:
        raise error

    return app


def test_all_mistakes_in_the_settings_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("CHARGING_COUPON")]:
        monkeypatch.delenv(name)
    file = tmp_path / "settings.yaml"
    file.write_text("kafka:\n  bootstrap_server: x\n", "utf-8")

    assert exit_code("run", "--settings", str(file)) == 2
    assert (
        f"error: {file}:2:3: there is no setting kafka.bootstrap_server; did you mean kafka.bootstrap_servers?"
        in capsys.readouterr().err.splitlines()
    )


SETTINGS = """\
kafka:
  bootstrap_servers: [kafka-1:9092, kafka-2:9092]
  topics: {events: [charging-completed], outcomes_retention: 36h}
rules: rules.yaml
secrets: {lot-a: the app's secret}
privacy: {plates: clear}
"""

RULES = """\
version: 1
accounts: {main: {app_id: app-1, secret: lot-a, api_type: "5"}}
sources: {charging: {extends: canonical}}
rules: [{name: none, when: seconds > 60, skip: policy}]
tests: [{name: nothing, event: {}, expect: {outcome: invalid}}]
"""


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("CHARGING_COUPON")]:
        monkeypatch.delenv(name)
    file = tmp_path / "settings.yaml"
    file.write_text(SETTINGS, "utf-8")
    (tmp_path / "rules.yaml").write_text(RULES, "utf-8")
    return file


def test_the_settings_in_force_are_printed_with_their_places_and_without_secrets(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHARGING_COUPON__SETTINGS", str(settings_file))
    monkeypatch.setenv("CHARGING_COUPON__LOG__LEVEL", "debug")

    assert exit_code("run", "--print-settings") == 0

    printed = capsys.readouterr().out
    settings, rules = printed.split("\n\n")
    rows = {row.split()[0]: row.split()[1:] for row in settings.splitlines()}
    assert rows["kafka.bootstrap_servers"] == ["kafka-1:9092,", "kafka-2:9092", f"{settings_file}:2:3"]
    assert rows["kafka.topics.outcomes_retention"] == ["36h", f"{settings_file}:3:42"]
    assert rows["log.level"] == ["debug", "CHARGING_COUPON__LOG__LEVEL"]
    assert rows["gateway.max_response_size"] == ["64KiB", "default"]
    assert rows["kafka.security.password"] == ["kafka_password", "(name", "of", "a", "secret)", "default"]
    assert rows["secrets.lot_a"] == ["***", f"{settings_file}:5:11"]
    assert rows["retries.delays"] == ["1m,", "5m,", "30m", "default"]
    assert "the app's secret" not in printed
    heads, hashed, *counted = [re.split("  +", row, maxsplit=1) for row in rules.splitlines()]
    assert heads == ["RULES", "IN FORCE"]
    assert re.fullmatch("[0-9a-f]{12}", hashed[1])
    assert counted == [
        ["accounts", "1: main"],
        ["sources", "1: charging"],
        ["rules", "1"],
        ["tests", "1 passed"],
    ]


def test_an_empty_list_is_a_dash_and_a_variable_that_sets_nothing_is_warned_of(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHARGING_COUPON__RETRIES__DELAYS", "")
    monkeypatch.setenv("CHARGING_COUPON_WEB__PORT", "9090")

    assert exit_code("run", "-s", str(settings_file), "--print-settings") == 0

    printed = capsys.readouterr()
    rows = {row.split()[0]: row.split()[1:] for row in printed.out.splitlines() if row}
    assert rows["retries.delays"] == ["-", "CHARGING_COUPON__RETRIES__DELAYS"]
    assert rows["web.port"] == ["8080", "default"]
    assert printed.err == (
        "warning: CHARGING_COUPON_WEB__PORT: sets nothing; did you mean CHARGING_COUPON__WEB__PORT?\n"
    )


def test_a_topic_that_a_source_names_and_the_settings_do_not_is_warned_of(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "sources: {other: {extends: canonical, topics: [charging-completed, huabei-orders]}, "
    settings_file.with_name("rules.yaml").write_text(
        RULES.replace("sources: {", more).replace("event: {}", "source: other, event: {}"), "utf-8"
    )

    assert exit_code("run", "-s", str(settings_file), "--print-settings") == 0

    assert capsys.readouterr().err == (
        "warning: sources.other.topics: huabei-orders is not in kafka.topics.events; "
        "put it into kafka.topics.events, unless another service reads it by these rules\n"
    )


def test_the_settings_in_force_are_printed_for_machines(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("run", "-s", str(settings_file), "--print-settings", "--format", "json") == 0

    told = json.loads(capsys.readouterr().out)
    rows = told["settings"]
    found = {each["setting"]: (each["value"], each["source"]) for each in rows}
    assert [each["setting"] for each in rows if each["names_secret"]] == [
        "kafka.security.password",
        "kafka.security.oauth.client_secret",
    ]
    assert found["kafka.topics.events"] == (["charging-completed"], f"{settings_file}:3:12")
    assert found["web.port"] == (8080, "default")
    assert found["secrets_dir"] == (None, "default")
    assert {name: value for name, value in told["rules"].items() if name != "hash"} == {
        "accounts": ["main"],
        "sources": ["charging"],
        "rules": 1,
        "tests_passed": 1,
    }


@pytest.mark.parametrize("options", [(), ("--print-settings",)])
def test_mistakes_in_settings_and_rules_are_shown_together(
    options: tuple[str, ...], settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_file.write_text(SETTINGS + "web: {port: http}\n", "utf-8")
    rules = settings_file.with_name("rules.yaml")
    rules.write_text(RULES.replace("canonical", "canonicl"), "utf-8")

    assert exit_code("run", "-s", str(settings_file), *options) == 2

    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        f"{settings_file}:7:7",
        f"{rules}:3:31",
    ]


def test_the_rights_that_the_service_needs_are_listed_without_asking_kafka(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file), "--acls", "--principal", "User:CN=a b") == 0

    table, run, itself = capsys.readouterr().out.split("\n\n")
    rows = [row.split()[:2] for row in table.splitlines()]
    topics = [["run", "topic"]] * 6
    assert rows == [
        ["FOR", "RESOURCE"], *topics, ["run", "group"], ["run", "transactional-id"], *[["topics", "topic"]] * 6,
    ]  # fmt: skip  # a line is enough
    assert run.splitlines()[0] == "# for charging-coupon run"
    assert run.splitlines()[-1] == (
        "kafka-acls.sh --bootstrap-server kafka-1:9092,kafka-2:9092 --add --allow-principal 'User:CN=a b' "
        "--operation Write --operation Describe --transactional-id charging-coupon/ "
        "--resource-pattern-type prefixed"
    )
    assert itself.splitlines()[0] == "# for charging-coupon topics"
    assert itself.splitlines()[1].endswith(
        "--operation Describe --operation DescribeConfigs --topic charging-completed"
    )


def test_the_rights_are_listed_for_machines_and_for_the_command_itself(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file), "--acls", "--create", "--format", "json") == 0

    found = json.loads(capsys.readouterr().out)
    assert [(each["for"], each["operations"]) for each in found if each["name"] == "coupon-outcomes"] == [
        ("run", ["Write", "Describe"]),
        ("topics", ["Create", "Describe", "DescribeConfigs"]),
    ]
    assert {each["pattern"] for each in found if each["resource"] == "transactional-id"} == {"prefixed"}


def test_the_rights_go_to_the_configured_user(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file), "--acls") == 0
    nobody = capsys.readouterr().out
    secure = "{protocol: sasl_ssl, mechanism: PLAIN, username: parking}"
    settings_file.write_text(
        f"kafka: {{bootstrap_servers: [kafka-1:9092], topics: {{events: [charges]}}, security: {secure}}}",
        "utf-8",
    )
    assert exit_code("topics", "-s", str(settings_file), "--acls") == 0
    parking = capsys.readouterr().out

    granted = [set(re.findall(r"--allow-principal (\S+)", told)) for told in (nobody, parking)]
    assert granted == [{"User:charging-coupon"}, {"User:parking"}]


def test_to_list_the_rights_no_rules_secrets_or_certificates_are_needed(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secure = "{protocol: sasl_ssl, ca_file: elsewhere.pem, mechanism: PLAIN, username: us}"
    settings_file.write_text(
        f"kafka: {{bootstrap_servers: [kafka-1:9092], topics: {{events: [charges]}}, security: {secure}}}",
        "utf-8",
    )

    assert exit_code("topics", "-s", str(settings_file), "--acls") == 0
    assert exit_code("topics", "-s", str(settings_file), "--plan") == 0
    assert exit_code("topics", "-s", str(settings_file)) == 2

    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("kafka-")]
    config = " --bootstrap-server kafka-1:9092 --command-config client.properties "
    assert [line for line in lines if config not in line] == []
    assert {line.split()[0] for line in lines} == {"kafka-acls.sh", "kafka-topics.sh"}
    told = printed.err.splitlines()
    assert [line.split()[2] for line in told] == ["kafka.security.password", "kafka.security.ca_file"]


def test_the_rights_of_all_commands_are_listed_together(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [word for each in WITH_RIGHTS for word in ("--for", each)]
    options = ("--acls", "--create", *commands, "--principal", "Group:us")
    assert exit_code("topics", "-s", str(settings_file), *options) == 0

    printed = capsys.readouterr()
    table, *sections = printed.out.split("\n\n")
    assert {row.split()[0] for row in table.splitlines()[1:]} == set(WITH_RIGHTS)
    assert "Create" in table
    assert [section.splitlines()[0] for section in sections] == [
        f"# for charging-coupon {each}" for each in WITH_RIGHTS
    ]
    assert printed.err == "warning: Kafka's own authoriser knows only User, not Group: another one has to\n"


def test_the_rights_of_one_command_are_listed_alone(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = ("topics", "-s", str(settings_file), "--acls", "--format", "json", "--for")
    assert exit_code(*listed, "outcomes") == 0
    found = json.loads(capsys.readouterr().out)
    assert exit_code(*listed, "outcome") == 2

    names = ["coupon-outcomes", *(f"coupon-retries.{delay}" for delay in ("1m", "5m", "30m"))]
    assert [(each["for"], each["name"], each["operations"]) for each in found] == [
        ("outcomes", name, ["Read", "Describe"]) for name in names
    ]
    assert capsys.readouterr().err == (
        "error: --for: 'outcome' is none; it is one of run, topics, replay, outcomes, explain, diff, send\n"
    )


def test_a_plan_says_how_each_topic_is_to_be_made_without_asking_kafka(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file), "--plan") == 0

    table, lines = capsys.readouterr().out.split("\n\n")
    rows = [row.split()[:3] for row in table.splitlines() if row.startswith("coupon-outcomes ")]
    assert rows[1:] == [
        ["coupon-outcomes", "partitions", "3"],
        ["coupon-outcomes", "cleanup.policy", "delete"],
        ["coupon-outcomes", "retention.ms", "129600000"],
        ["coupon-outcomes", "max.message.bytes", "1048588"],
        ["coupon-outcomes", "replication", "3"],
        ["coupon-outcomes", "min.insync.replicas", "2"],
        ["coupon-outcomes", "segment.ms", "86400000"],
    ]
    assert lines.splitlines()[1] == "# charging-completed is whose charges they are: have it created"
    assert lines.splitlines()[2] == (
        "kafka-topics.sh --bootstrap-server kafka-1:9092,kafka-2:9092 --create --if-not-exists "
        "--topic coupon-outcomes --partitions 3 --replication-factor 3 --config cleanup.policy=delete "
        "--config retention.ms=129600000 --config max.message.bytes=1048588 --config min.insync.replicas=2 "
        "--config segment.ms=86400000"
    )
    assert len(lines.splitlines()) == 2 + 2 + 3


def test_with_events_a_plan_has_the_events_topics_too(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file), "--plan", "--events") == 0
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert exit_code("topics", "-s", str(settings_file), "--plan", "--events", "--format", "json") == 0
    events, *_ = json.loads(capsys.readouterr().out)

    assert lines[1] == (
        "kafka-topics.sh --bootstrap-server kafka-1:9092,kafka-2:9092 --create --if-not-exists "
        "--topic charging-completed --partitions 3 --replication-factor 3 "
        "--config cleanup.policy=delete --config min.insync.replicas=2"
    )
    assert events["created_by"] == "topics --create --events"
    assert [each["name"] for each in events["properties"]] == [
        "partitions",
        "replication",
        "min.insync.replicas",
    ]


def test_a_plan_is_printed_for_machines(settings_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("topics", "-s", str(settings_file), "--plan", "--format", "json") == 0

    events, outcomes, *_ = json.loads(capsys.readouterr().out)
    assert (events["topic"], events["created_by"], events["properties"]) == ("charging-completed", None, [])
    assert outcomes["properties"][0] == {
        "name": "partitions",
        "value": 3,
        "at_least": True,
        "why": "its readers can share the work",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--for", "replay"), "--for: it goes with --acls"),
        (("--events",), "--events: it goes with --create or --plan"),
        (("--principal", "User:us"), "--principal: it goes with --acls"),
        (("--missing-only", "--acls"), "--missing-only: it goes with a look at Kafka"),
        (("--missing-only", "--plan"), "--missing-only: it goes with a look at Kafka"),
        (("--plan", "--create"), "--plan: it asks no Kafka, and prints topics only; leave out --create"),
        (("--plan", "--acls"), "--plan: it asks no Kafka, and prints topics only; leave out --acls"),
    ],
)
def test_options_of_topics_that_do_not_go_together_are_refused(
    options: tuple[str, ...], said: str, settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file), *options) == 2

    assert said in capsys.readouterr().err


@pytest.mark.parametrize("principal", ["user:charging", "charging", ":charging", "User:", "User: ", ""])
def test_whoever_gets_the_rights_is_named_with_a_type(
    principal: str, settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file), "--acls", "--principal", principal) == 2

    assert f"{principal!r} is not TYPE:NAME; write it like User:charging-coupon" in capsys.readouterr().err


def test_asking_for_help_loads_nothing_heavy() -> None:
    code = "import sys, consumer.cli; print(sorted({'aiokafka', 'aiohttp', 'cel_expr_python', 'pydantic', 'structlog', 'rich.console'} & set(sys.modules)))"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_service_loads_nothing_large_that_it_can_do_without() -> None:
    """Each is megabytes of every member's memory; what needs one loads it then."""
    code = (
        "import sys; from consumer.cli import run; run.load_structlog();"
        "import consumer.service, consumer.rulebook, consumer.logs;"
        "print(sorted({'aiohttp', 'opentelemetry', 'pygments', 'rich'} & set(sys.modules)))"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


class StoppableService:
    """Runs until it is stopped, and then asks for a signal once more, if the test wants it."""

    def __init__(self, number: signal.Signals, *, again: bool = False) -> None:
        self.number, self.again = number, again
        self.stopped = self.reloaded = 0
        self._told = asyncio.Event()

    def stop(self) -> None:
        self.stopped += 1
        self._told.set()

    def reload(self) -> None:
        self.reloaded += 1
        self._told.set()

    async def run(self) -> None:
        os.kill(os.getpid(), self.number)
        await self._told.wait()
        if self.again:
            os.kill(os.getpid(), self.number)
            await asyncio.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_and_waits_for_its_end(number: signal.Signals) -> None:
    service: Any = StoppableService(number)

    serve(service)

    assert service.stopped == 1


def test_sighup_has_the_rules_read_again_and_stops_nothing() -> None:
    service: Any = StoppableService(signal.SIGHUP)

    serve(service)

    assert (service.reloaded, service.stopped) == (1, 0)


def test_a_second_interrupt_does_not_wait() -> None:
    service: Any = StoppableService(signal.SIGINT, again=True)

    with pytest.raises(KeyboardInterrupt):
        serve(service)

    assert service.stopped == 1


def test_an_interrupted_command_exits_as_shells_expect() -> None:
    code = (
        "import os, signal, sys; from consumer import cli\n"
        "@cli.app.command()\n"
        "def wait() -> None: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main(['wait'])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 130


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "consumer", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith(f"charging-coupon {__version__}")


def test_what_a_locale_has_no_letters_for_is_printed_as_an_escape() -> None:
    code = (
        'from consumer import cli\n@cli.app.command()\ndef say() -> None: print(\'{"plate":"粤B"}\')\n'
        "cli.main(['say'])"
    )
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environ)

    assert done.stdout == b'{"plate":"\\u7ca4B"}\n'


def test_where_a_sandbox_cannot_be_it_says_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert exit_code("sandbox", "--port", str(port)) == 2
    assert exit_code("sandbox", "--port", "0", "--journal", str(tmp_path / "none" / "journal")) == 2

    of_port, of_journal = capsys.readouterr().err.splitlines()
    assert of_port.startswith(f"error: --port: cannot listen on 127.0.0.1, port {port}: ")
    assert of_port.endswith("; free it, or name another --port or --host")
    assert of_journal == (
        f"error: --journal: {tmp_path}/none/journal cannot be used: No such file or directory; name another file"
    )
