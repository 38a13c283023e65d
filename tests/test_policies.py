"""Relief policies: the examples in schemas/examples/rules, and trials of what goes wrong with rounding, limits and zones."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from consumer import rulebook
from consumer.core.coupons import CouponRequest
from consumer.core.documents import Document
from consumer.core.errors import ConfigurationError
from consumer.core.events import Coordinates, Order, Record
from consumer.core.outcomes import Finding
from consumer.core.rules import RuleBook
from consumer.rulebook import report, runs

SCHEMAS = Path(__file__).parents[1] / "schemas"
EXAMPLES = sorted(SCHEMAS.glob("examples/rules/*/*.yaml"))


# -- The examples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_neither_mistakes_nor_warnings_and_its_tests_pass(path: Path) -> None:
    done = runs.run(path)

    assert report.check(path).found == ()
    assert len(done) >= 2
    assert [each.name for each in done if each.differences] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_editor_finds_an_examples_schema_and_has_nothing_to_say(path: Path) -> None:
    text = path.read_text("utf-8")
    schema = path.parent / text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    data = json.loads(json.dumps(Document(text, "f").data, default=float))

    assert schema.resolve() == SCHEMAS / "rules.v1.schema.json"
    validator = Draft202012Validator(json.loads(schema.read_text("utf-8")))
    assert [error.message for error in validator.iter_errors(data)] == []


def test_every_policy_is_among_the_examples() -> None:
    assert {path.stem for path in EXAMPLES} == {
        "by-night",
        "by-station",
        "capped-time",
        "clamp",
        "steps",
        "stop-reason",
        "thresholds",
    }


# -- Trials -----------------------------------------------------------------------------------------

BASE = """
version: 1
accounts: {main: {app_id: a, secret: main, api_type: t}}
sources: {ours: {extends: SOURCE}}
stations:
  SH: {api_store_code: A, zone: Asia/Shanghai}
  NY: {api_store_code: B, zone: America/New_York}
"""


def rules(text: str, source: str = "canonical") -> RuleBook:
    return rulebook.parse(BASE.replace("SOURCE", source) + text)


def asked(
    book: RuleBook, now: datetime | None = None, raw: str = "", **event: Any
) -> CouponRequest | Finding:
    """What becomes of one charge."""
    known = {
        "order_id": "A1",
        "plate": "粤BD12345",
        "station_id": "SH",
        "started_at": "2026-03-01T10:00:00Z",
        "ended_at": "2026-03-01T11:00:00Z",
    }
    value = raw or json.dumps(known | event, ensure_ascii=False)
    record = Record(Coordinates("ours", 0, 0), -1, None, value.encode())
    (item,) = book.read_as(book.sources[0], record, now)
    return book.plan(item) if isinstance(item, Order) else item


def decided(plan: CouponRequest | Finding) -> str:
    return plan.rule or (plan.reason if isinstance(plan, Finding) else "")


NIGHT = "rules: [{name: night, account: main, subject: x, when: \"local_between(ended_at, '22:30', '06:30', zone)\"}]"


@pytest.mark.parametrize(
    ("station", "ended", "rule"),
    [
        ("SH", "2026-01-10T14:29:59Z", "no_rule"),
        ("SH", "2026-01-10T14:30:00Z", "night"),
        ("SH", "2026-01-10T22:29:59Z", "night"),
        ("SH", "2026-01-10T22:30:00Z", "no_rule"),
        ("NY", "2026-01-10T14:30:00Z", "no_rule"),
        ("NY", "2026-01-11T03:30:00Z", "night"),
        ("NY", "2026-07-11T03:29:59Z", "night"),
        ("NY", "2026-07-11T02:30:00Z", "night"),
        ("NY", "2026-07-11T02:29:59Z", "no_rule"),
        ("NY", "2026-01-11T02:30:00Z", "no_rule"),
        # The hour that comes twice, and the one that never comes.
        ("NY", "2026-11-01T05:30:00Z", "night"),
        ("NY", "2026-11-01T06:30:00Z", "night"),
        ("NY", "2026-03-08T06:59:59Z", "night"),
        ("NY", "2026-03-08T10:30:00Z", "no_rule"),
    ],
)
def test_a_window_is_in_the_stations_own_time_summer_and_winter(station: str, ended: str, rule: str) -> None:
    started = (datetime.fromisoformat(ended) - timedelta(minutes=20)).isoformat()

    assert decided(asked(rules(NIGHT), station_id=station, started_at=started, ended_at=ended)) == rule


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati", "Asia/Shanghai"])
def test_the_machines_own_zone_is_never_asked(zone: str) -> None:
    code = "from consumer import cli; cli.main(['test', 'schemas/examples/rules/1/by-night.yaml'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SCHEMAS.parent,
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "7 tests passed")


def test_a_station_without_a_zone_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match="`XX` has no zone, which rule night asks for"):
        rules("  XX: {api_store_code: C}\n" + NIGHT)


LIMITS = """
rules: [{name: granted, account: main, subject: x, when: FIELD >= 1800 && FIELD < 7200}]
"""


@pytest.mark.parametrize(
    ("ended", "granted"),
    [
        ("2026-03-01T10:29:59.999Z", False),
        ("2026-03-01T10:30:00Z", True),
        ("2026-03-01T11:59:59Z", True),
        ("2026-03-01T11:59:59.999Z", True),
        ("2026-03-01T12:00:00Z", False),
    ],
)
def test_at_least_takes_the_limit_in_and_below_leaves_it_out(ended: str, granted: bool) -> None:
    book = rules(LIMITS.replace("FIELD", "seconds"))

    assert (decided(asked(book, ended_at=ended)) == "granted") is granted


@pytest.mark.parametrize(
    ("field", "granted"), [("seconds", False), ("charging_seconds", True)], ids=["session", "charging"]
)
def test_a_limit_is_on_the_duration_that_the_rule_names(field: str, granted: bool) -> None:
    """Plugged in for three hours, charged for one."""
    book = rules(LIMITS.replace("FIELD", field))
    plan = asked(book, ended_at="2026-03-01T13:00:00Z", charging_seconds=3600)

    assert (decided(plan) == "granted") is granted


MONEY = """
rules:
  - name: all
    account: main
    subject: "{fee_yuan}"
    metadata: {fen: {name: 分, value: fee_fen}, wh: {name: 瓦时, value: energy_wh}}
"""


@pytest.mark.parametrize("quote", ["", '"'], ids=["number", "text"])
@pytest.mark.parametrize(
    ("yuan", "fen"),
    [
        ("19.99", 1999),
        ("8.20", 820),
        ("17.08", 1708),
        ("4.35", 435),
        ("0.29", 29),
        ("1.13", 113),
        ("2.30", 230),
    ],
)
def test_money_is_exact_whether_it_comes_as_a_number_or_as_text(quote: str, yuan: str, fen: int) -> None:
    raw = (
        '{"order_id": "A1", "plate": "粤BD12345", "station_id": "SH", "ended_at": "2026-03-01T11:00:00Z", '
        f'"energy_kwh": {quote}12.341{quote}, "total_fee_yuan": {quote}{yuan}{quote}}}'
    )
    plan = asked(rules(MONEY), raw=raw)

    assert isinstance(plan, CouponRequest)
    assert plan.metadata == {"fen": fen, "wh": 12341}
    assert plan.parameters["subject"] == yuan


@pytest.mark.parametrize(
    ("kwh", "wh"),
    [("8.29", 8290), ("0.0005", 0), ("0.0015", 2), ("0.0025", 2), ("0.00051", 1), ("12.3414", 12341)],
)
def test_energies_are_rounded_once_to_whole_watt_hours_halves_to_even(kwh: str, wh: int) -> None:
    plan = asked(rules(MONEY), energy_kwh=kwh, total_fee_yuan=1)

    assert isinstance(plan, CouponRequest)
    assert plan.metadata["wh"] == wh


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"ended_at": "2026-03-01T15:00:00Z"}, "in_future"),
        ({"ended_at": "2026-03-01T09:00:00Z"}, "end_before_start"),
        ({"ended_at": "2026-03-01T10:10:00Z", "energy_kwh": 400}, "too_much_energy"),
    ],
)
def test_what_cannot_be_is_set_aside_or_sent_as_configured(event: dict[str, Any], reason: str) -> None:
    now = datetime.fromisoformat("2026-03-01T13:00:00Z")
    lenient = f"{{ours: {{extends: canonical, plausibility: {{{reason}: send}}}}}}"
    text = BASE.replace("{ours: {extends: SOURCE}}", lenient)
    rule = "rules: [{name: all, account: main, subject: x}]"

    aside = asked(rules(rule), now, **event)
    assert isinstance(aside, Finding)
    assert (aside.outcome, aside.reason, aside.dead_letter) == ("suspect", reason, True)
    assert isinstance(asked(rulebook.parse(text + rule), now, **event), CouponRequest)
