"""One member of the group, composed as `consumer.service` composes it, in a simulated process. I/O on fakes only."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

from consumer import intake, ledger
from consumer.core.breakers import BreakerPolicy
from consumer.core.errors import BrokerUnavailableError
from consumer.core.offsets import Tracker
from consumer.core.outcomes import OutcomeContext
from consumer.core.retries import RetryPolicy
from consumer.delivery import Delivery
from consumer.flow import Flow
from consumer.intake import Intake
from consumer.ledger import Encoder, EndedRecord, Ledger
from consumer.link import Membership, TopicPartition
from consumer.metrics import Metrics
from consumer.publishing import Publisher
from consumer.transactions import TransactionalLink, TransactionWriter
from tests.deliveries import Started
from tests.simulation.consumer import FakeConsumer
from tests.simulation.kafka import CLUSTER_ID, FakeKafka
from tests.simulation.platform import NOBODY, Platform
from tests.simulation.virtual import Process, VirtualLoop, virtual_now
from tests.simulation.world import (
    DEAD_LETTERS,
    EVENTS,
    GROUP,
    OUTCOMES,
    SECRET,
    World,
    rules,
)

URL = "http://platform.example/"


class NoMetrics(Metrics):
    """Counts nothing: that would take a tenth of a run."""

    def __init__(self) -> None:
        """Has no registry."""

    def __getattr__(self, name: str) -> "NoMetrics":
        return self

    def __call__(self, *values: Any, **named: Any) -> "NoMetrics":
        return self

    def count_orders(self, *values: Any) -> None: ...


class Member:
    """One process, from its start to its end; who starts again is another.

    Attributes:
        bugs: exceptions that ended it.
        leaving: it was told to stop.
        consumer: its place in the group, while it has one.
        slot: which of the members that should run it is, counted from 0.
    """

    isolation_level = "read_committed"

    def __init__(
        self,
        name: str,
        slot: int,
        world: World,
        loop: VirtualLoop,
        kafka: FakeKafka,
        platform: Platform,
        rng: Random,
    ) -> None:
        self.process = Process(name)
        self.slot = slot
        self.bugs: list[BaseException] = []
        self.leaving = False
        self.intake: Intake | None = None
        self.consumer: FakeConsumer | None = None
        self._world = world
        self._loop = loop
        self._kafka = kafka
        self._rng = rng
        self._gateway = platform.gateway(self.process)
        self._metrics = NoMetrics()
        self._flow = Flow(
            max_in_flight=world.max_in_flight,
            accounts=rules().accounts,
            metrics=self._metrics,
            sets_aside=True,
            breaker=BreakerPolicy(
                window_seconds=4.0,
                least_calls=6,
                probe_seconds=0.3,
                probe_cap_seconds=1.2,
                stop_seconds=world.timing.probe,
                stop_cap_seconds=4 * world.timing.probe,
            ),
            monotonic=loop.time,
            wall=lambda: virtual_now().timestamp(),
        )
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self.process.run(self._run())

    def terminate(self) -> None:
        """SIGTERM: it drains, and ends by itself."""
        self.leaving = True
        self.process.run(self._stop())

    def rejoin(self) -> None:
        """Whatever makes a group rebalance without a cause that the member knows of."""
        self.process.run(self._rejoin())

    @property
    def running(self) -> bool:
        return self.process.alive and self._task is not None and not self._task.done()

    @property
    def member_id(self) -> str | None:
        """In the group; None where it is leaving it by itself."""
        consumer = self.consumer
        return None if consumer is None or consumer._closed else consumer._member_id

    @property
    def partitions(self) -> list[TopicPartition]:
        return self.intake.partitions if self.intake is not None else []

    @property
    def own_ids(self) -> tuple[str, ...]:
        """Transactional ids that it writes under."""
        held = self.intake._assignment if self.intake is not None else None
        return held.own_ids if held is not None else ()

    def stands_at(self) -> str:
        """Which function of ours its writing, or else its opening, is in."""
        held = self.intake._assignment if self.intake is not None else None
        task = held.writing if held is not None else self.intake._opening if self.intake is not None else None
        place = "starting" if self.intake is None else "joining"
        waiting: Any = task.get_coro() if task is not None and not task.done() else None
        while waiting is not None:
            code = getattr(waiting, "cr_code", None)
            if code is not None and "/consumer/" in code.co_filename:
                place = code.co_qualname
            waiting = getattr(waiting, "cr_await", None)
        return place

    async def _stop(self) -> None:
        self._stopping.set()
        if self.intake is not None:
            self.intake.stop()

    async def _rejoin(self) -> None:
        if self.consumer is not None:
            self.consumer.rejoin()

    async def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                await self._serve()
        except Exception as error:  # noqa: BLE001  # a bug, told to whoever judges the run
            self.bugs.append(error)

    async def _serve(self) -> None:
        """Until stopped, or until this consumer is of no more use."""
        timing = self._world.timing
        link = TransactionalLink(
            self._kafka.client(self.process), GROUP, transaction_timeout=timing.transaction
        )
        consumer = self.consumer = self._kafka.consumer(
            self.process,
            GROUP,
            session_timeout=timing.session,
            rebalance_timeout=timing.rebalance,
            heartbeat_interval=timing.heartbeat,
            instance_id=f"slot-{self.slot}" if self._world.static_members else None,
            isolation_level=self.isolation_level,
        )
        try:
            await link.missing((OUTCOMES, DEAD_LETTERS, *self._world.retry_topics))
            await link.follow((OUTCOMES, DEAD_LETTERS, *self._world.retry_topics))
            await consumer.start()
            self.intake = self._compose(link, consumer)
            consumer.subscribe([EVENTS, *self._world.retry_topics], listener=self.intake)
            if not self._stopping.is_set():
                await self.intake.run()
        except BrokerUnavailableError:
            await asyncio.sleep(0.5)
        finally:
            self.intake = self.consumer = None
            if self.process.alive:
                await consumer.stop()

    def _compose(self, link: TransactionalLink, consumer: intake.Consumer) -> Intake:
        world = self._world
        encoder = Encoder(OUTCOMES, DEAD_LETTERS, OutcomeContext(CLUSTER_ID), retries=world.retry_topics)

        def make_ledger(
            member: Membership,
            producers: Mapping[str, tuple[int, int]],
            trackers: Mapping[TopicPartition, Tracker],
            on_committed: Callable[[Sequence[EndedRecord]], None],
        ) -> Ledger:
            return Ledger(
                writer=TransactionWriter(link, member, producers, Publisher(link)),
                read_offsets=link.read_offsets,
                trackers=trackers,
                encoder=encoder,
                bounds=ledger.FlushBounds(world.timing.flush, world.flush_records),
                metrics=self._metrics,
                on_committed=on_committed,
            )

        return Intake(
            consumer=consumer,
            link=link,
            group=GROUP,
            cluster_id=CLUSTER_ID,
            start_from="earliest",
            delivery=self._delivery(),
            make_ledger=make_ledger,
            pause_reason=lambda: self._flow.pause_reason,
            supplied=lambda: self._flow.supplied,
            bounds=intake.Bounds(records=world.max_records, drain=world.timing.drain),
            metrics=self._metrics,
            retry_topics=world.retry_topics,
            clock=virtual_now,
            monotonic=self._loop.time,
        )

    def _delivery(self) -> Delivery:
        return Delivery(
            rules=rules,
            flow=self._flow,
            gateway=Started(self._gateway),
            secrets={"main": SECRET},
            policy=RetryPolicy(
                max_attempts_now=2,
                base_seconds=0.1,
                cap_seconds=0.5,
                retry_after_cap_seconds=1.0,
                delays=self._world.timing.delays,
            ),
            url=URL,
            metrics=self._metrics,
            clock=virtual_now,
            monotonic=self._loop.time,
            random=self._rng.random,
        )


class Crew:
    """The members that should run; one that dies comes back as another process.

    Attributes:
        members: all that ever were, in their order.
    """

    def __init__(self, world: World, make: Callable[[str, int], Member], loop: VirtualLoop) -> None:
        self.world = world
        self.members: list[Member] = []
        self.closing = False
        self._make = make
        self._loop = loop
        self._wanted = 0

    @property
    def running(self) -> list[Member]:
        return [member for member in self.members if member.running]

    @property
    def staying(self) -> list[Member]:
        return [member for member in self.running if not member.leaving]

    def add(self) -> None:
        """One more from now on."""
        self._wanted += 1
        self._start_missing()

    def kill(self, process: Process, back_after: float | None) -> None:
        """None: it does not come back, unless it was the last one."""
        process.kill()
        if back_after is None and self._wanted > 1:
            self._wanted -= 1
        else:
            self._loop.call_later(back_after or 1.0, self._start_missing, context=NOBODY)

    def pause(self, process: Process, seconds: float) -> None:
        process.pause()
        self._loop.call_later(seconds, process.resume, context=NOBODY)

    def rejoin(self, rng: Random) -> None:
        if self.running:
            rng.choice(self.running).rejoin()

    def stop_one(self, rng: Random) -> None:
        """One less, unless it is the last one."""
        if self._wanted > 1 and self.staying:
            self._wanted -= 1
            rng.choice(self.staying).terminate()

    def heal(self) -> None:
        """All that should run, do."""
        for member in self.running:
            member.process.resume()
        self._start_missing()

    def close(self) -> None:
        """SIGTERM to all."""
        self.closing = True
        for member in self.running:
            member.terminate()

    def of(self, process: Process) -> Member:
        return next(member for member in self.members if member.process is process)

    def stands_at(self, process: Process) -> str:
        """Where its writing stands, for whoever counts places."""
        return self.of(process).stands_at()

    def _start_missing(self) -> None:
        while not self.closing and len(self.staying) < self._wanted:
            taken = {member.slot for member in self.running}
            slot = next(number for number in count() if number not in taken)
            member = self._make(f"member-{len(self.members) + 1}", slot)
            self.members.append(member)
            member.start()
