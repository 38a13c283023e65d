"""A real Prometheus watches the service through an outage: panels show data, alerts fire, and nothing is scaled for nothing.

Wants prometheus and helm on the PATH; `.ci/helm` has them.
"""

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from consumer.sandbox.gateway import SandboxGateway
from consumer.sandbox.scenarios import OUTAGE
from tests.broker.kafka import Topics, produce_backlog, traffic
from tests.broker.world import RULES, World, just_now
from tests.test_alerts import ALERTS, FILE
from tests.test_dashboards import BUILT, panels
from tests.test_scaling import trigger

pytestmark = [
    pytest.mark.broker,
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("helm") is None,
        reason="prometheus or helm is not on the PATH; .ci/helm has them",
    ),
]

EVERY = "500ms"
"""Between scrapes, and between looks at the alerts."""

FASTER = 600
"""Alerts wait for so many times less than in earnest: half a second for five minutes."""

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


class Prometheus:
    """Scrapes one member, and looks at the chart's alerts."""

    def __init__(self, folder: Path, target: int) -> None:
        rules = re.sub(
            r"for: (\d+)m",
            lambda found: f"for: {int(found[1]) * 60_000 // FASTER}ms",
            FILE.read_text("utf-8"),
        )
        (folder / "alerts.yaml").write_text(rules, "utf-8")
        labels = {"namespace": "parking", "pod": "coupons-charging-coupon-consumer-0"}
        job = {
            "job_name": "charging-coupon",
            "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": labels}],
        }
        whole = {
            "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [job],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(whole), "utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.address}",
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.began_at = time.time()

    async def asked(self, query: str) -> list[dict[str, Any]]:
        """Series with their samples of all the time, one a second; what is no number is left out."""
        found = await self._get("query_range", query, start=self.began_at, end=time.time(), step=1)
        return [
            {**series, "values": numbers}
            for series in found
            if (numbers := [sample for sample in series["values"] if sample[1] != "NaN"])
        ]

    async def _get(self, path: str, query: str, **times: float) -> list[dict[str, Any]]:
        address = f"http://{self.address}/api/v1/{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(address, data={"query": query, **times}) as response,
        ):
            answer = await response.json()
        assert answer["status"] == "success", (query, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def values(self, query: str) -> dict[float, float]:
        """Of the one series, by time."""
        (series,) = await self.asked(query)
        return {at: float(value) for at, value in series["values"]}

    async def until(self, query: str, seconds: float) -> None:
        """It has data now."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                if await self._get("query", query):
                    return
            except aiohttp.ClientConnectionError:
                pass  # it is about to listen
            assert time.monotonic() < give_up, f"nothing for {query}\n{self.log.read_text('utf-8')[-2000:]}"
            await asyncio.sleep(0.3)


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
        (f"{panel['title']}: {target['expr']}", _as_grafana(target["expr"]))
        for text in BUILT.values()
        for panel in panels(text)
        for target in panel["targets"]
    ]


def _as_grafana(expression: str) -> str:
    for variable, value in (("$job", ".*"), ("$__rate_interval", "5s"), ("$__range", "1m")):
        expression = expression.replace(variable, value)
    return expression


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
