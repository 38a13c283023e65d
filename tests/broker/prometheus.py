"""A real Prometheus beside a member of the service, asked as Grafana asks. Starts a process."""

import asyncio
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.test_alerts import FILE

EVERY = "500ms"
"""Between scrapes, and between looks at the alerts."""

FASTER = 600
"""Alerts wait for so many times less than in earnest: half a second for five minutes."""


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

    async def now(self, query: str) -> list[dict[str, Any]]:
        """Series with their last sample."""
        return await self._get("query", query)

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
                if await self.now(query):
                    return
            except aiohttp.ClientConnectionError:
                pass  # it is about to listen
            assert time.monotonic() < give_up, f"nothing for {query}\n{self.log.read_text('utf-8')[-2000:]}"
            await asyncio.sleep(0.3)


def as_grafana(expression: str, *, interval: str = "5s", range: str = "1m") -> str:  # noqa: A002  # as Grafana calls it
    """A panel's query with Grafana's variables filled in."""
    for variable, value in (("$job", ".*"), ("$__rate_interval", interval), ("$__range", range)):
        expression = expression.replace(variable, value)
    return expression
