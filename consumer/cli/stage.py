"""One run of the demo on a Kafka that is there: topics, platform, service, traffic, reconciliation. Does it all."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from math import inf
from statistics import fmean
from types import TracebackType
from typing import Any, Self

from consumer.cli.common import once_told_to_stop, this_command
from consumer.cli.served import Look, Served
from consumer.sandbox.figures import Pace, Window, quantile
from consumer.sandbox.gateway import DEMO_APP_SECRET
from consumer.sandbox.journal import Journal
from consumer.sandbox.platform import Platform
from consumer.sandbox.reconcile import OutcomeFields, Produced, Report, reconcile
from consumer.sandbox.samples import SampleEvent, sample_events
from consumer.sandbox.scenarios import Moment, Scenario
from consumer.sandbox.screen import Screen
from consumer.sandbox.traffic import OutcomeReader, committed_offsets, produce
from consumer.sandbox.view import State
from consumer.topics import TopicSpec, ensure_topics

PARTITIONS = 3
PATIENCE = 60.0
"""Seconds without a further outcome after which it reconciles what there is."""

DRAIN_SECONDS = 15.0
_TICK = 0.25  # seconds between two pictures
_IDLE_TICK = 1.0  # seconds between two looks whether the service is still there


@dataclass(frozen=True, slots=True)
class Names:
    """Of topics and group."""

    events: str = "charging-completed"
    outcomes: str = "coupon-outcomes"
    dead_letters: str = "coupon-dead-letters"
    group: str = "charging-coupon-demo"


@dataclass
class _Tally:
    """What was sent and what came back."""

    produced: int = 0
    orders: int = 0
    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    last: float = field(default_factory=time.monotonic)

    def sent(self, sample: SampleEvent) -> None:
        self.produced += 1
        self.orders += len(sample.expected)
        self.last = time.monotonic()

    def ended(self, outcome: OutcomeFields) -> None:
        self.done += 1
        self.outcomes[outcome["outcome"]] += 1
        self.last = time.monotonic()


@dataclass
class _Looks:
    """The last one before the first outcome, and the latest."""

    first: Look | None = None
    last: Look | None = None

    def note(self, look: Look) -> None:
        if self.first is None or not look.reading.orders:
            self.first = look
        self.last = look


class Play:
    """A scenario, played once. Enter it, and run it.

    `tamper` stands between the outcome topic and the reconciliation: tests lose and double outcomes there.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        events: int | None = None,
        seed: int = 1,
        keep: bool = False,
        names: Names | None = None,
        tamper: Callable[[list[OutcomeFields]], list[OutcomeFields]] = lambda outcomes: outcomes,
    ) -> None:
        self._events = scenario.events if events is None else events
        self._scenario = scenario.with_many(self._events)
        self._seed = seed
        self._keep = keep
        self._names = names or Names()
        self._tamper = tamper
        self._tally = _Tally()
        self._looks = _Looks()
        self._service = Served()
        self._platform = Platform(self._scenario, seed)

    async def __aenter__(self) -> Self:
        """Its processes get ready, which takes as long as Kafka does to start."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._service)
            await stack.enter_async_context(self._platform)
            self._processes = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._processes.__aexit__(kind, error, trace)

    async def run(self, servers: str, screen: Screen) -> Report:
        """Returns when all is reconciled, and the service has ended."""
        service, platform = self._service, self._platform
        await self._create_topics(servers, screen)
        await platform.start()
        async with OutcomeReader(servers, self._names.outcomes) as reader:
            produced = await self._produce_and_watch(servers, service, platform, reader, screen)
            if not self._keep:
                await _drain(service, screen)
            journal = await platform.journal()
            report = await self._reconcile(servers, produced, journal, reader)
            screen.summary(report, self._names.dead_letters, self._pace(journal, reader))
            if self._keep:
                await self._until_interrupted(servers, platform, service, reader, screen)
                await _drain(service, screen)
        return report

    async def _create_topics(self, servers: str, screen: Screen) -> None:
        names = (self._names.events, self._names.outcomes, self._names.dead_letters)
        await ensure_topics(servers, dict.fromkeys(names, TopicSpec(PARTITIONS, 1)))
        screen.step(f"Created {', '.join(names)}")

    def _settings(self, servers: str, platform: Platform) -> Mapping[str, Any]:
        """Of the service, as a settings file has them."""
        names = self._names
        return {
            "kafka": {
                "bootstrap_servers": [servers],
                "topics": {
                    "events": [names.events],
                    "outcomes": names.outcomes,
                    "dead_letters": names.dead_letters,
                },
                "group_id": names.group,
            },
            "rules": str(files("consumer.sandbox") / "demo-rules.yaml"),
            "gateway": {
                "url": platform.url,
                "connect_timeout": self._scenario.call_timeout,
                "total_timeout": self._scenario.call_timeout,
            },
            "retries": {"base": "200ms", "cap": "1s", "delays": []},  # nobody watches for minutes
            "secrets": {"demo_app": DEMO_APP_SECRET, "plate_hash": "the demo's plates are no one's"},
            "drain_timeout": DRAIN_SECONDS,
            "web": {"host": "127.0.0.1", "port": 0},
        }

    async def _produce_and_watch(
        self,
        servers: str,
        service: Served,
        platform: Platform,
        reader: OutcomeReader,
        screen: Screen,
    ) -> list[Produced]:
        """Returns when every order has an outcome, or when none has come for too long."""
        rate, tally = self._scenario.rate(self._events), self._tally
        samples = sample_events(self._events, now=datetime.now(UTC), seed=self._seed)
        producing = asyncio.create_task(
            produce(servers, self._names.events, samples, rate=rate, on_sent=tally.sent)
        )
        watching = asyncio.create_task(self._watch(reader, screen))
        try:
            if rate == inf:
                screen.step(f"Sending {self._events} charges at once; the service then works them off")
                await producing
            else:
                screen.step(f"Sending {self._events} charges, {rate:.0f} a second; the service runs")
            await service.start(self._settings(servers, platform))
            began = time.monotonic()
            self._looks.note(look := await service.look())
            window = Window(look.reading)
            over = False
            while not over:
                await asyncio.wait(
                    [task for task in (watching, producing) if not task.done()],
                    timeout=_TICK,
                    return_when=asyncio.FIRST_EXCEPTION,
                )
                for task in (producing, watching):
                    if task.done():
                        task.result()  # raises why it failed
                over = producing.done() and tally.done >= tally.orders
                look = await service.look()
                self._looks.note(look)
                window.add(look.reading)
                screen.show(self._state(window, await platform.moment(), screen, time.monotonic() - began))
                if not over and producing.done() and time.monotonic() - tally.last > PATIENCE:
                    screen.step(f"No further outcome for {PATIENCE:.0f} s; reconciling what there is")
                    break
            return await producing
        finally:
            for task in (producing, watching):
                task.cancel()
            await asyncio.wait([producing, watching])

    async def _watch(self, reader: OutcomeReader, screen: Screen) -> None:
        while True:
            for outcome in await reader.further():
                self._tally.ended(outcome)
                screen.outcome(outcome)

    def _state(self, window: Window, moment: Moment, screen: Screen, seconds: float) -> State:
        tally, now = self._tally, window.last
        return State(
            scenario=self._scenario.name,
            seconds=seconds,
            phase=moment.phase.words,
            left=moment.left,
            troubled=moment.troubled,
            records=self._events,
            produced=tally.produced,
            orders=tally.orders,
            done=tally.done,
            rate=window.rate,
            in_flight=now.in_flight,
            p50=window.latency(0.5),
            p99=window.latency(0.99),
            repeated=now.repeated,
            dead_letters=now.dead_letters,
            replies=now.replies,
            outcomes=dict(tally.outcomes),
            examples=screen.examples,
        )

    async def _reconcile(
        self, servers: str, produced: list[Produced], journal: Journal, reader: OutcomeReader
    ) -> Report:
        outcomes = self._tamper(await reader.read_to_the_end())
        committed = await committed_offsets(servers, self._names.group, self._names.events)
        return reconcile(produced, outcomes, journal, committed, troubled=self._scenario.fails)

    def _pace(self, journal: Journal, reader: OutcomeReader) -> Pace | None:
        """None where the charges were spread over time."""
        first, last, calls = self._looks.first, self._looks.last, journal.entries
        if self._scenario.rate(self._events) != inf or first is None or last is None or not calls:
            return None
        orders = last.reading.orders - first.reading.orders
        before, after = first.reading.calls, last.reading.calls
        return Pace(
            orders=orders,
            seconds=reader.last_at - min(call.received_at for call in calls).timestamp(),
            cpu_us=(last.cpu_seconds - first.cpu_seconds) / max(1, orders) * 1e6,
            p50=quantile(before, after, 0.5) or 0.0,
            p99=quantile(before, after, 0.99) or 0.0,
            platform=fmean(call.seconds for call in calls),
        )

    async def _until_interrupted(
        self, servers: str, platform: Platform, service: Served, reader: OutcomeReader, screen: Screen
    ) -> None:
        """Shows what comes, until Ctrl-C or SIGTERM, which here is no failure."""
        interrupted = asyncio.Event()
        take_back = once_told_to_stop(interrupted.set)
        screen.lines(*self._ways_in(servers, platform, (await service.look()).port))
        tasks = [
            asyncio.create_task(each)
            for each in (interrupted.wait(), _show_further(reader, screen), _until_it_ends(service))
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            take_back()  # from here on they end it at once

    def _ways_in(self, servers: str, platform: Platform, port: int | None) -> list[str]:
        names = self._names
        command = this_command()
        ended = datetime.now(UTC).replace(microsecond=0)
        charge = {
            "order_id": "MINE-1",
            "plate": "粤B12345",
            "station_id": "SZ-0017",
            "started_at": (ended - timedelta(minutes=50)).isoformat(),
            "ended_at": ended.isoformat(),
            "energy_kwh": 21.5,
        }
        return [
            "",
            "All of it goes on running:",
            f"  Kafka               {servers}",
            f"  topics              {names.events}, {names.outcomes}, {names.dead_letters}",
            f"  platform's journal  {platform.base_url}/",
            f"  service's page      http://127.0.0.1:{port}/ and its /metrics",
            "",
            "Send a charge of your own, and see its outcome below (a plate that ends in 1002 has not entered):",
            f"  export CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS={servers} CHARGING_COUPON__KAFKA__TOPICS__EVENTS={names.events}",
            f"  echo '{json.dumps(charge, ensure_ascii=False)}' | {command} send - --topic {names.events} --yes",
            "",
            "Tell what became of it; without --order, of all:",
            f"  {command} outcomes --order {charge['order_id']}",
            "",
            "Ctrl-C ends it. Further outcomes:",
        ]


async def _show_further(reader: OutcomeReader, screen: Screen) -> None:
    while True:
        for outcome in await reader.further():
            screen.each_outcome(outcome)


async def _until_it_ends(service: Served) -> None:
    """Raises RuntimeError then."""
    while True:
        await service.look()
        await asyncio.sleep(_IDLE_TICK)


async def _drain(service: Served, screen: Screen) -> None:
    """Stopped as by SIGTERM: it drains, flushes and leaves the group."""
    screen.step("Stopping the service: it drains, commits and leaves the group")
    async with asyncio.timeout(2 * DRAIN_SECONDS):
        await service.stop()
