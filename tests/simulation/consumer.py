"""A group's consumer as aiokafka 0.14 is one, over the fake Kafka. Performs no I/O.

Eager: all partitions are revoked, and the callback awaited, before the group is joined again. Records are
fetched ahead; what was fetched of a partition that is paused or sought meanwhile is thrown away.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError, KafkaTimeoutError, for_code
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.structs import OffsetAndTimestamp

from consumer.decoding import NO_EPOCH, Damage, Doubt
from consumer.link import LOST, Code, Membership, TopicPartition
from tests.simulation.group import (
    MEMBER_ID_REQUIRED,
    Joined,
    JoinGroup,
    LeaveGroup,
    SyncGroup,
    share_out,
)
from tests.simulation.log import Stored
from tests.simulation.virtual import Process

BACKOFF = 0.1
"""aiokafka's `retry_backoff_ms`, in seconds."""

AHEAD = 50
"""Records of one fetch."""

_COORDINATOR_GONE = (Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR)


class Listener(Protocol):
    """aiokafka's ConsumerRebalanceListener."""

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None: ...

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None: ...


class Network(Protocol):
    """What a consumer needs of the fake Kafka, as its process reaches it."""

    async def find_group(self, group: str) -> int:
        """The coordinator's node."""

    async def ask(self, node: int, request: Any) -> Any:
        """Send a request; raises where its answer is lost."""

    async def partitions(self, topics: Iterable[str]) -> Mapping[str, int]:
        """How many each topic has now."""

    async def list_offsets(
        self, partitions: Sequence[TopicPartition], at: int | None
    ) -> Mapping[TopicPartition, Any]:
        """Beginning and end (`at` None), or the first record's offset and timestamp at or after a time."""

    async def committed(
        self, group: str, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        """Offsets, stable or not."""

    def fetch(self, request: "Fetch") -> None:
        """Answer it once there is something."""


@dataclass
class _Place:
    position: int | None = None
    paused: bool = False


@dataclass(eq=False)
class _Assignment:
    places: dict[TopicPartition, _Place]


@dataclass(eq=False)
class Fetch:
    """A fetch under way.

    Attributes:
        end: of the log, as of the answer.
        out_of_range: nothing is there, nor will be next.
    """

    process: Process
    consumer: "FakeConsumer"
    assignment: _Assignment
    tp: TopicPartition
    position: int
    committed: bool
    most: int = AHEAD
    records: list[Stored] = field(default_factory=list)
    next: int = 0
    end: int = 0
    out_of_range: bool = False

    def answered(self) -> None:
        """Called in the consumer's process."""
        self.consumer.fetched(self)


class FakeConsumer:
    """Takes the place of `link.GroupConsumer`."""

    def __init__(
        self,
        network: Network,
        process: Process,
        group: str,
        *,
        session_timeout: float = 10.0,
        rebalance_timeout: float = 30.0,
        heartbeat_interval: float = 3.0,
        metadata_age: float = 3.0,
        max_poll_interval: float = 300.0,
        request_timeout: float = 2.0,
        instance_id: str | None = None,
        isolation_level: str = "read_committed",
    ) -> None:
        self._network = network
        self._process = process
        self._group = group
        self._session_timeout = session_timeout
        self._rebalance_timeout = rebalance_timeout
        self._heartbeat_interval = heartbeat_interval
        self._metadata_age = metadata_age
        self._max_poll_interval = max_poll_interval
        self._request_timeout = request_timeout
        self._instance_id = instance_id
        self._committed_only = isolation_level == "read_committed"
        self._topics: tuple[str, ...] = ()
        self._listener: Listener | None = None
        self._counts: Mapping[str, int] = {}
        # The group
        self._loop = asyncio.get_running_loop()
        self._node: int | None = None
        self._member_id, self._generation = "", -1
        self._wishes = 0
        self._rejoin: asyncio.Future[None] = self._loop.create_future()
        self._coordinator_gone: asyncio.Future[None] = self._loop.create_future()
        self._closing: asyncio.Future[None] = self._loop.create_future()
        self._prepared = False
        self._coordinating: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._error: KafkaError | None = None
        self._error_told: asyncio.Future[None] | None = None
        # Records
        self._assignment: _Assignment | None = None
        self._assigned: asyncio.Future[None] | None = None
        self._fetches: dict[TopicPartition, Fetch] = {}
        self._fetched: dict[TopicPartition, Fetch] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self.doubtful: dict[TopicPartition, Doubt] = {}
        self._polled_at = self._loop.time()
        self._polling = 0
        self._closed = False

    async def start(self) -> None:
        """Nothing to connect to; a real one bootstraps here."""

    def subscribe(self, topics: Iterable[str], listener: Listener | None = None) -> None:
        self._topics, self._listener = tuple(sorted(topics)), listener
        self._coordinating = asyncio.create_task(self._coordinate())
        self._looking = asyncio.create_task(self._look_now_and_then())

    async def stop(self) -> None:
        """Leaves the group. What a rebalance has begun, is ended first."""
        if self._closed:
            return
        self._closed = True
        if not self._closing.done():
            self._closing.set_result(None)
        if self._coordinating is not None:
            await asyncio.gather(self._coordinating, return_exceptions=True)
        await self._stop_beating()
        if self._looking is not None:
            self._looking.cancel()
        await self._leave()
        self._assignment = None
        self._wake()

    # -- The group ------------------------------------------------------------------------------------

    def membership(self) -> Membership:
        return Membership(self._group, self._generation, self._member_id, self._instance_id)

    def rejoin(self) -> None:
        """With a new generation."""
        self._wishes += 1
        self._need_rejoin()

    def _need_rejoin(self) -> None:
        if not self._rejoin.done():
            self._rejoin.set_result(None)

    async def look_again(self) -> None:
        """New partitions change the assignment."""
        counts = await self._network.partitions(self._topics)
        if self._counts and counts != self._counts:
            self._need_rejoin()
        self._counts = counts

    async def _look_now_and_then(self) -> None:
        while True:
            with suppress(*LOST):
                await self.look_again()
            await asyncio.sleep(self._metadata_age)

    async def _coordinate(self) -> None:
        previous: _Assignment | None = None
        while not self._closing.done():
            await self._find_coordinator()
            try:
                if self._assignment is None or self._rejoin.done():
                    joined = await self._become_active(previous)
                    if joined is None:
                        continue
                    previous = joined
            except KafkaError as error:
                await self._tell(error)
                continue
            await asyncio.wait(
                [self._closing, self._coordinator_gone, self._rejoin], return_when=asyncio.FIRST_COMPLETED
            )

    async def _tell(self, error: KafkaError) -> None:
        """Whoever polls hears of it, and then all is tried again."""
        self._error, self._error_told = error, self._loop.create_future()
        if self._assigned is not None:
            self._assigned.set_result(None)
            self._assigned = self._loop.create_future()
        self._wake()
        await asyncio.wait([self._error_told, self._closing], return_when=asyncio.FIRST_COMPLETED)

    async def _find_coordinator(self) -> None:
        while self._node is None and not self._closing.done():
            try:
                self._node = await self._network.find_group(self._group)
                self._coordinator_gone = self._loop.create_future()
            except LOST:
                await asyncio.sleep(BACKOFF)

    def _lose_coordinator(self) -> None:
        if self._node is not None:
            self._node = None
            self._coordinator_gone.set_result(None)

    async def _become_active(self, previous: _Assignment | None) -> _Assignment | None:
        """Revoke, and only then join; heartbeats go on during the callback. None: try again."""
        if not self._prepared:
            if self._assigned is None:
                self._assigned = self._loop.create_future()
            if self._listener is not None:
                await self._listener.on_partitions_revoked(set(previous.places) if previous else set())
            self._prepared = True
        await self._stop_beating()
        if previous is not None and self._idle() >= self._max_poll_interval:
            await asyncio.sleep(BACKOFF)
            return None
        share = await self._join()
        if share is None:
            await asyncio.sleep(BACKOFF)
            return None
        await self._take(share)
        self._prepared = False
        self._beating = asyncio.create_task(self._beat())
        return self._assignment

    async def _join(self) -> tuple[TopicPartition, ...] | None:
        joined = await self._ask_to_join()
        if joined is not None and joined.code == MEMBER_ID_REQUIRED:
            self._member_id = joined.member_id
            joined = await self._ask_to_join()
        if joined is None:
            return None
        match joined.code:
            case Code.NONE:
                self._member_id, self._generation = joined.member_id, joined.generation
                return await self._sync(joined)
            case Code.UNKNOWN_MEMBER_ID:
                self._forget_membership()
            case code if code in _COORDINATOR_GONE:
                self._lose_coordinator()
            case Code.COORDINATOR_LOADING:
                await asyncio.sleep(BACKOFF)
            case code:
                raise KafkaError(repr(for_code(code)()))
        return None

    async def _ask_to_join(self) -> Joined | None:
        request = JoinGroup(
            self._group,
            self._member_id,
            self._instance_id,
            self._topics,
            self._wishes,
            self._session_timeout,
            self._rebalance_timeout,
        )
        answer: Joined | None = await self._ask_coordinator(request)
        return answer

    async def _sync(self, joined: Joined) -> tuple[TopicPartition, ...] | None:
        shares: Mapping[str, tuple[TopicPartition, ...]] = {}
        if joined.leads:
            if not self._counts:
                await self._look_until_known()
            shares = share_out(joined.members, self._counts)
        self._rejoin = self._loop.create_future()
        synced = await self._ask_coordinator(
            SyncGroup(self._group, joined.generation, joined.member_id, self._instance_id, shares)
        )
        if synced is None:
            self._need_rejoin()
            return None
        if synced.code == Code.NONE:
            share: tuple[TopicPartition, ...] = synced.share
            return share
        self._need_rejoin()
        if synced.code in (Code.UNKNOWN_MEMBER_ID, Code.ILLEGAL_GENERATION):
            self._forget_membership()
        elif synced.code in _COORDINATOR_GONE:
            self._lose_coordinator()
        elif synced.code != Code.REBALANCE_IN_PROGRESS:
            raise KafkaError(repr(for_code(synced.code)()))
        return None

    async def _look_until_known(self) -> None:
        while not self._counts:
            try:
                await self.look_again()
            except LOST:
                await asyncio.sleep(BACKOFF)

    async def _take(self, share: tuple[TopicPartition, ...]) -> None:
        self._assignment = _Assignment({tp: _Place() for tp in share})
        self._fetches, self._fetched = {}, {}
        if self._assigned is not None:
            self._assigned.set_result(None)
            self._assigned = None
        positions = asyncio.create_task(self._find_positions(self._assignment))
        if self._listener is not None:
            await self._listener.on_partitions_assigned(set(share))
        del positions  # goes on by itself

    def _forget_membership(self) -> None:
        self._member_id, self._generation = "", -1
        self._need_rejoin()

    async def _ask_coordinator(self, request: Any) -> Any:
        """None where there is no answer."""
        if self._node is None:
            return None
        try:
            return await self._network.ask(self._node, request)
        except LOST:
            self._lose_coordinator()
            return None

    async def _leave(self) -> None:
        if self._generation > 0 and self._instance_id is None:
            await self._ask_coordinator(LeaveGroup(self._group, self._member_id))
        self._forget_membership()

    async def _beat(self) -> None:
        heard_at, wait = self._loop.time(), self._heartbeat_interval
        while self._member_id:
            await asyncio.sleep(wait)
            await self._find_coordinator()
            asked_at = self._loop.time()
            if await self._beat_once():
                heard_at = self._loop.time()
                wait = max(0.0, self._heartbeat_interval - (heard_at - asked_at))
            else:
                wait = BACKOFF
            if self._loop.time() - heard_at > self._session_timeout:
                self._lose_coordinator()
            if self._idle() >= self._max_poll_interval:
                await self._leave()

    async def _beat_once(self) -> bool:
        answer = await self._ask_coordinator(HeartbeatRequest(self._group, self._generation, self._member_id))
        code = Code.COORDINATOR_NOT_AVAILABLE if answer is None else answer.error_code
        if code in _COORDINATOR_GONE:
            self._lose_coordinator()
        elif code == Code.REBALANCE_IN_PROGRESS:
            self._need_rejoin()
        elif code in (Code.ILLEGAL_GENERATION, Code.UNKNOWN_MEMBER_ID):
            self._forget_membership()
        return code in (Code.NONE, Code.REBALANCE_IN_PROGRESS)

    async def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None

    def _idle(self) -> float:
        return 0.0 if self._polling else self._loop.time() - self._polled_at

    # -- Records --------------------------------------------------------------------------------------

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int = 500
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """While a rebalance is under way it waits for its end, however long that takes."""
        if self._closed:
            raise ConsumerStoppedError
        self._polling += 1
        try:
            return await self._get(partitions, self._loop.time() + timeout_ms / 1000, max_records)
        finally:
            self._polling -= 1
            self._polled_at = self._loop.time()

    async def _get(
        self, partitions: Sequence[TopicPartition], until: float, most: int
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        while True:
            self._raise_error()
            if self._assigned is not None:
                await asyncio.wait([self._assigned])
                self._raise_error()
            drained = self._drain(partitions, most)
            if drained or self._loop.time() >= until or self._closed:
                return drained
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            timer = self._loop.call_at(until, _set, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _raise_error(self) -> None:
        if self._coordinating is not None and self._coordinating.done() and not self._closing.done():
            self._coordinating.result()  # a bug in a callback
        if self._error is not None and self._error_told is not None:
            error, self._error = self._error, None
            _set(self._error_told)
            raise error

    def _drain(self, partitions: Sequence[TopicPartition], most: int) -> dict[TopicPartition, list[Stored]]:
        drained: dict[TopicPartition, list[Stored]] = {}
        for tp in list(self._fetched):
            if partitions and tp not in partitions:
                continue
            fetched = self._fetched[tp]
            place = fetched.assignment.places[tp]
            if (
                fetched.assignment is not self._assignment
                or place.paused
                or place.position != fetched.position
            ):
                del self._fetched[tp]
                continue
            records, fetched.records = fetched.records[:most], fetched.records[most:]
            place.position = fetched.position = records[-1].offset + 1 if fetched.records else fetched.next
            del self._fetched[tp]
            if fetched.records:
                self._fetched[tp] = fetched  # it is the others' turn
            if records:
                drained[tp] = records
                most -= len(records)
                if not most:
                    break
        self._fetch_on()
        return drained

    def _fetch_on(self) -> None:
        """Ask for all that could be read and is not here."""
        held = self._assignment
        if held is None or self._closed:
            return
        for tp, place in held.places.items():
            if (
                place.position is None
                or place.paused
                or tp in self.doubtful
                or tp in self._fetched
                or tp in self._fetches
            ):
                continue
            self._fetches[tp] = Fetch(self._process, self, held, tp, place.position, self._committed_only)
            self._network.fetch(self._fetches[tp])

    def fetched(self, fetch: Fetch) -> None:
        """An answer came."""
        if self._fetches.get(fetch.tp) is not fetch:
            return  # sought or assigned anew meanwhile
        del self._fetches[fetch.tp]
        if fetch.out_of_range:
            self.doubtful[fetch.tp] = Doubt(fetch.position, NO_EPOCH, None)
            self._wake()
            return
        self._fetched[fetch.tp] = fetch
        self._ends[fetch.tp] = fetch.end
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _set(waiter)

    async def _find_positions(self, held: _Assignment) -> None:
        """Where nobody sought: what is committed, stable or not; nowhere where nothing is."""
        try:
            found = await self._network.committed(self._group, list(held.places))
        except LOST:
            return
        for tp, place in held.places.items():
            if place.position is None and found[tp] >= 0:
                place.position = found[tp]
        if held is self._assignment:
            self._fetch_on()

    def assignment(self) -> Iterable[TopicPartition]:
        return set(self._assignment.places) if self._assignment else set()

    def pause(self, *partitions: TopicPartition) -> None:
        for tp in partitions:
            self._place(tp).paused = True

    def resume(self, *partitions: TopicPartition) -> None:
        for tp in partitions:
            self._place(tp).paused = False
        self._fetch_on()

    def seek(
        self, partition: TopicPartition, offset: int, epoch: int | None = None
    ) -> None:  # one leader for ever
        self._place(partition).position = offset
        self.doubtful.pop(partition, None)
        self._fetches.pop(partition, None)
        self._fetched.pop(partition, None)
        self._fetch_on()

    def trust(self, partition: TopicPartition) -> None:
        self.doubtful.pop(partition, None)
        self._fetch_on()

    def epoch(self, partition: TopicPartition) -> int:  # likewise
        return NO_EPOCH

    async def epoch_ends(
        self,
        epochs: Mapping[TopicPartition, int],  # likewise
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        return {}

    @property
    def damaged(self) -> Mapping[TopicPartition, Damage]:
        return {}

    def next_offset(self, partition: TopicPartition) -> int | None:
        held = self._assignment
        return held.places[partition].position if held and partition in held.places else None

    def highwater(self, partition: TopicPartition) -> int | None:
        return self._ends.get(partition)

    def _place(self, tp: TopicPartition) -> _Place:
        if self._assignment is None or tp not in self._assignment.places:
            raise IllegalStateError(f"{tp} is not assigned")
        return self._assignment.places[tp]

    # -- The logs' bounds -----------------------------------------------------------------------------

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {tp: bounds[0] for tp, bounds in (await self._list(partitions, None)).items()}

    async def end_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Last stable offsets."""
        return {tp: bounds[1] for tp, bounds in (await self._list(partitions, None)).items()}

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Any]:
        found: dict[TopicPartition, Any] = {}
        for tp, at in timestamps.items():
            place = (await self._list([tp], at))[tp]
            found[tp] = OffsetAndTimestamp(*place) if place else None
        return found

    async def _list(
        self, partitions: Sequence[TopicPartition], at: int | None
    ) -> Mapping[TopicPartition, Any]:
        until = self._loop.time() + self._request_timeout
        while True:
            try:
                return await self._network.list_offsets(partitions, at)
            except LOST as error:
                if self._loop.time() >= until:
                    raise KafkaTimeoutError("no offsets until the time-out") from error
                await asyncio.sleep(BACKOFF)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
