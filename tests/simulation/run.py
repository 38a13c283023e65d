"""One simulated run: a world and its faults from one seed, every invariant asked throughout. I/O on fakes only.

python -m tests.simulation --seed 17 --trace
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from consumer.core.offsets import encode_map
from consumer.link import TopicPartition
from tests.simulation import group, invariants
from tests.simulation.faults import CALL, Faults
from tests.simulation.invariants import Expected, History, Place
from tests.simulation.kafka import CLUSTER_ID, Change, FakeKafka, Fault, RecordsVisible, TransactionEnded
from tests.simulation.member import Crew, Member
from tests.simulation.platform import Call, Platform
from tests.simulation.virtual import PROCESS, Process, VirtualLoop, virtual_now
from tests.simulation.world import (
    DEAD_LETTERS,
    EVENTS,
    GROUP,
    OUTCOMES,
    Event,
    World,
    draw,
    stream,
)

SETTLE_SECONDS = 60.0
"""After faults have stopped, everything has to end within this."""

STOP_SECONDS = 8.0
"""Within this a member has to end after SIGTERM."""

BUGS = {"intake.delivery_failed", "intake.open_failed", "intake.ledger_failed"}
"""What is logged where the code met an exception that it does not expect."""


@dataclass
class Report:
    """How a run went.

    Attributes:
        broken: (invariant, what was found).
        counts: of things that happened, for the curious.
        digest: of all that happened; the same seed gives the same.
    """

    seed: int
    themes: list[str] = field(default_factory=list)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    digest: str = ""


def simulate(seed: int, tell: Callable[[str], None] | None = None) -> Report:
    """Run one seed to its end, or to the first thing that is broken."""
    run = Run(draw(seed), tell)
    with _logged(run.log):
        return run.execute()


class Run:
    def __init__(self, world: World, tell: Callable[[str], None] | None) -> None:
        seed = world.seed
        self.world = world
        self.report = Report(seed)
        self._tell = tell
        self._ended = False
        self._digest = hashlib.blake2b(digest_size=12)
        self._loop = VirtualLoop(seed)
        self.kafka = FakeKafka(self._loop, stream(seed, "kafka"), forgets_pending_offsets=world.old_broker)
        self._over = asyncio.Event()
        self.platform = Platform(
            self._loop,
            stream(seed, "platform"),
            {push.number: push for push in world.pushes},
            world.timing.call,
            self._called,
        )
        self.crew = Crew(world, self._member, self._loop)
        self.history = History(world, self.kafka, self.platform, self._is_zombie)
        self.faults = Faults(stream(seed, "faults"), self._loop, self.crew, self.kafka, self.platform)
        self.report.themes, self.report.faults = self.faults.themes, self.faults.counts
        self._forget = self.kafka.group(GROUP)._forget
        setattr(self.kafka.group(GROUP), "_forget", self._forgotten)  # noqa: B010  # mypy knows that a method is no variable
        self.kafka.faults = self._asked
        self.kafka.observers.append(self._changed)
        self._loop.on_step = self.faults.at_step

    def execute(self) -> Report:
        try:
            self._loop.run_until_complete(self._direct())
        finally:
            self._ended = True
            for member in self.crew.members:
                member.process.kill()
            self._loop.close()
        self.report.digest = self._digest.hexdigest()
        self.report.seconds = self._loop.time()
        return self.report

    async def _direct(self) -> None:
        world = self.world
        self.kafka.create_topic(EVENTS, world.partitions)
        self.kafka.create_topic(OUTCOMES, world.outcome_partitions)
        self.kafka.create_topic(DEAD_LETTERS, 1)
        for topic in world.retry_topics:
            self.kafka.create_topic(topic, world.retry_partitions)
        if world.copied_map:
            copied = encode_map(CLUSTER_ID, 3, [(5, 9)], clean=False)
            for number in range(world.partitions):
                self.kafka.group(GROUP).offsets[TopicPartition(EVENTS, number)] = (0, copied)
        for number in range(world.members):
            self._loop.call_at(number * 0.4, self.crew.add)
        for event in world.events:
            self._loop.call_at(event.at, self._append, event)
        self._loop.call_at(world.trouble_until, self._calm_down)
        await self._until(world.trouble_until + SETTLE_SECONDS)
        if self.report.broken:
            return
        self.crew.close()
        await self._stopped()
        for member in self.crew.members:
            for bug in member.bugs:
                self._broken("no_exception_that_nobody_expects", f"{member.process.name}: {bug!r}")
        for invariant in invariants.AT_END:
            self._judge(invariant, invariant(self.history))

    async def _until(self, deadline: float) -> None:
        """Until everything has come to rest, something is broken, or it takes too long."""
        last = max(event.at for event in self.world.events)
        while not self.report.broken and self._loop.time() < deadline:
            await asyncio.sleep(0.25)
            if self._loop.time() > last and not any(invariants.nothing_is_lost(self.history)):
                break

    async def _stopped(self) -> None:
        """SIGTERM ends every member within its bound, of which the time does not count while it stands still.

        And what is decided is visible everywhere: a marker that was slow when the faults stopped is on its way.
        """
        bound, step = self.world.timing.drain + STOP_SECONDS, 0.1
        ran: Counter[Member] = Counter()
        while (self.crew.running or self.kafka.transactions.marking) and not self.report.broken:
            await asyncio.sleep(step)
            for member in self.crew.running:
                ran[member] += 0 if member.process.paused else 1
                if ran[member] * step > bound:
                    self._broken("a_member_stops_in_time", f"{member.process.name} runs on after SIGTERM")

    def _calm_down(self) -> None:
        self._note("calm", "faults stop")
        self.faults.over = True
        self.platform.calm_down()
        self.crew.heal()

    def _append(self, event: Event) -> None:
        offset = self.kafka.append(
            EVENTS,
            event.partition,
            event.key,
            event.value,
            timestamp_ms=int(virtual_now().timestamp() * 1000),
        )
        place = TopicPartition(EVENTS, event.partition)
        if event.compacted:
            self.kafka.compact(place, offset)
        for index, push in enumerate(event.pushes or (None,)):
            identity = f"{CLUSTER_ID}/{EVENTS}/{event.partition}/{offset}/{index}"
            ends = push.ends if push is not None else frozenset({event.ends})
            if push is not None:
                self.history.place[push.number] = Place(place, offset, index)
            self.history.expected[identity] = Expected(place, ends, push, certain=not event.compacted)

    def _member(self, name: str, slot: int) -> Member:
        seed = self.world.seed
        return Member(name, slot, self.world, self._loop, self.kafka, self.platform, stream(seed, name))

    # -- What happens, as it happens ----------------------------------------------------------------

    def _asked(self, process: Process, name: str, request: object) -> Fault | None:
        fault = self.faults.at_request(process, name, request)
        if name == "TxnOffsetCommit":
            found = invariants.a_zombie_holds_up_nobody(self.history, process, request)
            self._judge(invariants.a_zombie_holds_up_nobody, found)
        if name != "Fetch":
            self._note(process.name, f"asks {name}" + (f", and {fault}" if fault else ""))
        return fault

    def _forgotten(self, member: group.Member) -> None:
        """The group goes on without a member."""
        self._forget(member)
        owner = next((each for each in self.crew.running if each.member_id == member.name), None)
        if owner is not None:
            self._note("kafka", f"goes on without {owner.process.name}")
            found = invariants.nobody_is_thrown_out_for_nothing(
                self.history, owner, self.faults.met_at.get(owner.process, 0.0)
            )
            self._judge(invariants.nobody_is_thrown_out_for_nothing, found)

    def _changed(self, change: Change) -> None:
        self._note("kafka", _words(change))
        for before in invariants.BEFORE_CHANGES:
            self._judge(before, before(self.history, change))
        self.history.note(change)
        for invariant in invariants.AT_CHANGES:
            self._judge(invariant, invariant(self.history, change))
        if isinstance(change, TransactionEnded):
            self._look_back(change)

    def _look_back(self, ended: TransactionEnded) -> None:
        """Of the transactions before this one under its id everything is visible by now."""
        for member in self.crew.running:
            if ended.id in member.own_ids and not self._is_zombie(member.process):
                found = invariants.an_outcome_and_its_done_mark_come_together(self.history, member.partitions)
                self._judge(invariants.an_outcome_and_its_done_mark_come_together, found)

    def _called(self, call: Call) -> None:
        self._note(call.process.name, f"calls for {call.push.number}")
        call.by_zombie = self._is_zombie(call.process)
        self.faults.at_request(call.process, CALL, call)
        for invariant in invariants.AT_CALLS:
            self._judge(invariant, invariant(self.history, call))
        self._judge(invariants.a_car_is_served_in_turn, self._in_turn(call))

    def _in_turn(self, call: Call) -> Iterable[str]:
        intake = self.crew.of(call.process).intake
        return invariants.a_car_is_served_in_turn(self.history, call, intake and intake._assignment)

    def _is_zombie(self, process: Process) -> bool:
        """It acts for an assignment that the group has given to others."""
        intake = self.crew.of(process).intake
        held = intake._assignment if intake is not None else None
        group = self.kafka.group(GROUP)
        return held is not None and (
            held.member.generation != group.generation or held.member.member_id not in group.members
        )

    def log(self, _: Any, level: str, event: dict[str, Any]) -> Any:
        """structlog's processor."""
        if self._ended:  # Python clears up what killed processes left
            raise structlog.DropEvent
        process = PROCESS.get(None)
        name = event.pop("event")
        self._note(process.name if process else "?", f"{level}: {name} {event}")
        self.report.counts[name] += 1
        if name in BUGS and (process is None or process.alive):
            self._broken("no_exception_that_nobody_expects", f"{name}: {event.get('exc_info')}")
        raise structlog.DropEvent

    def _judge(self, invariant: Callable[..., Any], found: Iterable[str]) -> None:
        for what in found:
            self._broken(invariant.__name__, what)

    def _broken(self, invariant: str, what: str) -> None:
        self._note("BROKEN", f"{invariant}: {what}")
        self.report.broken.append((invariant, what))

    def _note(self, who: str, what: str) -> None:
        line = f"{self._loop.time():9.4f} {who:10} {what}"
        self._digest.update(line.encode())
        if self._tell is not None:
            self._tell(line)


def _words(change: Change) -> str:
    if not isinstance(change, RecordsVisible):
        return str(change)
    records = [f"{record.offset} {sorted(record.headers)} {record.value!r}" for record in change.records]
    return f"visible in {change.topic}-{change.records[0].partition}: {'; '.join(records)}"


@contextmanager
def _logged(processor: Any, level: int = logging.WARNING) -> Iterator[None]:
    """The service's log goes to this run."""
    before = structlog.get_config()
    structlog.configure(
        processors=[processor],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)
