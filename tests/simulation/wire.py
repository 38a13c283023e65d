"""Requests and answers as they go between clients and the fake Kafka. No I/O."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import for_code
from aiokafka.record.memory_records import MemoryRecords

from consumer.link import TopicPartition
from tests.simulation.group import Joined, JoinGroup, LeaveGroup, Synced, SyncGroup
from tests.simulation.log import Batch, Row

VERSIONS = {
    0: (3, 7),
    3: (0, 5),
    9: (7, 7),
    12: (1, 1),
    22: (0, 0),
    24: (0, 0),
    25: (0, 0),
    26: (0, 0),
    28: (3, 3),
}
"""Of the requests that are aiokafka's own or ours, by API key; the others are the dataclasses here and in `group`."""


@dataclass(frozen=True, slots=True)
class FindCoordinator:
    key: str


@dataclass(frozen=True, slots=True)
class Metadata:
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListOffsets:
    partitions: tuple[TopicPartition, ...]
    at: int | None


@dataclass(frozen=True, slots=True)
class _Refused:
    code: int


def refusal(request: Any, code: int) -> Any:
    """The answer to a request that says this of everything in it (or, with code 0, nothing)."""
    match request:
        case JoinGroup():
            return Joined(code)
        case SyncGroup():
            return Synced(code)
        case LeaveGroup():
            return code
        case FindCoordinator() | Metadata() | ListOffsets():
            return _Refused(code)
        case _:
            return _REFUSALS[request.API_KEY](request, request.RESPONSE_TYPE, code)


_REFUSALS: Mapping[int, Callable[[Any, Any, int], Any]] = {
    0: lambda request, answer, code: answer(
        [(topic, [(part[0], code, -1, -1, 0) for part in parts]) for topic, parts in request.topics], 0
    ),
    9: lambda request, answer, code: answer(
        0,
        [(topic, [(n, -1, -1, "", code, {}) for n in numbers], {}) for topic, numbers, _ in request.topics],
        code,
        {},
    ),
    12: lambda request, answer, code: answer(0, code),
    22: lambda request, answer, code: answer(0, code, -1, -1),
    24: lambda request, answer, code: answer(
        0, [(topic, [(n, code) for n in numbers]) for topic, numbers in request.topics]
    ),
    25: lambda request, answer, code: answer(0, code),
    26: lambda request, answer, code: answer(0, code),
    28: lambda request, answer, code: answer(
        0, [(topic, [(row[0], code, {}) for row in rows], {}) for topic, rows, _ in request.topics], {}
    ),
}


def raised(answer: Any) -> Any:
    if isinstance(answer, _Refused):
        raise for_code(answer.code)
    return answer


def name_of(request: object) -> str:
    return type(request).__name__.lstrip("_").removesuffix("Request")


def producer(request: Any) -> tuple[str, int, int]:
    return request.transactional_id, request.producer_id, request.producer_epoch


def batches(data: bytes) -> Iterable[Batch]:
    records = MemoryRecords(data)
    while records.has_next():
        batch = records.next_batch()
        rows = [Row(each.timestamp, each.key, each.value, tuple(each.headers)) for each in batch]
        yield Batch(
            rows, batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.is_transactional
        )
