"""Takes partitions over from whoever had them: fence, then read. Does I/O through Protocols.

The transactional ids of all partitions are initialised before anything is read, which ends
whatever transaction a dead or cut-off owner left open; then offsets and maps are read, waiting
for what is still being written. What comes of it is where each partition goes on.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import structlog

from consumer.core.offsets import UNUSABLE, Tracker, UnusableMap, decode_map
from consumer.decoding import NO_EPOCH, Doubt
from consumer.link import CommittedOffset, TopicPartition
from consumer.metrics import Metrics
from consumer.transactions import transactional_ids

log = structlog.get_logger(__name__)


OUT_OF_RANGE = "out_of_range"
"""Why an offset is not used, its map included: it lies outside of the log."""

CUT, DELETED = "cut", "deleted"
"""What a log has lost: its end, which was read; or what was not read yet."""


class Logs(Protocol):
    """What is asked about the partitions' logs; `link.GroupConsumer` answers."""

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The logs' starts."""

    async def end_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The logs' ends: last stable offsets."""

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """Of each the last leader up to that one, and where what it wrote ends in the log as it is now, as far as that is told."""

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Any]:
        """The first record's place at or after a time (milliseconds), None where there is none."""


class Link(Protocol):
    """What is asked of `link.KafkaLink`."""

    async def topic_ids(self, topics: Iterable[str]) -> Mapping[str, str]:
        """Kafka's ids of these topics, as far as it tells them."""

    async def fence(self, ids: Iterable[str], deadline: float) -> Mapping[str, tuple[int, int]]:
        """End the open transactions of these ids."""

    async def read_offsets(
        self, partitions: Iterable[TopicPartition], deadline: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        """What the group has committed, once it is stable."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Partitions that were taken over.

    Attributes:
        own_ids: the member's two transactional ids, those of its lowest partition.
        producers: of these two, (producer id, epoch).
        trackers: where each partition goes on.
        epochs: behind what leader's records that is, as far as it is known.
    """

    own_ids: tuple[str, str]
    producers: Mapping[str, tuple[int, int]]
    trackers: Mapping[TopicPartition, Tracker]
    epochs: Mapping[TopicPartition, int]


class Takeover:
    """How this member takes partitions over.

    `began_at` is where `start_from: latest` begins, aware: what was there before is passed over.
    """

    def __init__(
        self,
        *,
        logs: Logs,
        link: Link,
        group: str,
        cluster_id: str,
        start_from: str | datetime,
        retry_topics: Collection[str],
        metrics: Metrics,
        began_at: datetime,
    ) -> None:
        self._logs = logs
        self._link = link
        self._group = group
        self._cluster_id = cluster_id
        self._start_from = start_from
        self._retry_topics = retry_topics
        self._metrics = metrics
        self._began_at = began_at
        for why in (*UNUSABLE, OUT_OF_RANGE):
            metrics.maps_ignored.labels(why)
        for why in (CUT, DELETED):
            metrics.log_losses.labels(why)

    async def take(
        self, partitions: list[TopicPartition], astray: Mapping[TopicPartition, int], deadline: float
    ) -> Taken:
        """Fence, then read.

        `astray`: partitions that turned out to have another log than was read, and what leader's records were read
        last; where that is not known, what was committed says nothing of the log that is there now.

        Raises BrokerUnavailableError, RefusedError and KafkaError; then it can be tried again.
        """
        # First: where a topic is made anew meanwhile, it will be seen that its id is another one by now.
        topic_ids = await self._link.topic_ids({tp.topic for tp in partitions})
        ids = [transactional_ids(self._group, tp.topic, tp.partition) for tp in partitions]
        producers = await self._link.fence([one for pair in ids for one in pair], deadline)
        committed = await self._link.read_offsets(partitions, deadline)
        beginnings = await self._logs.beginning_offsets(partitions)
        ends = await self._logs.end_offsets(partitions)
        firsts = await self._firsts([tp for tp in partitions if committed[tp].offset < 0], beginnings, ends)
        epochs = {tp: astray.get(tp, committed[tp].epoch) for tp in partitions}
        parts = await self._logs.epoch_ends({tp: epoch for tp, epoch in epochs.items() if epoch > NO_EPOCH})
        trackers = {}
        for tp, pair in zip(partitions, ids, strict=True):
            topic_id, log_ = topic_ids.get(tp.topic), range(beginnings[tp], ends[tp])
            # Kafka tells where what was read ends now, if that is this log's, of which only the topic's id is a proof.
            part = parts.get(tp) if topic_id is not None else None
            if committed[tp].offset >= 0:
                last = max(log_.stop, part[1]) if part is not None else log_.stop
                if astray.get(tp) == NO_EPOCH or (part is None and committed[tp].offset > last):
                    trackers[tp] = self._begin_anew(tp, committed[tp].offset, log_.start)
                else:
                    tracker = self._go_on(tp, committed[tp], topic_id, log_)
                    trackers[tp] = self._within(tp, tracker, log_.start, part)
            elif any(producers[one][1] > 0 for one in pair):
                trackers[tp] = self._offset_gone(tp, firsts[tp], ends[tp])
            else:
                trackers[tp] = self._begin(tp, firsts[tp])
            trackers[tp].topic_id = topic_id
            epochs[tp] = part[0] if part is not None else NO_EPOCH
        return Taken(ids[0], {one: producers[one] for one in ids[0]}, trackers, epochs)

    async def astray(self, doubts: Mapping[TopicPartition, Doubt]) -> list[TopicPartition]:
        """Those that have not the log that was read: it ends before the place now, or begins after it, or was cut before it.

        Raises KafkaError.
        """
        partitions = list(doubts)
        beginnings = await self._logs.beginning_offsets(partitions)
        ends = await self._logs.end_offsets(partitions)
        parts = await self._logs.epoch_ends(
            {tp: doubt.epoch for tp, doubt in doubts.items() if doubt.epoch > NO_EPOCH}
        )
        return [
            tp
            for tp, doubt in doubts.items()
            if not beginnings[tp] <= doubt.offset <= (parts[tp][1] if tp in parts else ends[tp])
        ]

    async def _firsts(
        self,
        partitions: list[TopicPartition],
        beginnings: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> Mapping[TopicPartition, int]:
        """Where the settings begin what the group has no offset of. An order that waits for a retry is never passed over."""
        waiting = {tp: beginnings[tp] for tp in partitions if tp.topic in self._retry_topics}
        partitions = [tp for tp in partitions if tp not in waiting]
        if self._start_from == "earliest" or not partitions:
            return {**beginnings, **waiting}
        at = self._began_at if self._start_from == "latest" else self._start_from
        assert isinstance(at, datetime)
        found = await self._logs.offsets_for_times(dict.fromkeys(partitions, int(at.timestamp() * 1000)))
        firsts = {tp: place.offset if (place := found.get(tp)) else ends[tp] for tp in partitions}
        if self._start_from == "latest":
            # What is younger than we are, as a whole, was added while we run: none of it is passed over.
            firsts = {tp: first if first == beginnings[tp] else ends[tp] for tp, first in firsts.items()}
        return firsts | waiting

    def _begin(self, tp: TopicPartition, first: int) -> Tracker:
        log.info(
            "takeover.no_offset",
            topic=tp.topic,
            partition=tp.partition,
            start_from=str(self._start_from),
            offset=first,
        )
        return Tracker(first)

    def _offset_gone(self, tp: TopicPartition, first: int, end: int) -> Tracker:
        """No offset, though a member was here before: its producer's epoch is not the first one."""
        log.error(
            "takeover.offsets_gone",
            topic=tp.topic,
            partition=tp.partition,
            offset=first,
            remedy="the group's offsets were deleted or have expired: outcomes repeat under the same outcome_id, "
            "orders past their deadline end as expired",
        )
        self._metrics.offsets_gone.inc()
        return Tracker(first, maybe_sent_below=end)

    def _begin_anew(self, tp: TopicPartition, committed: int, beginning: int) -> Tracker:
        """The log was cut or made anew: what stands there now has never been read."""
        log.warning(
            "takeover.offset_out_of_range",
            topic=tp.topic,
            partition=tp.partition,
            committed=committed,
            beginning=beginning,
        )
        self._metrics.maps_ignored.labels(OUT_OF_RANGE).inc()
        return Tracker(beginning)

    def _within(
        self, tp: TopicPartition, tracker: Tracker, beginning: int, part: tuple[int, int] | None
    ) -> Tracker:
        """What was done of a log that has lost its end, or its beginning, since."""
        end = tracker.reach if part is None else min(tracker.reach, part[1])
        if end < tracker.reach:
            log.error(
                "takeover.log_cut",
                topic=tp.topic,
                partition=tp.partition,
                read_up_to=tracker.reach,
                offset=end,
                remedy="an unclean leader election lost what stood there: what was written since is read; what nobody "
                "had read is lost, so have the charges of that time pushed again",
            )
            self._metrics.log_losses.labels(CUT).inc()
        unread = tracker.undone(beginning)
        if unread:
            log.error(
                "takeover.records_gone",
                topic=tp.topic,
                partition=tp.partition,
                offset=beginning,
                records=unread,
                remedy="they were deleted before they were read: have the topic's retention.ms raised, and the charges "
                "of that time pushed again",
            )
            self._metrics.log_losses.labels(DELETED).inc()
        if end < tracker.reach or tracker.frontier < beginning:
            return tracker.between(beginning, max(end, beginning))
        return tracker

    def _go_on(
        self, tp: TopicPartition, committed: CommittedOffset, topic_id: str | None, log_: range
    ) -> Tracker:
        if not committed.metadata:
            return Tracker(committed.offset)
        found = decode_map(committed.metadata, self._cluster_id, committed.offset, topic_id)
        if isinstance(found, UnusableMap):
            log.warning(
                "takeover.offset_map_ignored",
                topic=tp.topic,
                partition=tp.partition,
                offset=committed.offset,
                why=found.why,
            )
            self._metrics.maps_ignored.labels(found.why).inc()
            # Of a topic that was deleted since, the offset itself says nothing of the one that has its name now.
            first = log_.start if found.why == "other_topic" else committed.offset
            return Tracker(first, maybe_sent_below=log_.stop)
        return Tracker(committed.offset, found.done, maybe_sent_below=0 if found.clean else log_.stop)
