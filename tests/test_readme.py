"""The README, and the pages that go on from it, say what is so."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client import CollectorRegistry

import consumer
import tests
from consumer import cli, rulebook
from consumer.connection import arguments
from consumer.core.functions import HELPERS
from consumer.core.outcomes import Outcome, Reason
from consumer.metrics import Metrics
from consumer.rulebook import report
from consumer.rulebook.compilation import preset_names
from consumer.rulebook.model import SkipReason
from consumer.settings import load_settings
from tests.pages import CHART, PAGES, Link, anchor, sections, text
from tests.pki import Authority

README = text("README.md")
RULES = text("schemas/RULES.md")
OPERATIONS = text(f"{CHART}/OPERATIONS.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pages' YAML blocks, each under the name that the text before it gives."""
    blocks = re.findall(r"`([a-z]+\.yaml)`:\n\n```yaml\n(.*?)```", README + RULES + OPERATIONS, re.DOTALL)
    for name, block in blocks:
        (tmp_path / name).write_text(block, "utf-8")
    return tmp_path


def test_its_settings_and_rules_load_and_fit_together(folder: Path) -> None:
    settings = load_settings(
        folder / "settings.yaml",
        {
            "CHARGING_COUPON__SECRETS__MAIN": "s",
            "CHARGING_COUPON__SECRETS__PLATE_HASH": "a key for plates",
            "CHARGING_COUPON__SECRETS_DIR": str(folder),
        },
    )
    rules = rulebook.load(settings.rules)

    assert settings.missing_secrets([account.secret for account in rules.accounts.values()]) == []
    assert all(rules.source_for(topic) is not None for topic in settings.kafka.topics.events)


def test_its_rules_have_nothing_that_would_be_warned_of(folder: Path) -> None:
    assert report.check(folder / "rules.yaml").found == ()


def test_its_warning_is_what_check_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rules = (
        (folder / "rules.yaml")
        .read_text("utf-8")
        .replace("seconds < 600", "seconds < 600 && stop_reason == '3'")
    )
    (folder / "rules.yaml").write_text(rules, "utf-8")
    shown = RULES.split("$ charging-coupon check rules.yaml\n")[1].split("```")[0]

    assert "\n".join(report.in_text(report.check(Path("rules.yaml")), "rules.yaml")) + "\n" == shown


def test_its_five_steps_lead_from_a_message_to_a_tested_rule(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.split("## A new charging platform, in five steps")[1].split("\n### ")[0]
    confirmed = (folder / "first.yaml").read_text("utf-8")
    (folder / "first.yaml").unlink()
    (folder / "message.json").write_text(
        section.split("`message.json`:\n\n```json\n")[1].split("```")[0], "utf-8"
    )
    monkeypatch.chdir(folder)
    steps = re.findall(r"^\$ charging-coupon (.*)\n((?:(?!```|\$ ).*\n)*)", section, re.MULTILINE)

    assert [command.split()[0] for command, _ in steps] == ["draft", "explain", "check", "test"]
    for command, shown in steps:
        with pytest.raises(SystemExit) as ended:
            cli.main(command.split())
        printed = "".join(capsys.readouterr())
        left_out = "(?:.*\n)*"
        assert re.fullmatch(left_out.join(map(re.escape, shown.split("...\n"))), printed), printed
        assert ended.value.code == 0
        if command.startswith("draft"):
            part = section.split("```yaml\n")[1].split("```")[0]
            assert part in (folder / "first.yaml").read_text("utf-8")
            (folder / "first.yaml").write_text(confirmed, "utf-8")


def test_its_functions_are_those_of_expressions() -> None:
    rows = re.findall(r"^\| `(\w+\(.*?\))` \| (.*) \|$", RULES, re.MULTILINE)

    assert dict(rows) == HELPERS


def test_its_secure_settings_are_the_connections(folder: Path) -> None:
    Authority(folder, "kafka-ca")
    settings = load_settings(
        folder / "secure.yaml",
        {
            "CHARGING_COUPON__SECRETS__KAFKA_PASSWORD": "s",
            "CHARGING_COUPON__SECRETS__PLATE_HASH": "a key for plates",
            "CHARGING_COUPON__SECRETS_DIR": str(folder),
        },
    )
    options = arguments(settings.kafka, settings.secret)

    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("charging", "s")
    assert len(options["ssl_context"].get_ca_certs()) == 1


def test_its_tables_are_read_as_its_tests_say(folder: Path) -> None:
    (source,) = rulebook.load(folder / "tables.yaml").sources

    assert source.name == "orders"


def test_its_presets_are_the_presets() -> None:
    section = RULES.split("## Read your charging platform's messages")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]

    assert sorted(re.findall(r"`([\w.-]+)`", " ".join(rows))) == list(preset_names())


def test_its_metrics_are_the_services() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    exposed = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}

    assert set(re.findall(r"^\| `(coupon_\w+)`", OPERATIONS, re.MULTILINE)) == exposed


def test_its_alerts_are_as_many_as_there_are() -> None:
    alerts = text(f"{CHART}/files/alerts.yaml").count("- alert:")

    assert f"for {alerts} alerts" in README


def test_its_outcomes_are_all_outcomes() -> None:
    section = README.split("## What became of a charge")[1].split("\n## ")[0]

    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(Outcome)


def test_its_reasons_to_skip_are_those_that_there_are() -> None:
    (row,) = re.findall(r"^\| `skipped` \| (.*) \|$", README, re.MULTILINE)
    of_ours = {Reason.PLATE_MISSING, Reason.TOMBSTONE, Reason.HOLD}

    assert set(re.findall(r"`(?:skip: )?(\w+)`", row)) - {"reason"} == of_ours | set(get_args(SkipReason))


def test_its_line_of_an_outcome_is_of_the_example() -> None:
    line = json.loads(README.split("```json\n")[1].split("```")[0])
    example = json.loads(text("schemas/examples/coupon-outcome/1/granted.json"))

    assert line.items() <= example.items()


def test_the_runbooks_container_is_the_readmes() -> None:
    preamble = text(f"{CHART}/RUNBOOK.md").split("```sh\n")[2].split("```")[0]
    started = README.split("docker run ")[1].split("```")[0]
    variable = "CHARGING_COUPON__SETTINGS=/etc/charging-coupon/settings.yaml"

    assert f"--name {re.findall('docker exec ([a-z-]+)', preamble)[0]} " in started
    assert f"-e {variable} " in started
    assert variable in preamble


def test_the_files_of_its_values_for_a_secure_kafka_are_keys_of_the_secret() -> None:
    section = OPERATIONS.split("\n### On Kubernetes\n")[1].split("\n### ")[0]
    values = yaml.safe_load(section.split("```yaml\n")[1].split("```")[0])
    made, *keys = re.findall(r"generic ([\w-]+)|--from-file=([\w.-]+)", section)
    file = Path(values["settings"]["kafka"]["security"]["ca_file"])

    assert made[0] == values["existingSecret"]
    assert file.parent == Path("/etc/charging-coupon/secrets")
    assert {file.name, "kafka_password", "plate_hash", "main"} == {key for _, key in keys}


LINKS = [(page, link) for page in PAGES for section in sections(page) for link in section.links]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=str)
def test_its_links_lead_somewhere(page: str, link: Link) -> None:
    assert link.leads_somewhere


@pytest.mark.parametrize("page", PAGES)
def test_each_heading_of_a_page_has_an_anchor_of_its_own(page: str) -> None:
    anchors = [anchor(section.heading) for section in sections(page)]

    assert sorted(set(anchors)) == sorted(anchors)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_can_be_reached_from_the_readme(page: str) -> None:
    edition = "README.zh-CN.md" if page.endswith(".zh-CN.md") else "README.md"

    assert page == edition or page in {link.to for section in sections(edition) for link in section.links}


def test_the_suites_that_the_tests_page_names_are_there() -> None:
    page = tests.__doc__ or ""
    named = set(re.findall(r"`((?:core/|broker/)?test_\w+)`", page))

    missing = {name for name in named if not (Path(tests.__file__).parent / f"{name}.py").is_file()}

    assert len(named) > 15
    assert missing == set()


def test_the_map_of_the_modules_names_every_module_and_no_other() -> None:
    root = Path(consumer.__file__).parent
    there = {file.stem for file in root.glob("[!_]*.py")} | {
        file.parent.name for file in root.glob("*/__init__.py")
    }
    there |= {f"core.{file.stem}" for file in root.glob("core/[!_]*.py")}
    named = re.findall(r"`((?:core\.)?[a-z]+)(?:\.PlainWriter)?`", consumer.__doc__ or "")

    assert set(named) == there
