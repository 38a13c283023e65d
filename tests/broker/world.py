"""A whole world for the service: topics, a sandbox gateway, settings and rules files, and members to start and kill."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.broker.kafka import Topics, committed_offsets, end_offsets, read_outcomes

RULES = """
version: 1
deadline: off
accounts:
  main: {app_id: op0000000000000001, secret: main, api_type: charging}
sources:
  canonical: {extends: canonical}
stations:
  S1: {api_store_code: "62626601", zone: Asia/Shanghai}
rules:
  - name: an-hour
    account: main
    when: energy_wh >= 1000
    subject: "【{plate}】充电 {minutes} 分钟"
    metadata:
      minutes: {name: 充电时长, value: "minutes"}
"""

APP_ID = "op0000000000000001"
SECRET = "a secret of the sandbox"


def event(number: int, **fields: Any) -> bytes:
    """A canonical charging-completed event; `fields` override, None leaves out."""
    whole = {
        "order_id": f"ORDER{number:08}",
        "plate": f"粤B{number:04}Z",
        "station_id": "S1",
        "started_at": "2026-11-25T08:00:00+08:00",
        "ended_at": "2026-11-25T09:00:00+08:00",
        "energy_kwh": "12.5",
        **fields,
    }
    return orjson.dumps({name: value for name, value in whole.items() if value is not None})


def just_now(number: int, **fields: Any) -> bytes:
    """A charge that ended a moment ago: no deadline has passed."""
    ended = datetime.now(UTC) - timedelta(seconds=2)
    return event(
        number, started_at=(ended - timedelta(hours=1)).isoformat(), ended_at=ended.isoformat(), **fields
    )


class World:
    """One test's deployment."""

    def __init__(self, broker: str, topics: Topics, folder: Path, gateway_url: str) -> None:
        self.broker = broker
        self.topics = topics
        self.folder = folder
        self.members: list[Member] = []
        self.began_at = time.time()
        self.rules = folder / "rules.yaml"
        self.rules.write_text(RULES, "utf-8")
        self.settings = folder / "settings.yaml"
        self.settings.write_text(
            f"""
kafka:
  bootstrap_servers: ["{broker}"]
  group_id: {topics.group}
  topics: {{events: [{topics.events}], outcomes: {topics.outcomes}, dead_letters: {topics.dead_letters},
           retries: {topics.retries}}}
  session_timeout: 6s
  heartbeat_interval: 1s
  rebalance_timeout: 20s
gateway: {{url: "{gateway_url}", max_in_flight: 64, adaptive_limit: false, total_timeout: 5s}}
retries: {{base: 50ms, cap: 200ms, delays: {topics.delays}}}
drain_timeout: 8s
rules: rules.yaml
secrets: {{main: {SECRET}, plate_hash: a key for plates}}
web: {{host: 127.0.0.1, port: 0}}
log: {{format: json}}
""",
            "utf-8",
        )

    def start(self, **environ: str) -> "Member":
        """A member of the group, in a process of its own."""
        member = Member(self.settings, self.folder / f"member-{len(self.members)}.log", environ)
        self.members.append(member)
        return member

    def through(self, servers: str, **environ: str) -> "Member":
        """A member that reaches Kafka by another address."""
        return self.start(CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS=servers, **environ)

    async def outcomes(self) -> list[dict[str, Any]]:
        """As a read_committed reader sees them."""
        return await read_outcomes(self.broker, self.topics.outcomes)

    async def until_shared(self, seconds: float = 60) -> None:
        """Until each member has its share of the partitions."""
        each = self.topics.partitions // len(self.members)
        for member in self.members:
            await member.until_page("/metrics", f"coupon_assigned_partitions {each}.0\n", seconds)

    async def until_done(self, seconds: float) -> None:
        """Until every partition is committed up to its end."""
        give_up = time.monotonic() + seconds
        ends = await end_offsets(self.broker, self.topics.events, self.topics.partitions)
        while True:
            committed = await committed_offsets(
                self.broker, self.topics.group, self.topics.events, self.topics.partitions
            )
            if all(max(committed[number], 0) == end for number, end in ends.items()):
                return
            if time.monotonic() > give_up:
                raise AssertionError(f"not done after {seconds} s: {committed} of {ends}\n{self.log_tails()}")
            await asyncio.sleep(0.3)

    async def until_outcomes(self, count: int, seconds: float = 60, *, of: int | None = None) -> None:
        """Until at least `count` outcomes are visible, and not yet all `of` them: what is tried next is tried under load."""
        give_up = time.monotonic() + seconds
        while (seen := sum((await end_offsets(self.broker, self.topics.outcomes, 3)).values())) < count:
            assert time.monotonic() < give_up, f"no outcomes come\n{self.log_tails()}"
            await asyncio.sleep(0.1)
        assert of is None or seen < 0.95 * of, "the service was too quick for what this test wants to try"

    def log_tails(self) -> str:
        """What the members said last."""
        return "\n".join(member.log_tail() for member in self.members)

    def end(self) -> None:
        """No process is left."""
        for member in self.members:
            member.kill()


class Member:
    """`charging-coupon run` in a process."""

    def __init__(self, settings: Path, log: Path, environ: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "consumer", "run", "--settings", str(settings)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ},
            )

    def log_tail(self) -> str:
        return self.log.read_text("utf-8", errors="replace")[-3000:]

    def events(self) -> Sequence[dict[str, Any]]:
        """Its log lines."""
        lines = self.log.read_bytes().splitlines()
        return [orjson.loads(line) for line in lines if line.startswith(b"{")]

    async def port(self) -> int:
        """Of its web server, once it listens."""
        return int((await self.until_logged("service.started"))["port"])

    async def get(self, path: str) -> tuple[int, str]:
        """(status, body) of one of its pages."""
        address = f"http://127.0.0.1:{await self.port()}{path}"
        async with aiohttp.ClientSession() as session, session.get(address) as response:
            return response.status, await response.text()

    async def until_page(self, path: str, text: str, seconds: float = 60) -> str:
        """One of its pages, once it says so."""
        give_up = time.monotonic() + seconds
        while text not in (page := (await self.get(path))[1]):
            assert time.monotonic() < give_up, f"no {text!r} in {path}\n{self.log_tail()}"
            await asyncio.sleep(0.1)
        return page

    async def until_logged(self, event: str, seconds: float = 60) -> dict[str, Any]:
        """The first line of its log with this event."""
        give_up = time.monotonic() + seconds
        while True:
            for line in self.events():
                if line["event"] == event:
                    return line
            assert time.monotonic() < give_up, f"no {event} in the log\n{self.log_tail()}"
            await asyncio.sleep(0.05)

    def resident_mib(self) -> float:
        """Its memory, as the kernel counts it against a container's limit."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def kill(self) -> None:
        """kill -9."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    async def stop(self, seconds: float = 20) -> int:
        """SIGTERM; its exit code, with the end of its log where that is not 0. The gateway of the test goes on meanwhile."""
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, seconds)
        if code:
            print(self.log_tail())
        return code
