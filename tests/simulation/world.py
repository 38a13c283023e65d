"""What one simulated run consists of, drawn from its seed: members, topics, records, settings. Performs no I/O."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import orjson

from consumer import rulebook
from consumer.core.rules import RuleBook
from tests.simulation.virtual import BEGIN

EVENTS, OUTCOMES, DEAD_LETTERS, RETRIES = "charges", "outcomes", "dead-letters", "retries"
GROUP = "coupons"
SECRET = "a secret of the simulation"

RULES = """
version: 1
deadline: off
accounts:
  main: {app_id: main, secret: main, api_type: "5"}
  other: {app_id: other, secret: main, api_type: "5"}
sources:
  canonical: {extends: canonical}
stations:
  S1: {api_store_code: L1, zone: Asia/Shanghai}
  S2: {api_store_code: L2, zone: Asia/Shanghai}
rules:
  - {name: hardly-charged, when: energy_wh < 1000, skip: below_threshold}
  - name: main
    stations: [S1]
    account: main
    subject: "{plate}"
    metadata: {push: {name: 推送, value: energy_wh}}
  - name: other
    stations: [S2]
    account: other
    subject: "{plate}"
    metadata: {push: {name: 推送, value: energy_wh}}
"""

FIRST_PUSH = 1000
"""An order's energy in Wh is the number of its push: so a call can be told to belong to it."""


@cache
def rules() -> RuleBook:
    """Compiled once a process."""
    return rulebook.parse(RULES)


@dataclass(frozen=True, slots=True)
class Push:
    """One order in one record.

    Attributes:
        number: unlike any other's; `event_id` can be that of another push.
        ends: outcomes that it may come to; the platform decides where there are several.
        enters_at: seconds from the run's begin; until then the platform does not know the car.
    """

    number: int
    event_id: str
    plate: str
    account: str = "main"
    ends: frozenset[str] = frozenset({"granted", "already_granted"})
    enters_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """One record to append.

    Attributes:
        at: seconds from the run's begin.
        pushes: its orders; none of a record that cannot be read.
    """

    at: float
    partition: int
    key: bytes
    value: bytes
    pushes: tuple[Push, ...]
    ends: str = ""
    compacted: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, as a deployment sets them, a tenth as long."""

    session: float = 3.0
    heartbeat: float = 0.6
    rebalance: float = 6.0
    drain: float = 2.5
    transaction: float = 120.0
    flush: float = 0.05
    call: float = 1.5
    probe: float = 0.4
    delays: tuple[float, ...] = (1.0, 2.5)


@dataclass(frozen=True, slots=True)
class World:
    """Everything but the faults.

    Attributes:
        old_broker: it forgets pending offsets as Kafka did up to 3.9.
        copied_map: the group begins with an offset map that was written for another offset.
        static_members: each has a name of its own in the group, and whoever is started in its place has it too.
        trouble_until: when faults stop, and the platform answers well.
    """

    seed: int
    members: int
    partitions: int
    retry_partitions: int
    outcome_partitions: int
    events: tuple[Event, ...]
    timing: Timing
    max_in_flight: int
    max_records: int
    flush_records: int
    old_broker: bool
    copied_map: bool
    static_members: bool
    trouble_until: float = 12.0

    @property
    def retry_topics(self) -> tuple[str, ...]:
        return tuple(f"{RETRIES}.{number}" for number in range(len(self.timing.delays)))

    @property
    def pushes(self) -> Iterator[Push]:
        return (push for event in self.events for push in event.pushes)


def stream(seed: int, name: str) -> random.Random:
    """Randomness of its own for each purpose, so that one more draw here changes nothing there."""
    return random.Random(f"{seed}/{name}")


def draw(seed: int) -> World:
    rng = stream(seed, "world")
    partitions = rng.choice((1, 2, 3, 4, 6))
    return World(
        seed=seed,
        members=rng.choice((1, 2, 2, 3, 3)),
        partitions=partitions,
        retry_partitions=rng.choice((1, 1, 2)),
        outcome_partitions=rng.choice((1, 2)),
        events=tuple(_Events(rng, partitions).draw(rng.randint(8, 40))),
        timing=Timing(
            flush=rng.choice((0.01, 0.05, 0.1)),
            heartbeat=rng.choice((0.5, 1.0)),
            drain=rng.choice((0.6, 2.5, 4.0)),
            delays=rng.choice(((1.0,), (0.5, 2.0), (0.5, 2.0))),
        ),
        max_in_flight=rng.choice((1, 4, 16)),
        max_records=rng.choice((4, 20, 200)),
        flush_records=rng.choice((1, 5, 200)),
        old_broker=rng.random() < 0.4,
        copied_map=rng.random() < 0.1,
        static_members=rng.random() < 0.25,
    )


@dataclass
class _Events:
    rng: random.Random
    partitions: int
    pushes: list[Push] = field(default_factory=list)

    def draw(self, count: int) -> Iterator[Event]:
        """In the order of their times: some at once, a backlog, the rest as the run goes on."""
        self._cars = [f"粤B{number:05}" for number in range(self.rng.randint(2, 12))]
        times = sorted(self.rng.choice((0.0, self.rng.uniform(0.0, 10.0))) for _ in range(count))
        for at in times:
            yield self._event(at)

    def _event(self, at: float) -> Event:
        rng = self.rng
        kind = rng.random()
        partition = rng.randrange(self.partitions)
        key = str(partition).encode()
        if kind < 0.06:
            return Event(at, partition, key, b"{no JSON", (), ends="invalid")
        if kind < 0.12:
            return Event(at, partition, key, b"{}", (), ends="invalid", compacted=True)
        if kind < 0.18:
            push = self._push(FIRST_PUSH - 500)
            return Event(at, partition, key, _value([push]), (), ends="skipped")
        count = rng.randint(2, 4) if kind < 0.35 else 1
        pushes = tuple(self._push(FIRST_PUSH + len(self.pushes) + number) for number in range(count))
        self.pushes += pushes
        if self.rng.random() < 0.6:  # as a topic that is partitioned by its cars
            partition = int(pushes[0].plate[2:]) % self.partitions
        return Event(at, partition, key, _value(pushes), pushes)

    def _push(self, number: int) -> Push:
        rng = self.rng
        if self.pushes and rng.random() < 0.12:
            again = rng.choice(self.pushes)
            return Push(number, again.event_id, again.plate, again.account, again.ends, again.enters_at)
        refused = rng.random() < 0.06
        return Push(
            number,
            event_id=f"MA5DA{number:022}",
            plate=rng.choice(self._cars),
            account=rng.choice(("main", "main", "other")),
            ends=frozenset({"limited"}) if refused else frozenset({"granted", "already_granted"}),
            enters_at=rng.uniform(0.5, 9.0) if rng.random() < 0.1 else 0.0,
        )


def _value(pushes: "list[Push] | tuple[Push, ...]") -> bytes:
    started, ended = BEGIN - timedelta(hours=2), BEGIN - timedelta(hours=1)
    orders = [
        {
            "order_id": push.event_id,
            "plate": push.plate,
            "station_id": "S1" if push.account == "main" else "S2",
            "started_at": started.isoformat(),
            "ended_at": ended.isoformat(),
            "energy_kwh": push.number / 1000,
        }
        for push in pushes
    ]
    return orjson.dumps(orders[0] if len(orders) == 1 else orders)
