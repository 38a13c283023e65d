"""The fake Kafka's transaction coordinator, as brokers 2.5 to 4.x behave towards InitProducerId v0. No I/O."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from consumer.link import Code

LAST_EPOCH = 32766


class State(Enum):
    EMPTY = "no transaction yet in this epoch"
    ONGOING = "something was added"
    PREPARE_COMMIT = "committed, markers are being written"
    PREPARE_ABORT = "aborted, markers are being written"
    COMPLETE_COMMIT = "the last one was committed"
    COMPLETE_ABORT = "the last one was aborted"


_PREPARED = (State.PREPARE_COMMIT, State.PREPARE_ABORT)

Target = Any
"""Where a transaction writes: a TopicPartition, or a group (by its name), for its offsets."""


@dataclass
class Transaction:
    """A transactional id and its transaction."""

    name: str
    producer_id: int
    epoch: int = -1
    timeout: float = 60.0
    state: State = State.EMPTY
    targets: dict[Target, None] = field(default_factory=dict)
    number: int = 0


class Cluster(Protocol):
    """What the coordinator needs around it."""

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it then, whatever process is alive."""

    def marker_delay(self) -> float:
        """How long until one marker is written."""

    def mark(self, target: Target, producer_id: int, epoch: int, *, commit: bool) -> None:
        """Write a marker."""

    def ended(self, name: str, how: str, *, commit: bool) -> None:
        """A transaction is decided."""


class TransactionCoordinator:
    """Keeps each transactional id's producer id, epoch and transaction.

    Attributes:
        timed_out: transactions that nobody ended in time.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.timed_out = 0
        self._cluster = cluster
        self._by_name: dict[str, Transaction] = {}
        self._next_producer_id = 1000

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    @property
    def idle(self) -> list[str]:
        """Those that could expire."""
        busy = (State.ONGOING, *_PREPARED)
        return [name for name, each in self._by_name.items() if each.state not in busy]

    @property
    def marking(self) -> bool:
        """Something is decided, and not visible everywhere yet."""
        return any(each.state in _PREPARED for each in self._by_name.values())

    def init(self, name: str, timeout: float) -> tuple[int, int, int]:
        """(error code, producer id, epoch). What is open is aborted first, under the next epoch."""
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = Transaction(name, self._new_producer_id())
        if found.state is State.ONGOING:
            found.epoch += 1
            self._end(found, "fenced", commit=False)
        if found.state in _PREPARED:
            return Code.CONCURRENT_TRANSACTIONS, -1, -1
        if found.epoch >= LAST_EPOCH:
            found.producer_id, found.epoch = self._new_producer_id(), -1
        found.epoch += 1
        found.state, found.timeout = State.EMPTY, timeout
        return Code.NONE, found.producer_id, found.epoch

    def add(self, name: str, producer_id: int, epoch: int, targets: Iterable[Target]) -> int:
        found = self._by_name.get(name)
        if code := self._refused(found, producer_id, epoch):
            return code
        assert found is not None
        if found.state in _PREPARED:
            return Code.CONCURRENT_TRANSACTIONS
        if found.state is not State.ONGOING:
            found.state, found.targets = State.ONGOING, {}
            found.number += 1
            number = found.number
            self._cluster.later(found.timeout, lambda: self._time_out(found, number))
        found.targets.update(dict.fromkeys(targets))
        return Code.NONE

    def end(self, name: str, producer_id: int, epoch: int, *, commit: bool) -> int:
        """Asked again after it is done, it answers as before."""
        found = self._by_name.get(name)
        if code := self._refused(found, producer_id, epoch):
            return code
        assert found is not None
        same = (
            (State.PREPARE_COMMIT, State.COMPLETE_COMMIT)
            if commit
            else (State.PREPARE_ABORT, State.COMPLETE_ABORT)
        )
        if found.state is State.ONGOING:
            self._end(found, "asked", commit=commit)
        elif found.state not in same:
            return Code.INVALID_TXN_STATE
        elif found.state in _PREPARED:
            return Code.CONCURRENT_TRANSACTIONS
        return Code.NONE

    def verify(self, name: str, producer_id: int, epoch: int, target: Target) -> int:
        """Whether this may be written to now, as a partition's leader asks."""
        found = self._by_name.get(name)
        if code := self._refused(found, producer_id, epoch):
            return code
        assert found is not None
        if found.state in _PREPARED:
            return Code.NOT_ENOUGH_REPLICAS  # what a leader makes of "concurrent transactions"
        if found.state is not State.ONGOING or target not in found.targets:
            return Code.INVALID_TXN_STATE
        return Code.NONE

    def expire(self, name: str) -> None:
        """Nobody used it for a week."""
        assert self._by_name[name].state not in (State.ONGOING, *_PREPARED)
        del self._by_name[name]

    def _refused(self, found: Transaction | None, producer_id: int, epoch: int) -> int:
        if found is None or found.producer_id != producer_id:
            return Code.INVALID_PRODUCER_ID_MAPPING
        return Code.INVALID_PRODUCER_EPOCH if found.epoch != epoch else Code.NONE

    def _time_out(self, found: Transaction, number: int) -> None:
        if found.state is State.ONGOING and found.number == number:
            self.timed_out += 1
            found.epoch += 1
            self._end(found, "timed out", commit=False)

    def _end(self, found: Transaction, how: str, *, commit: bool) -> None:
        """Decided at once; its readers and its offsets learn of it one by one."""
        found.state = State.PREPARE_COMMIT if commit else State.PREPARE_ABORT
        self._cluster.ended(found.name, how, commit=commit)
        waiting = dict(found.targets)

        def mark(target: Target) -> None:
            self._cluster.mark(target, found.producer_id, found.epoch, commit=commit)
            del waiting[target]
            if not waiting:
                found.state = State.COMPLETE_COMMIT if commit else State.COMPLETE_ABORT

        for target in found.targets:
            self._cluster.later(self._cluster.marker_delay(), lambda target=target: mark(target))  # type: ignore[misc]  # mypy does not infer such a lambda

    def _new_producer_id(self) -> int:
        self._next_producer_id += 1
        return self._next_producer_id
