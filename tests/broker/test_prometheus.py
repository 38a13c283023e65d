"""A real Prometheus watches the service through an outage: panels show data, alerts fire, and nothing is scaled for nothing.

Wants prometheus and helm on the PATH; `.ci/live` has them.
"""

import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.sandbox.gateway import SandboxGateway
from consumer.sandbox.scenarios import OUTAGE
from tests.broker.kafka import Topics, produce_backlog, traffic
from tests.broker.prometheus import Prometheus, as_grafana
from tests.broker.world import RULES, World, just_now
from tests.test_alerts import ALERTS
from tests.test_dashboards import BUILT, panels
from tests.test_scaling import trigger

pytestmark = [
    pytest.mark.broker,
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("helm") is None,
        reason="prometheus or helm is not on the PATH; .ci/live has them",
    ),
]

A_SECOND = 40
BACKLOG = 8000

FIRED = {
    "CouponAccountRefused",
    "CouponBreakerOpen",
    "CouponBudgetBurnsFast",
    "CouponBudgetBurnsSlowly",
    "CouponConsumerAbsent",
    "CouponDeadLetters",
    "CouponLotNotConfigured",
    "CouponRulesRefused",
}
"""What the scenario is to set off; others may."""

TWO_ACCOUNTS = RULES.replace(
    "sources:",
    """  stranger: {app_id: op0000000000000009, secret: main, api_type: charging}
replies:
  "1002": {deadline_seconds: 12}
sources:""",
).replace(
    "rules:\n",
    """  S2: {api_store_code: "62626602", zone: Asia/Shanghai}
rules:
  - {name: of-a-stranger, account: stranger, stations: [S2], subject: "{plate}", metadata: {}}
""",
)


@pytest.fixture
async def topics(
    topics: Topics, broker: str, create_topics: Callable[[str, Mapping[str, int]], Awaitable[None]]
) -> Topics:
    """With retry topics."""
    topics = replace(topics, delays="[1s, 2s, 4s]")
    await create_topics(broker, {f"{topics.retries}.{delay}": 2 for delay in ("1s", "2s", "4s")})
    return topics


@pytest.fixture
async def prometheus(world: World, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """It watches the world's member, which starts with it."""
    world.rules.write_text(TWO_ACCOUNTS, "utf-8")
    prometheus = Prometheus(tmp_path, await world.start().port())
    try:
        yield prometheus
    finally:
        prometheus.process.kill()
        prometheus.process.wait()


def charge(number: int) -> bytes:
    """Half of them are granted, the others come to all kinds of ends."""
    letter = "ABCDEFGHJK"[number // 20 % 10]
    ending = {0: "1999", 4: "0400", 8: "1401", 12: "1003", 16: "1999", 3: "1002"}.get(number % 20)
    if number % 50 == 7:
        return b"no event"
    return just_now(
        number,
        plate=f"粤{letter}X{ending}" if ending else f"粤B{number:04}Z",
        station_id="S2" if number % 20 == 5 else "S1",
        energy_kwh="0.1" if number % 50 == 9 else "12.5",
    )


async def test_an_outage_as_prometheus_and_grafana_and_keda_see_it(
    world: World, prometheus: Prometheus, gateway: SandboxGateway
) -> None:
    gateway.scenario = OUTAGE
    async with traffic(world.broker, world.topics.events, charge, A_SECOND):
        await prometheus.until('coupon_outcomes_total{outcome="granted"} > 0', 30)
        world.rules.write_text("version: 1\nrules: a mistake\n", "utf-8")
        await prometheus.until('coupon_breaker_state{account="main"} == 3', 30)
        await prometheus.until('coupon_breaker_state{account="main"} == 0', 40)
    await produce_backlog(
        world.broker, world.topics.events, lambda number: just_now(100_000 + number), BACKLOG, 4
    )
    await prometheus.until(f"sum({_in_trial(trigger()['query'])}) > 1000", 15)
    world.end()
    await prometheus.until('ALERTS{alertname="CouponConsumerAbsent", alertstate="firing"}', 10)

    fired = {
        series["metric"]["alertname"] for series in await prometheus.asked('ALERTS{alertstate="firing"}')
    }
    assert fired >= FIRED
    print(f"fired: {', '.join(sorted(fired))}")

    assert [title for title, query in _queries() if not await prometheus.asked(query)] == []
    asked_for = {
        name for alert in ALERTS.values() for name in re.findall(r"\bcoupon_\w+", _own(alert["expr"]))
    }
    assert [name for name in sorted(asked_for) if not await prometheus.asked(name)] == []

    await _nothing_was_scaled_for_the_outage(prometheus, world)


def _queries() -> list[tuple[str, str]]:
    """Of every panel, as Grafana asks."""
    return [
        (f"{panel['title']}: {target['expr']}", as_grafana(target["expr"]))
        for text in BUILT.values()
        for panel in panels(text)
        for target in panel["targets"]
    ]


def _own(expression: str) -> str:
    return re.sub(r"job:\w+:\w+", "", expression)


def _in_trial(query: str) -> str:
    assert "[2m]" in query
    return query.replace("[2m]", "[2s]")


async def _nothing_was_scaled_for_the_outage(prometheus: Prometheus, world: World) -> None:
    """While the breaker is open the lag grows and orders wait in all tiers, and the chart's query says 0."""
    wanted = await prometheus.values(_in_trial(trigger()["query"]))
    out = await prometheus.values('min_over_time(coupon_breaker_state{account="main"}[2s]) >= 2')
    lag = await prometheus.values(f'sum(coupon_partition_lag{{topic="{world.topics.events}"}})')
    tiers = [
        await prometheus.values(f'sum(coupon_partition_lag{{topic="{world.topics.retries}.{delay}"}})')
        for delay in ("1s", "2s", "4s")
    ]
    assert len(out) > 5
    assert {wanted[at] for at in out} == {0}
    assert max(lag[at] for at in out) > 3 * A_SECOND
    waiting = [max(tier[at] for at in out) for tier in tiers]
    print(f"lag while it is away: {max(lag[at] for at in out):.0f}, in the tiers {waiting}")
    assert min(waiting) > 0
    assert max(wanted.values()) > 1000  # of the backlog, later
