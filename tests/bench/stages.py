"""What each stage of an event's way costs by itself, with no I/O and nobody else: `python -m tests.bench.stages`.

The events and rules are those of `pipeline`. Microseconds of CPU an event, the best of several rounds in turn. In the
service, with caches shared by everything else that goes on, each costs about twice as much; what is dear here is dear there.
"""

import argparse
import asyncio
import gc
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import structlog
from prometheus_client import CollectorRegistry

from consumer import rulebook
from consumer.core.coupons import CouponRequest
from consumer.core.events import Coordinates, Order, Record
from consumer.core.offsets import Tracker
from consumer.core.outcomes import OutcomeContext, PlateMode, Privacy, Resolution
from consumer.core.replies import Answered
from consumer.core.retries import RetryPolicy
from consumer.delivery import Delivery, UnderWay
from consumer.eventloop import GARBAGE
from consumer.flow import Flow
from consumer.gateway import Caller
from consumer.intake import TURN_RECORDS
from consumer.ledger import Encoder, FlushBounds, Ledger
from consumer.link import Committed, CommittedOffset, KafkaLink, Outgoing, TopicPartition
from consumer.metrics import Metrics
from consumer.publishing import Identity, Publisher
from tests.bench.pipeline import HOUR_AGO, Load, write_rules
from tests.bench.platform import GRANT

NOW = HOUR_AGO + timedelta(hours=1)  # when the last of the charges has ended
TIMESTAMP_MS = int(NOW.timestamp() * 1000)
RECORDS = 250
"""Of a transaction."""

REPLY = (GRANT % (1, 1)).encode()


class Topics:
    """A link that knows how many partitions the topic of outcomes has."""

    def partition_count(self, _topic: str) -> int:
        return 3


class Kafka:
    """Takes transactions at once, once their batches are ready to be sent."""

    doubtful = False

    def __init__(self) -> None:
        self.publisher = Publisher(cast("KafkaLink", Topics()), compression="lz4")
        self.publisher.identity = Identity("id", 1, 0)

    async def flush(self, _offsets: object, records: Sequence[Outgoing]) -> Committed:
        for queue in self.publisher.batches(records, range(len(records))).values():
            for batch in queue:
                self.publisher._bytes_of(batch)
        return Committed()

    async def recover(self, _deadline: float) -> bool:
        raise NotImplementedError

    async def read_offsets(self, *_: object) -> dict[TopicPartition, CommittedOffset]:
        raise NotImplementedError


class Platform:
    """Answers at once."""

    def start(self, _url: str, _body: bytes, caller: Caller) -> "Platform":
        caller.answered(Answered(200, REPLY))
        return self

    def cancel(self) -> None: ...


def records(load: Load) -> list[Record]:
    found = []
    for number in range(load.events):
        at, key, value = load.event(number)
        place = Coordinates("charging-completed", at, number // load.partitions)
        found.append(Record(place, TIMESTAMP_MS, key, value))
    return found


def stages(  # noqa: C901  # a list of loops
    load: Load, folder: Path
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Each goes over all events once, with what the one before it made of them."""
    book = rulebook.load(write_rules(folder, load.rules))
    metrics = Metrics(CollectorRegistry())
    flow = Flow(max_in_flight=load.in_flight, accounts=book.accounts, metrics=metrics)
    secrets = {"main": "a secret of no platform"}
    delivery = Delivery(
        rules=lambda: book,
        flow=flow,
        gateway=Platform(),
        secrets=secrets,
        policy=RetryPolicy(),
        url="http://127.0.0.1:1/",
        metrics=metrics,
        clock=lambda: datetime.now(UTC),
    )
    context = OutcomeContext(
        "a-cluster-of-no-use-x", Privacy(PlateMode.BOTH, b"a key for the hashes of plates")
    )
    encoder = Encoder("outcomes", "letters", context)
    events = records(load)
    source = book.source_for("charging-completed")
    assert source is not None
    orders: list[Order] = []
    requests: list[CouponRequest] = []
    resolutions: list[Resolution] = []

    async def opened() -> None:
        for record in events:
            source.envelope.open(record)

    async def read() -> None:
        read = book.read_all(events, NOW)
        orders[:] = [item for items in read for item in items if isinstance(item, Order)]
        assert len(orders) == len(events), "else the stages that follow have nothing to do"

    async def plan() -> None:
        requests[:] = [found for order in orders if isinstance(found := book.plan(order), CouponRequest)]

    async def sign() -> None:
        for request in requests:
            request.encoded(NOW, "a secret of no platform")

    async def classify() -> None:
        for _ in events:
            book.replies.classify(Answered(200, REPLY), NOW)

    def ended(wholes: Sequence[UnderWay]) -> None:
        for whole in wholes:
            resolutions.extend(whole.resolutions)

    async def deliver() -> None:
        resolutions.clear()
        for first in range(0, len(events), TURN_RECORDS):
            delivery.begin(events[first : first + TURN_RECORDS], ended)
            while delivery.under_way:  # noqa: ASYNC110  # it sets no event
                await asyncio.sleep(0)

    async def encode() -> None:
        for resolution in resolutions:
            encoder.encode(resolution)

    async def write() -> None:
        kafka = Kafka()
        trackers = {TopicPartition("charging-completed", at): Tracker(0) for at in range(load.partitions)}
        ledger = Ledger(
            writer=kafka,
            read_offsets=kafka.read_offsets,
            trackers=trackers,
            encoder=encoder,
            bounds=FlushBounds(),
            metrics=metrics,
            on_committed=lambda _: None,
        )
        for resolution in resolutions:
            at = resolution.record.coordinates
            trackers[TopicPartition(at.topic, at.partition)].take(at.offset)
        for first in range(0, len(resolutions), RECORDS):
            for resolution in resolutions[first : first + RECORDS]:
                ledger.add(resolution.record, [resolution])
            await ledger._flush(ledger._collect(clean=False))

    return {
        "open": opened,
        "open and read": read,
        "plan": plan,
        "sign and encode": sign,
        "classify": classify,
        "deliver, all of the above": deliver,
        "encode the outcome": encode,
        "write it, encoded as above": write,
    }


async def measure(load: Load, rounds: int, only: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = stages(load, Path(folder))
        for stage in found.values():
            await stage()
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE)  # as in the service
        best = dict.fromkeys(found, float("inf"))
        for _ in range(rounds):
            for name, stage in found.items():
                if only is not None and only not in name:
                    continue
                began = time.process_time()
                await stage()
                best[name] = min(best[name], (time.process_time() - began) / load.events * 1e6)
    for name, each in best.items():
        if each != float("inf"):
            print(f"{name:>28}  {each:6.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--rules", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", help="stages whose name holds this")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    asyncio.run(measure(Load(events=chosen.events, rules=chosen.rules), chosen.rounds, chosen.only))


if __name__ == "__main__":
    main()
