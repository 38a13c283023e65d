"""Each alert fires when it should and only then, and says what to do.

Whether they fire, promtool says (`.ci/helm` has it).
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from consumer.core.offsets import FULL_MAP_BYTES
from consumer.core.outcomes import Outcome
from consumer.metrics import Metrics

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm/charging-coupon-consumer"
FILE = CHART / "files/alerts.yaml"
RUNBOOK = (CHART / "RUNBOOK.md").read_text("utf-8")

GROUPS = yaml.safe_load(FILE.read_text("utf-8"))["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
TRIED = yaml.safe_load((ROOT / "tests/alerts/cases.yaml").read_text("utf-8"))

each_alert = pytest.mark.parametrize("name", ALERTS)


def exposed() -> set[str]:
    """Names of all series of the service."""
    registry = CollectorRegistry()
    Metrics(registry)
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return {family.name + end for family in registry.collect() for end in ends.get(family.type, [""])}


@each_alert
def test_it_has_a_severity_a_summary_and_asks_for_metrics_that_there_are(name: str) -> None:
    rule = ALERTS[name]
    recorded = {each["record"] for group in GROUPS for each in group["rules"] if "record" in each}

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    asked_for = set(re.findall(r"\bcoupon_\w+", re.sub(r"job:\w+:\w+", "", rule["expr"])))
    assert asked_for | set(re.findall(r"job:\w+:\w+", rule["expr"])) <= exposed() | recorded
    assert rule["expr"].count('job="charging-coupon"') == rule["expr"].count("{")


@each_alert
def test_its_runbook_has_what_it_means_and_the_first_three_commands(name: str) -> None:
    assert ALERTS[name]["annotations"]["runbook_url"] == f"RUNBOOK.md#{name.lower()}"

    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOK, re.DOTALL | re.MULTILINE)
    meaning, commands, then = re.fullmatch(r"\n(.+?)```sh\n(.*?)```\n(.+)", section, re.DOTALL).groups()  # type: ignore[union-attr]  # it fails where there is none
    assert len(commands.splitlines()) == 3
    assert min(len(meaning.split()), len(then.split())) > 8


def test_the_runbook_has_no_alert_that_there_is_not() -> None:
    assert re.findall(r"^## (Coupon\w+)", RUNBOOK, re.MULTILINE) == list(ALERTS)


def test_its_commands_read_only_logs_that_are_written_and_pages_that_there_are() -> None:
    source = "".join(file.read_text("utf-8") for file in (ROOT / "consumer").rglob("*.py"))
    for said in re.findall(r"logs \| grep -e '(.+?)'", RUNBOOK):
        assert all(f'"{each}' in source for each in said.split(r"\|")), said
    assert set(re.findall(r"\bpage (\w+)", RUNBOOK)) == {"metrics", "readyz"}


def test_its_outcomes_and_bounds_are_the_services() -> None:
    text = FILE.read_text("utf-8")
    named = {word for listed in re.findall(r'outcome=~?"(.+?)"', text) for word in listed.split("|")}

    assert named <= set(Outcome)
    assert f">= {FULL_MAP_BYTES}\n" in text


@each_alert
def test_there_are_cases_in_which_it_fires_and_in_which_it_does_not(name: str) -> None:
    firing = [alerts for case in TRIED["cases"] for alerts in case["firing"].values()]

    assert any(name in alerts for alerts in firing)
    assert any(name not in alerts for alerts in firing)


# -- What promtool says ------------------------------------------------------------------------------

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on the PATH; .ci/helm has it"
)


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _series(case: dict[str, Any]) -> list[dict[str, str]]:
    ends = case.get("ends")
    series = {
        name: values if ends is None else values.replace("x2000", f"x{ends} stale")
        for name, values in TRIED["well"].items()
    }
    series |= case.get("series", {})
    ours = 'job="charging-coupon", instance="a"'
    return [
        {
            "series": f"{name[:-1]}, {ours}}}" if name.endswith("}") else f"{name}{{{ours}}}",
            "values": values,
        }
        for name, values in series.items()
    ]


@needs_promtool
def test_each_case_fires_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    asked = 'group by (alertname) (ALERTS{alertstate="firing"})'
    cases = [
        {
            "name": case["it"],
            "interval": "1m",
            "input_series": _series(case),
            "promql_expr_test": [
                {
                    "expr": asked,
                    "eval_time": at,
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts],
                }
                for at, alerts in case["firing"].items()
            ],
        }
        for case in TRIED["cases"]
    ]
    file = tmp_path / "alerts.yaml"
    whole = {"rule_files": [str(FILE)], "evaluation_interval": "1m", "tests": cases}
    file.write_text(yaml.safe_dump(whole, allow_unicode=True), "utf-8")

    promtool("test", "rules", str(file))


@needs_promtool
def test_a_summary_says_which_and_how_many(tmp_path: Path) -> None:
    series = 'coupon_dead_letters_total{job="charging-coupon", outcome="invalid", reason="not_json"}'
    expected = {
        "exp_labels": {"severity": "warning", "job": "charging-coupon"}
        | {"outcome": "invalid", "reason": "not_json"},
        "exp_annotations": {
            "summary": "30 dead letters in half an hour: invalid not_json.",
            "runbook_url": "RUNBOOK.md#coupondeadletters",
        },
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": series, "values": "0+1x60"}],
        "alert_rule_test": [{"alertname": "CouponDeadLetters", "eval_time": "60m", "exp_alerts": [expected]}],
    }
    file = tmp_path / "summary.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FILE)], "tests": [case]}), "utf-8")

    promtool("test", "rules", str(file))
