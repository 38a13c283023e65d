"""The fake Kafka's group coordinator: members, generations and offsets, as in the classic protocol. No I/O."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from consumer.link import Code, TopicPartition

MEMBER_ID_REQUIRED, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS = (
    79,
    Code.ILLEGAL_GENERATION,
    Code.REBALANCE_IN_PROGRESS,
)

Place = tuple[int, str]
"""An offset and its metadata."""


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """`wishes`: metadata that differ from the last ones where the member wants a new generation."""

    group: str
    member_id: str
    instance_id: str | None
    topics: tuple[str, ...]
    wishes: int
    session: float
    rebalance: float


@dataclass(frozen=True, slots=True)
class Joined:
    """`members` (their topics) only for the leader, who shares the partitions out."""

    code: int
    member_id: str = ""
    generation: int = -1
    leads: bool = False
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SyncGroup:
    """`shares` only of the leader."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None
    shares: Mapping[str, tuple[TopicPartition, ...]]


@dataclass(frozen=True, slots=True)
class Synced:
    code: int
    share: tuple[TopicPartition, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaveGroup:
    group: str
    member_id: str


class Cluster(Protocol):
    """What a group needs around it."""

    def now(self) -> float: ...

    def later(self, seconds: float, act: Callable[[], None]) -> None: ...

    def committed(self, group: str, offsets: Mapping[TopicPartition, Place]) -> None:
        """These offsets are what the group has committed from now on."""


class State(Enum):
    EMPTY = "no members"
    PREPARING = "members are to join"
    COMPLETING = "the leader is to share out"
    STABLE = "each has its share"


@dataclass
class Member:
    """`join` and `sync`: who waits for an answer."""

    name: str
    instance_id: str | None
    topics: tuple[str, ...]
    wishes: int
    session: float
    rebalance: float
    heard: float
    share: tuple[TopicPartition, ...] = ()
    join: Callable[[Joined], None] | None = None
    sync: Callable[[Synced], None] | None = None


class Group:
    """One group at its coordinator.

    Attributes:
        offsets: what is committed.
        forgets_pending: as up to Kafka 3.9, a refused commit of an old epoch deletes what is pending.
    """

    def __init__(self, name: str, cluster: Cluster, *, forgets_pending: bool) -> None:
        self.name = name
        self.state = State.EMPTY
        self.generation = 0
        self.members: dict[str, Member] = {}
        self.offsets: dict[TopicPartition, Place] = {}
        self.forgets_pending = forgets_pending
        self._cluster = cluster
        self._leader = ""
        self._named: dict[str, str] = {}
        self._invited: dict[str, None] = {}
        self._round = 0
        self._ids = 0
        self._stored: tuple[State, int, dict[str, Member], str, dict[str, str]] = (State.EMPTY, 0, {}, "", {})
        self._pending: dict[int, dict[TopicPartition, Place]] = {}
        self._epochs: dict[int, int] = {}

    # -- Offsets --------------------------------------------------------------------------------------

    def fetch(self, partition: TopicPartition, *, stable: bool) -> tuple[int, int, str]:
        """(error code, offset, metadata)."""
        if stable and any(partition in offsets for offsets in self._pending.values()):
            return Code.UNSTABLE_OFFSET_COMMIT, -1, ""
        offset, metadata = self.offsets.get(partition, (-1, ""))
        return Code.NONE, offset, metadata

    def commit_in_transaction(
        self,
        producer: tuple[int, int],
        member: tuple[int, str, str | None],
        offsets: Mapping[TopicPartition, Place],
        verify: Callable[[], int],
    ) -> int:
        """Pending until the transaction's marker comes. `producer`: id and epoch; `member`: generation, id, instance."""
        if code := self._refused(*member):
            return code
        producer_id, epoch = producer
        code = Code.INVALID_PRODUCER_EPOCH if epoch < self._epochs.get(producer_id, epoch) else verify()
        if code:
            if self.forgets_pending and producer_id in self._pending:
                for partition in offsets:
                    self._pending[producer_id].pop(partition, None)
            return code
        self._epochs[producer_id] = epoch
        self._pending.setdefault(producer_id, {}).update(offsets)
        return Code.NONE

    def mark(self, producer_id: int, epoch: int, *, commit: bool) -> None:
        """A transaction ended: what was pending of it is committed, or forgotten."""
        if epoch < self._epochs.get(producer_id, epoch):
            return
        self._epochs[producer_id] = epoch
        pending = self._pending.pop(producer_id, {})
        if commit and pending:
            self.offsets.update(pending)
            self._cluster.committed(self.name, pending)

    def _refused(self, generation: int, member_id: str, instance_id: str | None) -> int:
        if generation < 0 and not member_id and instance_id is None:
            return Code.NONE  # whoever is no member at all; the broker lets a stranger in
        if code := self._unknown(member_id, instance_id):
            return code
        return ILLEGAL_GENERATION if generation != self.generation else Code.NONE

    def _unknown(self, member_id: str, instance_id: str | None = None) -> int:
        if instance_id is not None and (instance_id not in self._named):
            return Code.UNKNOWN_MEMBER_ID
        if instance_id is not None and self._named[instance_id] != member_id:
            return Code.FENCED_INSTANCE_ID
        return Code.NONE if member_id in self.members else Code.UNKNOWN_MEMBER_ID

    # -- Members --------------------------------------------------------------------------------------

    def join(self, request: JoinGroup, answer: Callable[[Joined], None]) -> None:
        """Answered when all have joined, or those that have not are left behind."""
        member_id, instance_id = request.member_id, request.instance_id
        if not member_id:
            if instance_id is None:  # first an id, then a member: a lost answer leaves nobody behind
                member_id = self._new_id(None)
                self._invited[member_id] = None
                answer(Joined(MEMBER_ID_REQUIRED, member_id))
            elif instance_id in self._named:
                self._replace(request, instance_id, answer)
            else:
                self._enter(request, self._new_id(instance_id), answer)
        elif member_id in self._invited:
            del self._invited[member_id]
            self._enter(request, member_id, answer)
        elif code := self._unknown(member_id, instance_id):
            answer(Joined(code))
        else:
            self._join_again(self.members[member_id], request, answer)

    def _new_id(self, instance_id: str | None) -> str:
        self._ids += 1
        return f"{instance_id or 'member'}-{self._ids}"

    def _enter(self, request: JoinGroup, member_id: str, answer: Callable[[Joined], None]) -> None:
        member = Member(
            member_id,
            request.instance_id,
            request.topics,
            request.wishes,
            request.session,
            request.rebalance,
            self._cluster.now(),
            join=answer,
        )
        self.members[member_id] = member
        if member.instance_id is not None:
            self._named[member.instance_id] = member_id
        self._watch(member)
        self._rebalance()
        self._complete_if_all_joined()

    def _replace(self, request: JoinGroup, instance_id: str, answer: Callable[[Joined], None]) -> None:
        """A restarted static member takes its predecessor's place; the generation goes on if nothing else changed."""
        old = self.members.pop(self._named[instance_id])
        self._answer_away(old, Code.FENCED_INSTANCE_ID)
        member = replace(old, name=self._new_id(instance_id), heard=self._cluster.now(), join=None, sync=None)
        self.members[member.name] = member
        self._named[instance_id] = member.name
        if self._leader == old.name:
            self._leader = member.name
        self._watch(member)
        if self.state is State.STABLE and member.topics == request.topics:
            member.wishes = request.wishes
            self._store()
            # It is not told that it leads: it only takes its share.
            answer(Joined(Code.NONE, member.name, self.generation))
            return
        member.topics, member.wishes, member.join = request.topics, request.wishes, answer
        self._rebalance()
        self._complete_if_all_joined()

    def _join_again(self, member: Member, request: JoinGroup, answer: Callable[[Joined], None]) -> None:
        """A follower that says nothing new is told the generation that there is."""
        changed = (member.topics, member.wishes) != (request.topics, request.wishes)
        leads = member.name == self._leader
        member.heard = self._cluster.now()
        if not changed and (self.state is State.COMPLETING or (self.state is State.STABLE and not leads)):
            answer(self._joined(member))
            return
        member.topics, member.wishes, member.join = request.topics, request.wishes, answer
        self._rebalance()
        self._complete_if_all_joined()

    def _joined(self, member: Member) -> Joined:
        leads = member.name == self._leader and self.state is State.COMPLETING
        members = {name: each.topics for name, each in self.members.items()} if leads else {}
        return Joined(Code.NONE, member.name, self.generation, leads, members)

    def _rebalance(self) -> None:
        if self.state is State.PREPARING:
            return
        for member in self.members.values():
            if member.sync is not None:
                member.sync(Synced(REBALANCE_IN_PROGRESS))
                member.sync, member.heard = None, self._cluster.now()
        self.state = State.PREPARING
        self._round += 1
        current = self._round
        longest = max((member.rebalance for member in self.members.values()), default=0.0)

        def complete() -> None:
            if self.state is State.PREPARING and self._round == current:
                self._complete_join()

        self._cluster.later(longest, complete)

    def _complete_if_all_joined(self) -> None:
        if self.state is State.PREPARING and all(member.join for member in self.members.values()):
            self._complete_join()

    def _complete_join(self) -> None:
        """The next generation, of those that are here."""
        for member in list(self.members.values()):
            if member.join is None and member.instance_id is None:
                self._forget(member)
        self.generation += 1
        if not self.members:
            self.state = State.EMPTY
            self._store()
            return
        self.state = State.COMPLETING
        if self._leader not in self.members or self.members[self._leader].join is None:
            self._leader = next((name for name, member in self.members.items() if member.join), "")
        for member in self.members.values():
            member.heard = self._cluster.now()
            if member.join is not None:
                answer, member.join = member.join, None
                answer(self._joined(member))

    def sync(self, request: SyncGroup, answer: Callable[[Synced], None]) -> None:
        """Answered when the leader has shared out."""
        code = self._unknown(request.member_id, request.instance_id)
        if not code and request.generation != self.generation:
            code = ILLEGAL_GENERATION
        if not code and self.state is State.PREPARING:
            code = REBALANCE_IN_PROGRESS
        if code:
            answer(Synced(code))
            return
        member = self.members[request.member_id]
        member.heard = self._cluster.now()
        if self.state is State.STABLE:
            answer(Synced(Code.NONE, member.share))
            return
        member.sync = answer
        if member.name == self._leader:
            self._share_out(request.shares)

    def _share_out(self, shares: Mapping[str, tuple[TopicPartition, ...]]) -> None:
        self.state = State.STABLE
        for member in self.members.values():
            member.share = shares.get(member.name, ())
            if member.sync is not None:
                answer, member.sync = member.sync, None
                member.heard = self._cluster.now()
                answer(Synced(Code.NONE, member.share))
        self._store()

    def heartbeat(self, generation: int, member_id: str) -> int:
        if member_id not in self.members:
            return Code.UNKNOWN_MEMBER_ID
        if generation != self.generation:
            return ILLEGAL_GENERATION
        self.members[member_id].heard = self._cluster.now()
        return REBALANCE_IN_PROGRESS if self.state is State.PREPARING else Code.NONE

    def leave(self, member_id: str) -> int:
        if member_id not in self.members:
            return Code.UNKNOWN_MEMBER_ID
        self._lose(self.members[member_id])
        return Code.NONE

    def _watch(self, member: Member) -> None:
        """Throw it out when nothing was heard of it for its session's time."""

        def look() -> None:
            if self.members.get(member.name) is not member:
                return
            if member.join is not None or member.sync is not None:
                member.heard = self._cluster.now()  # who waits for our answer is not silent
            left = member.heard + member.session - self._cluster.now()
            if left > 1e-9:
                self._cluster.later(left, look)
            else:
                self._lose(member)

        self._cluster.later(member.session, look)

    def _lose(self, member: Member) -> None:
        self._answer_away(member, Code.UNKNOWN_MEMBER_ID)
        self._forget(member)
        if self.state in (State.STABLE, State.COMPLETING):
            self._rebalance()
        if not self.members and self.state is State.PREPARING:
            self._complete_join()
        self._complete_if_all_joined()

    def _forget(self, member: Member) -> None:
        del self.members[member.name]
        if member.instance_id is not None and self._named.get(member.instance_id) == member.name:
            del self._named[member.instance_id]

    @staticmethod
    def _answer_away(member: Member, code: int) -> None:
        if member.join is not None:
            member.join(Joined(code))
        if member.sync is not None:
            member.sync(Synced(code))
        member.join = member.sync = None

    # -- Another broker takes over --------------------------------------------------------------------

    def _store(self) -> None:
        """What a new coordinator finds: the last generation that was shared out, or that nobody is left."""
        members = {name: replace(member, join=None, sync=None) for name, member in self.members.items()}
        self._stored = self.state, self.generation, members, self._leader, dict(self._named)

    def load(self) -> None:
        """Go on at another broker, with what is stored. Sessions begin anew."""
        for member in self.members.values():
            self._answer_away(member, Code.NOT_COORDINATOR)
        self._round += 1
        self._invited = {}
        self.state, self.generation, members, self._leader, named = self._stored
        self._named = dict(named)
        self.members = {name: replace(member, heard=self._cluster.now()) for name, member in members.items()}
        for member in self.members.values():
            self._watch(member)


def share_out(
    members: Mapping[str, Iterable[str]], counts: Mapping[str, int]
) -> dict[str, tuple[TopicPartition, ...]]:
    """Partitions in turn, as aiokafka's round robin does."""
    shares: dict[str, list[TopicPartition]] = {name: [] for name in sorted(members)}
    names = list(shares)
    topics = {topic for subscribed in members.values() for topic in subscribed}
    at = 0
    for tp in sorted(
        TopicPartition(topic, number) for topic in topics for number in range(counts.get(topic, 0))
    ):
        while tp.topic not in members[names[at % len(names)]]:
            at += 1
        shares[names[at % len(names)]].append(tp)
        at += 1
    return {name: tuple(share) for name, share in shares.items()}
