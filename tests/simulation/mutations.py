"""The guarantees' rules, each broken on purpose: what the simulation has to notice. Changes the real code, for a while.

Each mutation is a context manager that replaces a piece of `consumer` and puts it back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from msgspec import structs

from consumer import intake, takeover, transactions
from consumer.core.events import NO_ATTEMPTS, Record, RetryContext
from consumer.core.headers import read_retry
from consumer.core.offsets import Tracker, UnusableMap, decode_map
from consumer.delivery import Delivery, UnderWay
from consumer.intake import Intake
from consumer.ledger import Ledger
from consumer.link import (
    Ambiguous,
    CommittedOffset,
    KafkaLink,
    Membership,
    Retriable,
    TopicPartition,
)
from consumer.transactions import TransactionalLink, TransactionWriter
from tests.simulation.member import Member
from tests.simulation.world import GROUP

MUTATIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {}
"""By name."""


def _mutation(break_it: Callable[[], Iterator[None]]) -> Callable[[], AbstractContextManager[None]]:
    MUTATIONS[break_it.__name__] = contextmanager(break_it)
    return MUTATIONS[break_it.__name__]


@contextmanager
def _replaced(*pieces: tuple[Any, str, Any]) -> Iterator[None]:
    """(owner, name, instead) of each."""
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in pieces]
    for owner, name, instead in pieces:
        setattr(owner, name, instead)
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


def _membership_now(writer: Any) -> Membership:
    """As the consumer would tell it now, -1 and an empty id included."""
    consumer = writer._link.consumer
    now = object.__new__(Membership)
    fields = (GROUP, consumer._generation, consumer._member_id, consumer._instance_id)
    for name, value in zip(("group", "generation", "member_id", "instance_id"), fields, strict=True):
        object.__setattr__(now, name, value)
    return now


@contextmanager
def _links_that_know_their_consumer() -> Iterator[None]:
    compose = Member._compose

    def composed(self: Any, link: Any, consumer: Any) -> Intake:
        link.consumer = consumer
        return compose(self, link, consumer)

    with _replaced((Member, "_compose", composed)):
        yield


# -- The group's generation -------------------------------------------------------------------------


@_mutation
def offsets_without_a_generation() -> Iterator[None]:
    original = transactions._TxnOffsetCommitRequest.__init__

    def init(self: Any, *fields: Any) -> None:
        original(self, *fields[:4], -1, "", None, *fields[7:])

    with _replaced((transactions._TxnOffsetCommitRequest, "__init__", init)):
        yield


@_mutation
def generation_taken_at_collecting() -> Iterator[None]:
    original = TransactionWriter.flush

    async def flush(self: Any, offsets: Any, records: Any) -> Any:
        self.member = _membership_now(self)
        return await original(self, offsets, records)

    with _links_that_know_their_consumer(), _replaced((TransactionWriter, "flush", flush)):
        yield


@_mutation
def generation_taken_at_sending() -> Iterator[None]:
    original = TransactionWriter._commit_offsets

    async def commit_offsets(self: Any, offsets: Any) -> None:
        self.member = _membership_now(self)
        await original(self, offsets)

    with _links_that_know_their_consumer(), _replaced((TransactionWriter, "_commit_offsets", commit_offsets)):
        yield


@_mutation
def straggler_let_in() -> Iterator[None]:
    """What an earlier assignment began is neither cancelled, nor dropped when it ends."""

    def abandon_nothing(_self: Any, _whole: UnderWay) -> list[Any]:
        return []

    def ended(self: Any, held: Any, wholes: Sequence[UnderWay]) -> None:
        now = self._assignment or held
        for whole in wholes:
            if TopicPartition(*whole.record.coordinates[:2]) in now.places:
                now.ledger.add(whole.record, whole.resolutions)

    with _replaced((Delivery, "abandon", abandon_nothing), (Intake, "_ended", ended)):
        yield


# -- Fence, then read, then seek --------------------------------------------------------------------


@_mutation
def nobody_elses_ids_initialised() -> Iterator[None]:
    original = TransactionalLink.fence

    async def fence(self: Any, ids: Iterable[str], deadline: float) -> Any:
        ids = list(ids)
        return dict.fromkeys(ids, (-1, 0)) | await original(self, ids[:2], deadline)

    with _replaced((TransactionalLink, "fence", fence)):
        yield


@_mutation
def only_new_ids_initialised() -> Iterator[None]:
    """Those of partitions that this process has had before are not, but for its own."""
    original = TransactionalLink.fence

    async def fence(self: Any, ids: Iterable[str], deadline: float) -> Any:
        known = self.__dict__.setdefault("known", set())
        ids = list(ids)
        wanted = [one for number, one in enumerate(ids) if number < 2 or one not in known]
        found = await original(self, wanted, deadline)
        known.update(ids)
        return dict.fromkeys(ids, (-1, 0)) | found

    with _replaced((TransactionalLink, "fence", fence)):
        yield


@_mutation
def unstable_read() -> Iterator[None]:
    with _replaced((TransactionalLink, "_offset_fetch", _unstable_fetch)):
        yield


def _unstable_fetch(self: Any, by_topic: Mapping[str, Sequence[int]]) -> Any:
    return transactions._OffsetFetchRequest(
        self.group, [(t, ps, {}) for t, ps in by_topic.items()], False, {}
    )


@_mutation
def read_before_initialising() -> Iterator[None]:
    with _read_early():
        yield


@_mutation
def seek_before_read() -> Iterator[None]:
    """To where the consumer by itself would begin: what is committed when the partitions are assigned."""
    fetch = TransactionalLink._offset_fetch

    def offset_fetch(self: Any, by_topic: Any) -> Any:
        early = self.__dict__.get("reads_early")
        return _unstable_fetch(self, by_topic) if early else fetch(self, by_topic)

    with _read_early(), _replaced((TransactionalLink, "_offset_fetch", offset_fetch)):
        yield


@contextmanager
def _read_early() -> Iterator[None]:
    fence, read = TransactionalLink.fence, KafkaLink.read_offsets

    async def read_then_fence(self: Any, ids: Iterable[str], deadline: float) -> Any:
        ids = list(ids)
        places = dict.fromkeys(tuple(one.split("/")[1:3]) for one in ids)
        partitions = [TopicPartition(topic, int(partition)) for topic, partition in places]
        self.reads_early = True
        self.early = await read(self, partitions, deadline)
        self.reads_early = False
        return await fence(self, ids, deadline)

    async def read_offsets(self: Any, partitions: Iterable[TopicPartition], deadline: float) -> Any:
        partitions = list(partitions)
        early = self.__dict__.pop("early", {})
        return early if set(partitions) <= set(early) else await read(self, partitions, deadline)

    with _replaced((TransactionalLink, "fence", read_then_fence), (KafkaLink, "read_offsets", read_offsets)):
        yield


@_mutation
def initialising_inside_the_callback() -> Iterator[None]:
    original = Intake.on_partitions_assigned

    async def on_partitions_assigned(self: Any, assigned: Any) -> None:
        await original(self, assigned)
        if self._opening is not None:
            await self._opening

    with _replaced((Intake, "on_partitions_assigned", on_partitions_assigned)):
        yield


@_mutation
def uncommitted_read_by_intake() -> Iterator[None]:
    with _replaced((Member, "isolation_level", "read_uncommitted")):
        yield


# -- The offset map ---------------------------------------------------------------------------------


@_mutation
def map_ignored() -> Iterator[None]:
    with _replaced((takeover, "decode_map", lambda *_: UnusableMap("mutation"))):
        yield


@_mutation
def map_of_the_live_tracker() -> Iterator[None]:
    """A record is marked done as it ends, and the map is taken when the offsets are sent."""
    add, init, commit_offsets = Ledger.add, Ledger.__init__, TransactionWriter._commit_offsets

    def made(self: Any, **parts: Any) -> None:
        init(self, **parts)
        parts["writer"].ledger = self

    def added(self: Any, record: Record, resolutions: Any) -> None:
        self._trackers[TopicPartition(*record.coordinates[:2])].finish_all([record.coordinates.offset])
        add(self, record, resolutions)

    async def commit_live(self: Any, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        await commit_offsets(self, {tp: self.ledger._commit(tp, clean=False) for tp in offsets})

    with _replaced(
        (Ledger, "__init__", made),
        (Ledger, "add", added),
        (TransactionWriter, "_commit_offsets", commit_live),
    ):
        yield


@_mutation
def map_of_another_offset() -> Iterator[None]:
    """It is believed wherever it stands."""

    def believed(text: str, cluster: str, offset: int) -> Any:
        for frontier in (offset, *range(200)):
            found = decode_map(text, cluster, frontier)
            if not isinstance(found, UnusableMap) or found.why != "other_offset":
                return found
        return UnusableMap("other_offset")

    with _replaced((takeover, "decode_map", believed)):
        yield


# -- Transactions -----------------------------------------------------------------------------------


@_mutation
def produce_before_offsets() -> Iterator[None]:
    add_offsets, commit_offsets = TransactionWriter._add_offsets, TransactionWriter._commit_offsets
    end = TransactionWriter._end

    async def begin(self: Any) -> None:
        return None

    async def remember(self: Any, offsets: Any) -> None:
        self.waiting_offsets = offsets

    async def end_after_offsets(self: Any, *, commit: bool) -> Any:
        offsets = self.__dict__.pop("waiting_offsets", None)
        if commit and offsets:
            await add_offsets(self)
            await commit_offsets(self, offsets)
        return await end(self, commit=commit)

    with _replaced(
        (TransactionWriter, "_add_offsets", begin),
        (TransactionWriter, "_commit_offsets", remember),
        (TransactionWriter, "_end", end_after_offsets),
    ):
        yield


@_mutation
def sent_again_without_reading_back() -> Iterator[None]:
    async def settled(self: Any, batch: Any) -> bool:
        return False

    with _replaced((Ledger, "_settled", settled)):
        yield


@_mutation
def ambiguous_taken_as_committed() -> Iterator[None]:
    async def settled(self: Any, batch: Any) -> bool:
        return True

    with _replaced((Ledger, "_settled", settled)):
        yield


@_mutation
def ambiguous_taken_as_aborted() -> Iterator[None]:
    original = TransactionWriter.flush

    async def flush(self: Any, offsets: Any, records: Any) -> Any:
        result = await original(self, offsets, records)
        if isinstance(result, Ambiguous):
            self.live = True
            return Retriable(result.stage, 7)
        return result

    with _replaced((TransactionWriter, "flush", flush)):
        yield


@_mutation
def fenced_taken_as_committed() -> Iterator[None]:
    with _the_fenced_settled(committed=True):
        yield


@_mutation
def fenced_taken_as_aborted() -> Iterator[None]:
    with _the_fenced_settled(committed=False):
        yield


@contextmanager
def _the_fenced_settled(*, committed: bool) -> Iterator[None]:
    """A new epoch, and nothing is read back."""
    end, settled = TransactionWriter._end, Ledger._settled

    async def end_noted(self: Any, *, commit: bool) -> Any:
        result = await end(self, commit=commit)
        self.was_fenced = isinstance(result, Ambiguous) and result.fenced and commit
        return result

    async def settled_unread(self: Any, batch: Any) -> bool:
        was_fenced = self._writer.__dict__.pop("was_fenced", False)
        return committed if was_fenced else await settled(self, batch)

    with _replaced((TransactionWriter, "_end", end_noted), (Ledger, "_settled", settled_unread)):
        yield


@_mutation
def end_tried_again_in_its_epoch() -> Iterator[None]:
    with _lost_asked_again("end"):
        yield


@_mutation
def offsets_tried_again_in_their_epoch() -> Iterator[None]:
    with _lost_asked_again("commit_offsets"):
        yield


@contextmanager
def _lost_asked_again(lost: str) -> Iterator[None]:
    ask = KafkaLink.ask

    async def asked_again(self: Any, stage: str, *asked: Any, repeat_lost: bool = False) -> Any:
        return await ask(self, stage, *asked, repeat_lost=repeat_lost or stage == lost)

    with _replaced((KafkaLink, "ask", asked_again)):
        yield


@_mutation
def one_id_instead_of_two() -> Iterator[None]:
    recover = TransactionWriter.recover

    async def recover_under_the_same(self: Any, deadline: float) -> bool:
        self._offsets_lost = False
        return await recover(self, deadline)

    with _replaced((TransactionWriter, "recover", recover_under_the_same)):
        yield


# -- What may have been sent ------------------------------------------------------------------------


@_mutation
def doubt_forgotten_by_who_closes() -> Iterator[None]:
    with _replaced((Tracker, "clean", property(lambda tracker: not tracker.outstanding))):
        yield


# -- Retries ----------------------------------------------------------------------------------------


@_mutation
def whole_record_tried_again() -> Iterator[None]:
    with _replaced((Record, "only", property(lambda _: None))):
        yield


@_mutation
def retry_context_lost() -> Iterator[None]:
    def forgetful(headers: Any) -> Any:
        context = read_retry(headers)
        return (
            structs.replace(context, attempts=NO_ATTEMPTS) if isinstance(context, RetryContext) else context
        )

    with _replaced((intake, "read_retry", forgetful)):
        yield
