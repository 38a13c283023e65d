"""What an event costs on its whole way, beside the usual aiokafka + aiohttp loop: `python -m tests.bench.pipeline`.

A real Kafka, a platform that costs next to nothing (`platform`), and in turn, round for round, the service as users
run it, and the loop that one writes first (`usual`). Prints medians and ratios; what else the machine does then
counts for both. The events wait in the topic beforehand; what starting costs is left out. Linux.

    python -m tests.bench.pipeline                                  # beside the usual loop, and at half load
    python -m tests.bench.pipeline --plot tests/pictures/cost.svg   # the same, and a picture of it
    python -m tests.bench.pipeline --beside rules=10000 partitions=64 members=2 latency=0.1,in_flight=1000
    python -m tests.bench.pipeline --beside payload=3000 payload=30000,events=6000
    python -m tests.bench.pipeline --events 110000 --beside held=4  # 100,000 done beyond a few that are not
    python -m tests.bench.pipeline --events 200000 --parts 10       # a long backlog: is its end as cheap as its beginning?
    python -m tests.bench.pipeline --profile                        # where the service's CPU time goes
"""

import argparse
import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from statistics import median

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from consumer.intake import ACCOUNT_SECONDS
from consumer.sandbox.broker import EmbeddedBroker
from tests.bench.plot import Bars, bars
from tests.broker.kafka import committed_offsets, read_all
from tests.conftest import _create_topics

STATIONS = 10_000
HOUR_AGO = datetime.now(timezone(timedelta(hours=8))).replace(microsecond=0) - timedelta(hours=1)
WARM = 0.25
"""Share of the events that is not measured: connections open, code gets warm."""

TAIL = 0.05
"""Likewise at the end, when fewer and fewer are in flight."""

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What is to be worked off.

    Attributes:
        events: enough that the number of calls at once is found out before anything is measured: 5,000 with the defaults.
        latency: of the platform, seconds.
        in_flight: calls at once, for each member.
        records: taken in and not yet committed, for each member; fast ones may wait for room while a transaction is made.
        payload: bytes of an event, at least.
        held: the first so many events get no answer, so that all the others are done beyond the frontier: with as many
            as there are partitions, in each of them.
        plates: cars, in turn.
        adaptive: 0: `gateway.adaptive_limit: false`; to find the limit out should cost next to nothing beside it.

    """

    events: int = 40_000
    latency: float = 0.02
    in_flight: int = 256
    records: int = 2_000
    partitions: int = 4
    rules: int = 10
    members: int = 1
    payload: int = 300
    held: int = 0
    plates: int = 2_000
    adaptive: int = 1

    @classmethod
    def of(cls, base: "Load", text: str) -> "Load":
        """`rules=10000,members=2`: the same, but for these."""
        changes = dict(part.split("=") for part in text.split(","))
        kinds = {each.name: type(getattr(base, each.name)) for each in fields(cls)}
        return replace(base, **{name: kinds[name](value) for name, value in changes.items()})

    @property
    def topic(self) -> str:
        """Where its events are."""
        return f"bench-{self.events}-{self.partitions}-{self.payload}-{self.plates}-{self.held}"

    def event(self, number: int) -> tuple[int, bytes, bytes]:
        """Its partition, key and value."""
        # Those that are held have plates of their own: they hold nobody else up.
        plate = number % self.plates if number >= self.held else self.plates + number
        # As charges are: they end one after the other, each has taken its time, and no two cost the same.
        seconds = 900 + number * 7919 % 7200
        ended_at = HOUR_AGO + timedelta(seconds=3600 * number // self.events)
        value = {
            "order_id": f"BENCH{number}P{plate}",
            "plate": f"粤B{plate:05}",
            "station_id": f"SZ-{number * 7919 % STATIONS:06}",
            "connector_id": "3",
            "started_at": (ended_at - timedelta(seconds=seconds)).isoformat(),
            "ended_at": ended_at.isoformat(),
            "energy_kwh": round(seconds * 0.00583, 2),
            "charging_seconds": seconds,
            "total_fee_yuan": round(seconds * 0.00723, 2),
            "stop_reason": "user",
        }
        short = self.payload - len(orjson.dumps(value)) - len(',"remark":""')
        if short > 0:
            value["remark"] = "x" * short
        return plate % self.partitions, b"%d" % plate, orjson.dumps(value)


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        cpu_us: of the consumer's processes, for each event; not Kafka's, and not the platform's.
        rss_mb: of one process, at most.
        beyond: offsets done beyond the frontiers, at the end; map_bytes: of the partition's map with the most.
        commit_ms: from one commit to the next.
        repeated, out_of_order, overlapping: calls for an event that was called for before; for a plate after a
            later event's; for a plate while another one was under way.
        missing, doubled: outcomes.

    """

    events_per_second: float
    cpu_us: float
    rss_mb: float
    beyond: int
    map_bytes: int
    commit_ms: float
    in_flight: int
    repeated: int
    out_of_order: int
    overlapping: int
    missing: int
    doubled: int


class Bench:
    """A Kafka with events, and a folder for files."""

    def __init__(self, servers: str, folder: Path) -> None:
        self.servers = servers
        self.folder = folder
        self.runs = 0
        self._topics: set[str] = set()

    async def prepare(self, load: Load) -> tuple[str, str]:
        """The events of a load, once; a new outcome topic, and the name of a group."""
        self.runs += 1
        group = f"bench-{self.runs}"
        topics = {f"{group}-outcomes": 3, f"{group}-letters": 1}
        topics |= {f"{group}-retries.{delay}": 3 for delay in ("1m", "5m", "30m")}
        if load.topic not in self._topics:
            topics[load.topic] = load.partitions
        await _create_topics(self.servers, topics)
        if load.topic not in self._topics:
            self._topics.add(load.topic)
            await self._fill(load)
        return group, f"{group}-outcomes"

    async def _fill(self, load: Load) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.servers, max_batch_size=100_000) as producer:
            batches = {number: producer.create_batch() for number in range(load.partitions)}
            for number in range(load.events):
                at, key, value = load.event(number)
                while batches[at].append(key=key, value=value, timestamp=None) is None:
                    await producer.send_batch(batches[at], load.topic, partition=at)
                    batches[at] = producer.create_batch()
            for at, batch in batches.items():
                await producer.send_batch(batch, load.topic, partition=at)
            await producer.flush()

    def service(self, load: Load, group: str, events: str, url: str) -> list[str]:
        """The command that runs a member, with files as users have them."""
        rules = write_rules(self.folder, load.rules)
        settings = self.folder / f"{group}.yaml"
        settings.write_text(
            f"""
kafka:
  bootstrap_servers: ["{self.servers}"]
  group_id: {group}
  topics: {{events: [{events}], outcomes: {group}-outcomes, dead_letters: {group}-letters, retries: {group}-retries}}
gateway: {{url: "{url}", max_in_flight: {load.in_flight}, adaptive_limit: {str(bool(load.adaptive)).lower()}{", total_timeout: 10m, read_timeout: 10m" * bool(load.held)}}}
intake: {{max_records: {load.records}}}
rules: {rules.name}
secrets: {{main: {SECRET}, plate_hash: a key for the hashes of plates}}
web: {{host: 127.0.0.1, port: 0}}
log: {{format: json}}
""",
            "utf-8",
        )
        return [sys.executable, "-m", "consumer", "run", "--settings", str(settings)]

    def usual(self, load: Load, group: str, events: str, url: str, port: int) -> list[str]:
        """The command that runs the loop."""
        options = {
            "servers": self.servers,
            "group": group,
            "events": events,
            "outcomes": f"{group}-outcomes",
            "url": url,
            "in-flight": load.in_flight,
            "port": port,
        }
        pairs = (text for name, value in options.items() for text in (f"--{name}", str(value)))
        return [sys.executable, "-m", "tests.bench.usual", *pairs]


SECRET = "a secret of no platform"


def write_rules(folder: Path, count: int) -> Path:
    """A rules file, and the stations that it names."""
    rules = folder / f"rules-{count}.yaml"
    if not rules.exists():
        stations = ["id,api_store_code,zone,name"]
        stations += [f"SZ-{n:06},store-{n},Asia/Shanghai,充电站 {n}" for n in range(STATIONS)]
        (folder / "stations.csv").write_text("\n".join(stations), "utf-8")
        rules.write_text("\n".join(_rules(count)), "utf-8")
    return rules


def _rules(count: int) -> Iterable[str]:
    """Each for its share of the stations, with three expressions."""
    yield "version: 1"
    yield 'accounts: {main: {app_id: app-1, secret: main, api_type: "5"}}'
    yield "sources: {charges: {extends: canonical, zone: station}}"
    yield "stations: {file: stations.csv}"
    yield "rules:"
    for n in range(count):
        here = ", ".join(f"SZ-{station:06}" for station in range(n, STATIONS, count))
        yield f"  - name: rule-{n}"
        yield "    account: main"
        yield f"    stations: [{here}]"
        yield f"    when: energy_wh >= {n % 1000}"
        yield '    subject: "【{plate}】充电 {energy_kwh} kWh"'
        yield "    metadata:"
        yield f'      minutes: {{name: 充电时长, value: "math.least(minutes, {120 + n})"}}'
        yield '      kwh: {name: 电量, value: "energy_wh / 1000"}'


# -- Processes --------------------------------------------------------------------------------------


class Process:
    """One that is measured."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def cpu_seconds(self) -> float:
        fields_ = Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields_[11]) + int(fields_[12])) / TICKS

    def memory_mb(self, what: str = "VmRSS") -> float:
        """Now; `VmHWM` for the most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        found = re.search(rf"{what}:\s+(\d+)", status)
        assert found is not None, "no memory: has it ended?"
        return int(found[1]) / 1000

    def still_runs(self) -> None:
        assert self.process.poll() is None, self.log.read_text("utf-8", "replace")[-3000:]

    def port(self) -> int | None:
        """Of the service's web server, once it listens."""
        for line in self.log.read_bytes().splitlines():
            if b"service.started" in line:
                return int(json.loads(line)["port"])
        return None

    async def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@asynccontextmanager
async def platform(load: Load) -> AsyncIterator["Platform"]:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.bench.platform"]
    options = ["--latency", str(load.latency), "--held", str(load.held)]
    process = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: ASYNC220  # nothing else goes on yet
    assert process.stdout is not None
    assert process.stdin is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}/"
    try:
        async with aiohttp.ClientSession() as session:
            yield Platform(url, session)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


@dataclass
class Platform:
    url: str
    session: aiohttp.ClientSession

    async def seen(self) -> dict[str, int]:
        async with self.session.get(self.url) as response:
            found: dict[str, int] = await response.json()
            return found


async def _metrics(ports: Sequence[int], name: str, labels: str = ".*") -> list[float]:
    """What the members tell of a metric, for each of its labels."""
    found: list[float] = []
    async with aiohttp.ClientSession() as session:
        for port in ports:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                lines = rf"^{name}(?:{{{labels}}})? (\S+)$"
                found += map(float, re.findall(lines, await response.text(), re.MULTILINE))
    return found


def _free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


# -- A run ------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(
    bench: Bench, load: Load, who: str, group: str, events: str, url: str
) -> AsyncIterator[tuple[list[Process], list[int]]]:
    """The consumers, and the ports of their metrics."""
    processes: list[Process] = []
    ports: list[int] = []
    try:
        for number in range(load.members):
            log = bench.folder / f"{group}-{number}.log"
            if who == "usual":
                ports.append(_free_port())
                processes.append(Process(bench.usual(load, group, events, url, ports[-1]), log))
                continue
            command = bench.service(load, group, events, url)
            if who == "profiled":
                command = [sys.executable, "-m", "tests.bench.profiled", *command[3:]]
            processes.append(Process(command, log))
        if who != "usual":
            ports = [await _known(process.port, process) for process in processes]
        yield processes, ports
    finally:
        await asyncio.gather(*(process.stop() for process in processes))


async def _known(look: Callable[[], int | None], process: Process) -> int:
    async with asyncio.timeout(90):
        while (found := look()) is None:
            process.still_runs()
            await asyncio.sleep(0.02)
        return found


@dataclass(frozen=True)
class Moment:
    """How far a run is, with what it took so far."""

    at: float
    cpu_seconds: float
    answered: int
    commits: float
    rss_mb: float


@dataclass
class Run:
    """The consumers at work on a load's events.

    Attributes:
        ports: of the consumers' metrics.

    """

    processes: list[Process]
    ports: list[int]
    platform: Platform

    async def until(self, calls: int) -> None:
        """So many are answered. Raises TimeoutError where fewer than a hundred a second are."""
        async with asyncio.timeout(60 + calls / 100):
            while (await self.platform.seen())["answered"] < calls:
                for process in self.processes:
                    process.still_runs()
                await asyncio.sleep(0.02)

    async def now(self) -> Moment:
        """What it took so far."""
        commits = sum(await _metrics(self.ports, "coupon_transactions_total", 'result="committed"'))
        cpu = sum(process.cpu_seconds() for process in self.processes)
        answered = (await self.platform.seen())["answered"]
        rss = max(process.memory_mb() for process in self.processes)
        return Moment(time.perf_counter(), cpu, answered, commits, rss)


@asynccontextmanager
async def at_work(bench: Bench, load: Load, who: str, group: str) -> AsyncIterator[Run]:
    """Consumers who have just been started."""
    async with (
        platform(load) as gate,
        running(bench, load, who, group, load.topic, gate.url) as (processes, ports),
    ):
        yield Run(processes, ports, gate)


async def work_off(bench: Bench, load: Load, who: str) -> Measured:
    """All events, measured between its warm beginning and its end."""
    group, outcomes = await bench.prepare(load)
    async with at_work(bench, load, who, group) as run:
        await run.until(int(load.events * WARM))
        begin = await run.now()
        if who == "profiled":
            run.processes[0].process.send_signal(signal.SIGUSR1)
        await run.until(int(load.events * (1 - TAIL)))
        if who == "profiled":
            run.processes[0].process.send_signal(signal.SIGUSR2)
        end = await run.now()
        await run.until(load.events - load.held)
        beyond = await _beyond(run, load.held) if load.held else await _until_committed(bench, group, load)
        map_bytes = max(await _metrics(run.ports, "coupon_partition_offset_map_bytes"), default=0)
        rss = max(process.memory_mb("VmHWM") for process in run.processes)
        seen = await run.platform.seen()
    missing, doubled = await _audit(bench, outcomes, load)
    seconds, events = end.at - begin.at, end.answered - begin.answered
    return Measured(
        events / seconds,
        (end.cpu_seconds - begin.cpu_seconds) / events * 1e6,
        rss,
        beyond,
        int(map_bytes),
        seconds / max(end.commits - begin.commits, 1) * 1000 * load.members,
        seen["most_in_flight"],
        seen["repeated"],
        seen["out_of_order"],
        seen["overlapping"],
        missing,
        doubled,
    )


@dataclass(frozen=True)
class Part:
    """Of a backlog."""

    events: int
    events_per_second: float
    cpu_us: float
    rss_mb: float


async def in_parts(bench: Bench, load: Load, count: int) -> list[Part]:
    """A backlog that the service works off, measured in so many parts, one after the other."""
    group, _ = await bench.prepare(load)
    async with at_work(bench, load, "service", group) as run:
        moments = [await run.now()]
        for number in range(1, count + 1):
            await run.until(load.events * number // count)
            moments.append(await run.now())
        await _until_committed(bench, group, load)
    return [
        Part(
            after.answered - before.answered,
            (after.answered - before.answered) / (after.at - before.at),
            (after.cpu_seconds - before.cpu_seconds) / (after.answered - before.answered) * 1e6,
            after.rss_mb,
        )
        for before, after in pairwise(moments)
    ]


async def _until_committed(bench: Bench, group: str, load: Load) -> int:
    """Offsets that are done beyond the frontiers then: none."""
    async with asyncio.timeout(60):
        while True:
            found = await committed_offsets(bench.servers, group, load.topic, load.partitions)
            if sum(found.values()) >= load.events:
                return 0
            await asyncio.sleep(0.1)


async def _beyond(run: Run, held: int) -> int:
    """Offsets that are done beyond the frontiers, once all are but those that are held."""
    async with asyncio.timeout(60):
        while sum(await _metrics(run.ports, "coupon_records_waiting")) > held:  # noqa: ASYNC110  # it is another process's
            await asyncio.sleep(0.1)
    await asyncio.sleep(3 * ACCOUNT_SECONDS)  # as of the latest look
    return int(sum(await _metrics(run.ports, "coupon_partition_commit_gap"))) - held


async def _audit(bench: Bench, outcomes: str, load: Load) -> tuple[int, int]:
    """Orders without an outcome, and outcomes too many."""
    orders = [orjson.loads(record.value)["order_id"] for record in await read_all(bench.servers, outcomes)]
    return load.events - load.held - len(set(orders)), len(orders) - len(set(orders))


async def half_load(bench: Bench, load: Load, who: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from each event's sending to a reader of committed records having its outcome."""
    group, outcomes = await bench.prepare(load)
    events = f"{group}-events"
    await _create_topics(bench.servers, {events: load.partitions})
    sent: dict[str, float] = {}
    took: list[float] = []

    async def read(reader: AIOKafkaConsumer) -> None:
        async for record in reader:
            order = orjson.loads(record.value)["order_id"]
            took.append((time.perf_counter() - sent[order]) * 1000)

    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(platform(load))
        await stack.enter_async_context(running(bench, load, who, group, events, gate.url))
        reader = AIOKafkaConsumer(
            outcomes,
            bootstrap_servers=bench.servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        await stack.enter_async_context(reader)
        producer = await stack.enter_async_context(AIOKafkaProducer(bootstrap_servers=bench.servers))
        reading = asyncio.create_task(read(reader))
        number = 0
        for some in (int(rate), int(rate * seconds)):  # the first of them while it joins, and gets warm
            began, first = time.perf_counter(), number
            while number < first + some:
                due = first + int((time.perf_counter() - began) * rate)
                while number < due:
                    at, key, value = load.event(number)
                    sent[f"BENCH{number}P{number % load.plates}"] = time.perf_counter()
                    await producer.send(events, value, key=key, partition=at)
                    number += 1
                await asyncio.sleep(0.005)
            async with asyncio.timeout(60):
                while len(took) < number:  # noqa: ASYNC110  # what is waited for sets no event
                    await asyncio.sleep(0.02)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return sorted(took[int(rate) :])


def import_floor(modules: str) -> float:
    """MB of a process that has only imported what it will need."""
    tell = "import re;print(re.search(r'VmRSS:\\s+(\\d+)',open('/proc/self/status').read())[1])"
    command = [sys.executable, "-c", f"import {modules};{tell}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1000


# -- What is told -----------------------------------------------------------------------------------

Rounds = dict[str, list[Measured]]


async def in_turn(runs: dict[str, Callable[[], Awaitable[Measured]]], rounds: int) -> Rounds:
    """So many rounds of all of them, one after the other."""
    found: Rounds = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            one = await run()
            found[name].append(one)
            print(
                f"  round {number + 1}, {name}: {one.events_per_second:,.0f} events/s, {one.cpu_us:.0f} us",
                file=sys.stderr,
                flush=True,
            )
    return found


def table(found: Rounds) -> None:
    """Medians, and beside them ratios of the same round to the first."""
    names = list(found)
    width = max(22, *(len(name) + 2 for name in names))
    print(f"{'median of the rounds':<28}" + "".join(f"{name:>{width}}" for name in names))
    told: tuple[tuple[str, Callable[[Measured], float], str], ...] = (
        ("events/s", lambda one: one.events_per_second, ",.0f"),
        ("events/s per core", lambda one: 1e6 / one.cpu_us, ",.0f"),
        ("CPU us per event", lambda one: one.cpu_us, ".0f"),
        ("RSS at most, MB", lambda one: one.rss_mb, ".0f"),
        ("offsets beyond the frontiers", lambda one: one.beyond, ",.0f"),
        ("bytes of the largest map", lambda one: one.map_bytes, ",.0f"),
        ("ms from commit to commit", lambda one: one.commit_ms, ".0f"),
        ("in flight at most", lambda one: one.in_flight, ".0f"),
    )
    for words, of, form in told:
        cells = [format(median(map(of, found[name])), form) for name in names]
        print(f"{words:<28}" + "".join(f"{cell:>{width}}" for cell in cells))
    counted = ("repeated", "out_of_order", "overlapping", "missing", "doubled")
    for name in counted:
        cells = [str(max(getattr(one, name) for one in found[who])) for who in names]
        print(f"{name.replace('_', ' ') + ', at most':<28}" + "".join(f"{cell:>{width}}" for cell in cells))
    first = found[names[0]]
    for words, of in (("CPU", told[2][1]), ("events/s", told[0][1])):
        cells = [
            f"{median(of(one) / of(base) for one, base in zip(found[name], first, strict=True)):.2f}"
            for name in names
        ]
        print(f"{words + ', ratio to ' + names[0]:<28}" + "".join(f"{cell:>{width}}" for cell in cells))


def plot(found: Rounds, took: dict[str, list[float]], file: Path) -> None:
    """A picture of what was measured, with the spread of the rounds."""
    told: dict[str, tuple[str, Callable[[Measured], float]]] = {
        "CPU time of an event, µs": (",.0f", lambda one: one.cpu_us),
        "Events a second": (",.0f", lambda one: one.events_per_second),
        "Memory at most, MB": (",.0f", lambda one: one.rss_mb),
    }
    groups = [
        Bars(title, form, {name: [of(one) for one in rounds] for name, rounds in found.items()})
        for title, (form, of) in told.items()
    ]
    shares = ((0.5, "Half of the outcomes within, ms, at half load"), (0.99, "99 % of them"))
    groups += [
        Bars(title, ",.0f", {name: [all_[int(len(all_) * share)]] for name, all_ in took.items()})
        for share, title in shares
        if took
    ]
    file.write_text(bars(groups), "utf-8")


async def beside_the_usual(
    bench: Bench, load: Load, rounds: int, only: str | None, half_rate: float | None
) -> tuple[Rounds, dict[str, list[float]]]:
    whos = [only] if only else ["usual", "service"]
    found = await in_turn(
        {who: (lambda who=who: work_off(bench, load, who)) for who in whos},  # type: ignore[misc]  # mypy sees no default
        rounds,
    )
    table(found)
    floors = {
        "usual": "aiokafka, aiohttp, prometheus_client",
        "service": "consumer.cli.run; consumer.cli.run.load_structlog(); "
        "import consumer.service, consumer.rulebook, consumer.logs",
    }
    for who in whos:
        print(f"{who}: {import_floor(floors[who]):.0f} MB of RSS are its imports")
    took: dict[str, list[float]] = {}
    for who in whos:
        rate = half_rate or median(one.events_per_second for one in found[who]) / 2
        took[who] = await half_load(bench, load, who, rate, 8)
        half, most = took[who][len(took[who]) // 2], took[who][int(len(took[who]) * 0.99)]
        print(f"{who} at {rate:,.0f} events/s: half in {half:.0f} ms, 99 % in {most:.0f} ms")
    return found, took


async def compared(bench: Bench, load: Load, others: Sequence[str], rounds: int) -> Rounds:
    loads = {"base": load} | {text: Load.of(load, text) for text in others}
    runs = {name: (lambda one=one: work_off(bench, one, "service")) for name, one in loads.items()}
    found = await in_turn(runs, rounds)  # type: ignore[arg-type]  # mypy sees no default of a lambda
    table(found)
    return found


async def backlog(bench: Bench, load: Load, count: int) -> None:
    parts = await in_parts(bench, load, count)
    first = parts[1] if count > 2 else parts[0]  # connections open in the very first, and code gets warm
    print("part     events   events/s   CPU us per event, ratio to the second   RSS then, MB")
    for number, part in enumerate(parts, 1):
        print(
            f"{number:>4} {part.events:>10,} {part.events_per_second:>10,.0f} {part.cpu_us:>18,.0f} "
            f"{part.cpu_us / first.cpu_us:>22.2f} {part.rss_mb:>14,.0f}"
        )


async def profiled(bench: Bench, load: Load) -> None:
    one = await work_off(bench, load, "profiled")
    print((bench.folder / f"bench-{bench.runs}-0.log").read_text("utf-8").partition("== profile\n")[2])
    print(f"{one.events_per_second:,.0f} events/s, {one.cpu_us:.0f} us with the profiler")


async def measure(chosen: argparse.Namespace, load: Load) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        async with EmbeddedBroker() as broker:
            bench = Bench(broker.bootstrap_servers, folder)
            found: Rounds = {}
            took: dict[str, list[float]] = {}
            if chosen.profile:
                await profiled(bench, load)
            elif chosen.parts:
                await backlog(bench, load, chosen.parts)
            elif chosen.beside:
                found = await compared(bench, load, chosen.beside, chosen.rounds)
            else:
                found, took = await beside_the_usual(bench, load, chosen.rounds, chosen.only, chosen.rate)
            if chosen.plot and found:
                plot(found, took, chosen.plot)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    base = Load()
    for name, default in asdict(base).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rate", type=float, help="events a second for the latencies, instead of half of the most"
    )
    parser.add_argument("--only", choices=["usual", "service"], help="one of the two alone")
    parser.add_argument("--beside", nargs="+", metavar="NAME=VALUE,...", help="the service under other loads")
    parser.add_argument(
        "--parts", type=int, metavar="N", help="a backlog in N parts: whether an event costs the same in each"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="a picture of it, too")
    parser.add_argument("--profile", action="store_true", help="where the service's CPU time goes")
    chosen = parser.parse_args()
    # It complains while new topics find their leaders.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    load = Load(**{each.name: getattr(chosen, each.name) for each in fields(Load)})
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; {load}")
    asyncio.run(measure(chosen, load))


if __name__ == "__main__":
    main()
