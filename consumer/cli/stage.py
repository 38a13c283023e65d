"""One run of the demo on a Kafka that is there: topics, platform, service, traffic, reconciliation. Does it all."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from math import inf
from pathlib import Path

from consumer import rulebook
from consumer.cli.common import this_command
from consumer.sandbox.figures import Window, read
from consumer.sandbox.gateway import DEMO_APP_SECRET, SandboxGateway
from consumer.sandbox.reconcile import OutcomeFields, Produced, Report, reconcile
from consumer.sandbox.samples import SampleEvent, sample_events
from consumer.sandbox.scenarios import Scenario
from consumer.sandbox.screen import Screen
from consumer.sandbox.traffic import committed_offsets, follow_outcomes, produce, read_outcomes
from consumer.sandbox.view import State
from consumer.service import Service
from consumer.settings import Settings
from consumer.topics import TopicSpec, ensure_topics

PARTITIONS = 3
PATIENCE = 60.0
"""Seconds without a further outcome after which it reconciles what there is."""

DRAIN_SECONDS = 15.0
_TICK = 0.25  # seconds between two pictures
_LAST_LOOKS = 8
"""Pictures after the last outcome at most: until the service has looked how far behind it is."""


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


class Play:
    """A scenario, played once.

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
        self._scenario = scenario
        self._events = scenario.events if events is None else events
        self._seed = seed
        self._keep = keep
        self._names = names or Names()
        self._tamper = tamper
        self._tally = _Tally()

    async def run(self, servers: str, screen: Screen) -> Report:
        """Returns when all is reconciled and taken down again, but for the topics."""
        await self._create_topics(servers, screen)
        async with SandboxGateway(scenario=self._scenario, seed=self._seed) as gateway:
            service = self._service(servers, gateway)
            async with _running(service) as running:
                produced = await self._produce_and_watch(servers, service, gateway, running, screen)
                if not self._keep:
                    await _drain(service, running, screen)
                report = await self._reconcile(servers, produced, gateway)
                screen.summary(report, self._names.dead_letters)
                if self._keep:
                    await self._until_interrupted(servers, gateway, service, running, screen)
                    await _drain(service, running, screen)
        return report

    async def _create_topics(self, servers: str, screen: Screen) -> None:
        names = (self._names.events, self._names.outcomes, self._names.dead_letters)
        await ensure_topics(servers, dict.fromkeys(names, TopicSpec(PARTITIONS, 1)))
        screen.step(f"Created {', '.join(names)}")

    def _service(self, servers: str, gateway: SandboxGateway) -> Service:
        rules = Path(str(files("consumer.sandbox") / "demo-rules.yaml"))
        names = self._names
        settings = Settings.model_validate(
            {
                "kafka": {
                    "bootstrap_servers": [servers],
                    "topics": {
                        "events": [names.events],
                        "outcomes": names.outcomes,
                        "dead_letters": names.dead_letters,
                    },
                    "group_id": names.group,
                },
                "rules": rules,
                "gateway": {
                    "url": gateway.url,
                    "connect_timeout": self._scenario.call_timeout,
                    "total_timeout": self._scenario.call_timeout,
                },
                "retries": {"base": "200ms", "cap": "1s", "delays": []},  # nobody watches for minutes
                "secrets": {"demo_app": DEMO_APP_SECRET, "plate_hash": "the demo's plates are no one's"},
                "drain_timeout": DRAIN_SECONDS,
                "web": {"host": "127.0.0.1", "port": 0},
            }
        )
        return Service(settings, rules=rulebook.load(rules))

    async def _produce_and_watch(
        self,
        servers: str,
        service: Service,
        gateway: SandboxGateway,
        running: "asyncio.Task[None]",
        screen: Screen,
    ) -> list[Produced]:
        """Returns when every order has an outcome, or when none has come for too long."""
        rate, tally = self._scenario.rate(self._events), self._tally
        how = "as fast as they go" if rate == inf else f"{rate:.0f} a second"
        screen.step(f"Sending {self._events} charges, {how}; the service runs")
        samples = sample_events(self._events, now=datetime.now(UTC), seed=self._seed)
        producing = asyncio.create_task(
            produce(servers, self._names.events, samples, rate=rate, on_sent=tally.sent)
        )
        watching = asyncio.create_task(self._watch(servers, screen))
        began = time.monotonic()
        window = Window(read(service.metrics, began))
        try:
            last_looks = _LAST_LOOKS
            while last_looks:
                await asyncio.wait(
                    [task for task in (running, watching, producing) if not task.done()],
                    timeout=_TICK,
                    return_when=asyncio.FIRST_EXCEPTION,
                )
                if producing.done():
                    producing.result()  # raises why it failed
                if running.done() or watching.done():
                    (running if running.done() else watching).result()
                    raise RuntimeError("the service ended before it was told to")
                window.add(read(service.metrics, time.monotonic()))
                screen.show(self._state(window, gateway, screen, time.monotonic() - began))
                if producing.done() and tally.done >= tally.orders:
                    last_looks = last_looks - 1 if window.last.lag else 0
                elif producing.done() and time.monotonic() - tally.last > PATIENCE:
                    screen.step(f"No further outcome for {PATIENCE:.0f} s; reconciling what there is")
                    break
            return await producing
        finally:
            for task in (producing, watching):
                task.cancel()
            await asyncio.wait([producing, watching])

    async def _watch(self, servers: str, screen: Screen) -> None:
        async with aclosing(follow_outcomes(servers, self._names.outcomes)) as outcomes:
            async for outcome in outcomes:
                self._tally.ended(outcome)
                screen.outcome(outcome)

    def _state(self, window: Window, gateway: SandboxGateway, screen: Screen, seconds: float) -> State:
        moment = gateway.moment()
        assert moment is not None
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
            lag=now.lag,
            in_flight=now.in_flight,
            p50=window.latency(0.5),
            p99=window.latency(0.99),
            repeated=now.repeated,
            dead_letters=now.dead_letters,
            replies=now.replies,
            outcomes=dict(tally.outcomes),
            examples=screen.examples,
        )

    async def _reconcile(self, servers: str, produced: list[Produced], gateway: SandboxGateway) -> Report:
        outcomes = self._tamper(await read_outcomes(servers, self._names.outcomes))
        committed = await committed_offsets(servers, self._names.group, self._names.events)
        return reconcile(produced, outcomes, gateway.journal, committed, troubled=self._scenario.fails)

    async def _until_interrupted(
        self,
        servers: str,
        gateway: SandboxGateway,
        service: Service,
        running: "asyncio.Task[None]",
        screen: Screen,
    ) -> None:
        """Shows what comes, until Ctrl-C or SIGTERM, which here is no failure."""
        interrupted = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted.set)
        screen.lines(*self._ways_in(servers, gateway, service))
        waiting = asyncio.create_task(interrupted.wait())
        showing = asyncio.create_task(self._show_further(servers, screen))
        try:
            await asyncio.wait([waiting, running, showing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            showing.cancel()
            await asyncio.wait([waiting, showing])
            for number in (signal.SIGINT, signal.SIGTERM):  # from here on they end it at once
                loop.remove_signal_handler(number)

    async def _show_further(self, servers: str, screen: Screen) -> None:
        seen = 0
        async with aclosing(follow_outcomes(servers, self._names.outcomes)) as outcomes:
            async for outcome in outcomes:
                seen += 1
                if seen > self._tally.done:
                    screen.each_outcome(outcome)

    def _ways_in(self, servers: str, gateway: SandboxGateway, service: Service) -> list[str]:
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
            f"  platform's journal  {gateway.base_url}/",
            f"  service's page      http://127.0.0.1:{service.port}/ and its /metrics",
            "",
            "Send a charge of your own, and see its outcome below (a plate that ends in 1002 has not entered):",
            f"  export CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS={servers}",
            f"  echo '{json.dumps(charge, ensure_ascii=False)}' | {command} send - --topic {names.events} --yes",
            "",
            "Tell what became of it; without --order, of all:",
            f"  {command} outcomes --order {charge['order_id']}",
            "",
            "Ctrl-C ends it. Further outcomes:",
        ]


@asynccontextmanager
async def _running(service: Service) -> "AsyncIterator[asyncio.Task[None]]":
    """The service in a task that does not outlive this."""
    running = asyncio.create_task(service.run())
    try:
        yield running
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=5)


async def _drain(service: Service, running: "asyncio.Task[None]", screen: Screen) -> None:
    """Stopped as by SIGTERM: it drains, flushes and leaves the group."""
    screen.step("Stopping the service: it drains, commits and leaves the group")
    service.stop()
    async with asyncio.timeout(2 * DRAIN_SECONDS):
        await running
