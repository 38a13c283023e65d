"""The dashboards in the chart are those of the code, fit any Grafana and Prometheus, and show what the service tells."""

import json
import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.core.outcomes import Outcome
from consumer.metrics import Metrics
from tests.dashboards import DASHBOARDS, FOLDER, NOT_SHOWN, built
from tests.test_alerts import FILE

BUILT = dict(built())


def panels(text: str) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]


EACH_PANEL = [
    pytest.param(panel, id=f"{file.stem}: {panel['title']}")
    for file, text in BUILT.items()
    for panel in panels(text)
]


def test_the_charts_are_those_of_the_code() -> None:
    found = {file: file.read_text("utf-8") for file in FOLDER.iterdir()}

    assert found == BUILT, "write them anew: .venv/bin/python -m tests.dashboards"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_it_lets_people_choose_prometheus_and_job_and_names_none(name: str) -> None:
    text = BUILT[FOLDER / f"{name}.json"]
    whole = json.loads(text)

    assert [(each["name"], each["type"]) for each in whole["templating"]["list"]] == [
        ("datasource", "datasource"),
        ("job", "query"),
    ]
    assert set(re.findall(r'"uid": "(.*?)"', text)) == {"${datasource}"}
    assert whole["schemaVersion"] >= 39  # Grafana 11
    assert "id" not in whole
    assert len({panel["title"] for panel in panels(text)}) == len(panels(text))


@pytest.mark.parametrize("panel", EACH_PANEL)
def test_a_panel_says_what_it_shows_in_which_unit_of_which_job(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["expr"].count('job=~"$job"') == target["expr"].count("{")
        assert set(re.findall(r"\$\w+", target["expr"])) <= {"$job", "$__rate_interval", "$__range"}


def test_outcomes_that_panels_name_are_the_services() -> None:
    named = {
        word
        for found in re.findall(r'outcome=~?\\"(.+?)\\"', "".join(BUILT.values()))
        for word in found.split("|")
    }

    assert named
    assert named <= set(Outcome)


def test_every_metric_is_on_a_panel_or_in_an_alert_or_has_a_reason_not_to_be() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    shown = "".join(BUILT.values()) + FILE.read_text("utf-8")
    asked_for = {re.sub(r"_(total|bucket)$", "", name) for name in re.findall(r"\bcoupon_\w+", shown)}
    there_are = {family.name for family in registry.collect()}

    assert there_are - asked_for == set(NOT_SHOWN)
    assert all(len(reason.split()) > 3 for reason in NOT_SHOWN.values())
    assert asked_for - there_are == {"coupon_orders_failed"}  # what the alerts record
