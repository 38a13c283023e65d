"""The fake Kafka as one process reaches it: a client's requests, and a consumer's. No I/O."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError

from consumer.link import TopicPartition
from tests.simulation.consumer import Fetch
from tests.simulation.virtual import Process
from tests.simulation.wire import FindCoordinator, ListOffsets, Metadata, raised

if TYPE_CHECKING:
    from tests.simulation.kafka import FakeKafka

NODES = (1, 2)


class FakeClient:
    """What `link.KafkaLink` needs of an AIOKafkaClient, for one process.

    Attributes:
        cluster: partitions and leaders as this client last heard of them.
    """

    def __init__(self, kafka: "FakeKafka", process: Process, request_timeout: float) -> None:
        self.cluster = _Known({})
        self._kafka = kafka
        self._process = process
        self._request_timeout = request_timeout
        self._topics: tuple[str, ...] = ()

    async def send(self, node: int, request: Any, *, group: int = ConnectionGroup.DEFAULT) -> Any:
        return await self._kafka.exchange(self._process, node, request, self._request_timeout)

    async def coordinator_lookup(self, kind: int, key: str) -> int:
        what = "group" if kind == CoordinationType.GROUP else "transaction"
        found: int = raised(await self.send(self.get_random_node(), FindCoordinator(f"{what} {key}")))
        return found

    def get_random_node(self) -> int:
        return self._kafka.rng.choice(NODES)

    async def set_topics(self, topics: Iterable[str]) -> None:
        self._topics = tuple(topics)
        await self.force_metadata_update()

    async def force_metadata_update(self) -> None:
        """What cannot be had is not had: aiokafka tries again by itself, later."""
        try:
            counts = raised(await self.send(self.get_random_node(), Metadata(self._topics)))
        except (KafkaConnectionError, RequestTimedOutError, NodeNotReadyError):
            return
        known = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        self.cluster = _Known({tp: self._kafka.leader(tp) for tp in known})


@dataclass(frozen=True, slots=True)
class _Known:
    leaders: Mapping[TopicPartition, int]

    def leader_for_partition(self, tp: TopicPartition) -> int | None:
        return self.leaders.get(tp)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {tp.partition for tp in self.leaders if tp.topic == topic} or None


@dataclass(frozen=True, slots=True)
class ConsumersNetwork:
    kafka: "FakeKafka"
    process: Process
    request_timeout: float

    async def find_group(self, group: str) -> int:
        found: int = raised(await self.ask(self._any(), FindCoordinator(f"group {group}")))
        return found

    async def ask(self, node: int, request: Any) -> Any:
        return await self.kafka.exchange(self.process, node, request, self.request_timeout)

    async def partitions(self, topics: Iterable[str]) -> Mapping[str, int]:
        counts: Mapping[str, int] = raised(await self.ask(self._any(), Metadata(tuple(topics))))
        return counts

    async def list_offsets(
        self, partitions: Sequence[TopicPartition], at: int | None
    ) -> Mapping[TopicPartition, Any]:
        bounds: Mapping[TopicPartition, Any] = raised(
            await self.ask(self._any(), ListOffsets(tuple(partitions), at))
        )
        return bounds

    async def committed(
        self, group: str, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        await asyncio.sleep(2 * self.kafka.latency())
        return {tp: self.kafka.group(group).fetch(tp, stable=False)[1] for tp in partitions}

    def fetch(self, request: Fetch) -> None:
        self.kafka.fetch(request, self.request_timeout)

    def _any(self) -> int:
        return self.kafka.rng.choice(NODES)
