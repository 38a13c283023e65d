"""Waits until Kafka has what the service needs, says what is waited for, and watches it afterwards. Does I/O.

A guarantee that this Kafka cannot give, or does not allow us, is not waited for: it is refused.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Self, TypeVar

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from consumer.connection import METADATA_SECONDS, Access, member_arguments, reach
from consumer.core.errors import BrokerUnavailableError, CouponConsumerError, GuaranteeError, RefusedError
from consumer.decoding import Unpacked
from consumer.ledger import Writer
from consumer.link import GroupConsumer, KafkaLink, Membership, words
from consumer.logs import Intervals
from consumer.publishing import PlainWriter, Publisher
from consumer.settings import Settings
from consumer.transactions import TransactionalLink, TransactionWriter

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds between two looks at a Kafka that is not ready."""

CLOSE_SECONDS = 3.0
"""Longest wait for Kafka's answer when leaving."""

WATCH_SECONDS = 3.0
"""Seconds between two looks at a Kafka that is."""

LOST_SECONDS = 2.0 * METADATA_SECONDS
"""Without a word of any broker for so long, those that a client knows may be gone for good."""


class Waiting:
    """What is waited for; said at once, and then at growing intervals.

    Attributes:
        what: in words, None while nothing is missing.
    """

    def __init__(self) -> None:
        self.what: str | None = "starting"
        self._since = 0.0
        self._intervals = Intervals(first=10.0, longest=600.0)

    def wait_for(self, what: str) -> None:
        """Something is missing."""
        now = asyncio.get_running_loop().time()
        if not self._since:
            self._since = now
        self.what = what
        held_back = self._intervals.due(what, now)
        if held_back is not None:
            seconds = round(now - self._since, 1)
            log.warning("service.waiting", waiting_for=what, seconds=seconds, looked=held_back + 1)

    def over(self) -> None:
        """Nothing is missing."""
        if self._since:
            now = asyncio.get_running_loop().time()
            log.info("service.waiting_is_over", waited_for=self.what, seconds=round(now - self._since, 1))
        self.what, self._since = None, 0.0


class Kafka:
    """Both connections to a Kafka that has what the service needs."""

    def __init__(
        self,
        consumer: GroupConsumer,
        link: KafkaLink,
        cluster_id: str,
        settings: Settings,
        arguments: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`arguments` of clients that would be made now."""
        self.consumer = consumer
        self.link = link
        self.cluster_id = cluster_id
        self._settings = settings
        self._arguments = arguments

    @classmethod
    async def reach(
        cls, settings: Settings, access: Access, waiting: Waiting, stopping: asyncio.Event
    ) -> Self | None:
        """Wait for it as long as it takes. None if stopped before. Raises GuaranteeError."""
        stopped = asyncio.ensure_future(stopping.wait())
        pause = FIRST_PAUSE
        try:
            while not stopping.is_set():
                try:
                    kafka = await _unless(stopped, cls._connect(settings, access))
                except GuaranteeError:
                    raise
                except (BrokerUnavailableError, RefusedError, KafkaError, OSError) as error:
                    waiting.wait_for(_in_words(error))
                    await asyncio.wait([stopped], timeout=pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                else:
                    waiting.over()
                    return kafka
        finally:
            await _cancel(stopped)
        return None

    @classmethod
    async def _connect(cls, settings: Settings, access: Access) -> Self:
        """One try; leaves nothing open where it fails."""
        kafka = settings.kafka
        options = access.arguments()
        Unpacked.allow(settings.intake.max_bytes)
        await reach(options)
        async with AsyncExitStack() as stack:
            client = AIOKafkaClient(**options)
            stack.push_async_callback(client.close)
            await client.bootstrap()
            link = await _open_link(client, settings)
            if missing := await _missing(link, settings):
                raise BrokerUnavailableError(missing)
            await link.follow((kafka.topics.outcomes, kafka.topics.dead_letters, *settings.retry_topics))
            consumer = GroupConsumer(
                group_id=kafka.group_id,
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="none",  # we seek ourselves, and look what has become of a place outside of the log
                session_timeout_ms=_ms(kafka.session_timeout),
                rebalance_timeout_ms=_ms(kafka.rebalance_timeout),
                heartbeat_interval_ms=_ms(kafka.heartbeat_interval),
                max_poll_interval_ms=_ms(max(300.0, 2 * kafka.rebalance_timeout)),
                **member_arguments(kafka),
                **options,
            )
            stack.push_async_callback(consumer.stop)
            await consumer.start()
            found = cls(consumer, link, await link.cluster_id(), settings, access.arguments)
            stack.pop_all()
        return found

    def writer(self, member: Membership, producers: Mapping[str, tuple[int, int]]) -> Writer:
        """For one assignment, with the guarantee that the settings ask for."""
        kafka = self._settings.kafka
        publisher = Publisher(self.link, compression=kafka.compression, batch_bytes=kafka.max_message_size)
        if isinstance(self.link, TransactionalLink):
            return TransactionWriter(self.link, member, producers, publisher, self.consumer.epoch)
        return PlainWriter(self.link, member, publisher)

    async def watch(self, waiting: Waiting, heed: Callable[[Mapping[str, str]], None]) -> None:
        """Notice and say what goes missing later on. The rooms wait for it by themselves.

        `heed` is told Kafka's ids of topics. Raises BrokerUnavailableError where only new connections help.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                missing = await _missing(self.link, self._settings)
            except BrokerUnavailableError as error:
                missing = str(error)
            else:
                heed(self.link.known_ids)
            await self._look_elsewhere()
            if missing:
                waiting.wait_for(missing)
            elif waiting.what:
                waiting.over()
                await self.consumer.look_again()

    async def _look_elsewhere(self) -> None:
        """Raises BrokerUnavailableError where a client's brokers are gone for good, or are another Kafka's by now.

        A client forgets the servers that it was given for the brokers that these named. Where those went away all
        together, it waits for them for ever (KIP-899). And it takes whoever answers at their addresses for them.
        """
        known = self.link.known_cluster
        if known not in (None, self.cluster_id):
            raise BrokerUnavailableError(f"another Kafka answers: cluster {known}, and not {self.cluster_id}")
        if await self.consumer.has_lost_all(LOST_SECONDS) or await self.link.has_lost_all(LOST_SECONDS):
            try:
                await reach(self._arguments())
            except (BrokerUnavailableError, RefusedError):
                return  # there is nobody elsewhere, either
            raise BrokerUnavailableError("Kafka's brokers are not where they were")

    async def close(self) -> None:
        """Leave the group, close both connections. What matters is written: nothing that goes wrong here does harm.

        A cancellation takes effect once both are closed, which takes `CLOSE_SECONDS` for each at most.
        """
        closing = asyncio.ensure_future(self._close())
        try:
            await asyncio.shield(closing)
        finally:
            await closing

    async def _close(self) -> None:
        for end in (self.consumer.stop, self.link.client.close):
            problem = await _problem_of(end())
            if problem:
                log.warning("service.kafka_not_closed", problem=problem)


async def _problem_of(closing: Coroutine[Any, Any, None]) -> str:
    """How it failed, in words. In a task of its own: see GroupConsumer on whose cancellations come through."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.wait([task], timeout=CLOSE_SECONDS)
        if not task.done():
            return f"no answer within {CLOSE_SECONDS:g} s"
        if task.cancelled():
            return "aiokafka cancelled it"
        error = task.exception()
        return "" if error is None else _in_words(error)
    finally:
        await _cancel(task)


async def _open_link(client: AIOKafkaClient, settings: Settings) -> KafkaLink:
    kafka = settings.kafka
    deadline = asyncio.get_running_loop().time() + kafka.request_timeout
    kind = TransactionalLink if settings.guarantee == "exactly_once" else KafkaLink
    link = kind(client, kafka.group_id, transaction_timeout=kafka.transaction_timeout)
    await link.find_group(deadline)
    if isinstance(link, TransactionalLink):
        await link.require(deadline)
    return link


async def _missing(link: KafkaLink, settings: Settings) -> str:
    """Topics, and rights to them, in words."""
    topics = settings.kafka.topics
    needed = {
        **dict.fromkeys(topics.events, ("READ",)),
        **dict.fromkeys((topics.outcomes, topics.dead_letters), ("WRITE",)),
        **dict.fromkeys(settings.retry_topics, ("READ", "WRITE")),
    }
    missing = await link.missing(needed, needed)
    return "; ".join(f"topic {topic}: {why}" for topic, why in missing.items())


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, CouponConsumerError) else words(error)


async def _unless(stopped: "asyncio.Future[Any]", work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None if it was stopped, and then it has ended."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancel(task)


async def _cancel(task: "asyncio.Future[Any]") -> None:
    """Once only, unlike `link.cancel_until_ended`: it may close connections then, which a second one would cut short."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
