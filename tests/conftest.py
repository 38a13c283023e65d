"""Fixtures of several test folders: a real Kafka, names that no other test uses, topics. Starts a broker."""

import asyncio
import gc
import logging
import os
import secrets
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import hypothesis
import pytest
import structlog

from consumer.core.errors import BrokerUnavailableError
from consumer.sandbox.broker import EmbeddedBroker

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

CreateTopics = Callable[[str, Mapping[str, int]], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def _default_logging() -> None:
    """A command that a test before ran in this process has set what is logged."""
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """Bootstrap servers of a real Kafka: Docker's, else the environment's, else one of our own."""
    container = _container()
    if container is not None:
        try:
            yield container.get_bootstrap_server()
        finally:
            container.stop()
        return
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield servers
        return
    embedded = EmbeddedBroker()
    try:
        _run(embedded.start())
    except BrokerUnavailableError as error:
        if os.environ.get("CI"):
            raise  # a suite that was skipped is not one that passed
        pytest.skip(f"no Kafka: {error}")
    try:
        yield embedded.bootstrap_servers
    finally:
        _run(embedded.stop())


@pytest.fixture
def topic_prefix() -> str:
    """Starts the names of this test's topics, groups and transactional ids."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def create_topics() -> CreateTopics:
    """`await create_topics(bootstrap_servers, {name: partitions})`."""
    return _create_topics


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """What the test configures of logging ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    for name in ("aiokafka", "aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


async def _create_topics(bootstrap_servers: str, partitions: Mapping[str, int]) -> None:
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # noqa: PLC0415  # the other tests do without

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        reply = await admin.create_topics([NewTopic(name, count, 1) for name, count in partitions.items()])
        failed = {topic[0]: topic[1:] for topic in reply.topic_errors if topic[1] != 0}
        assert not failed, failed
        await until_known(admin, list(partitions))
    finally:
        await admin.close()


async def until_known(admin: Any, names: list[str]) -> None:
    """A broker answers before all of it knows the new topics; what follows must not depend on that."""
    async with asyncio.timeout(30):
        while True:
            told = await admin.describe_topics(names)
            if all(not topic["error_code"] and _led(topic["partitions"]) for topic in told):
                return
            await asyncio.sleep(0.05)


def _led(partitions: list[dict[str, Any]]) -> bool:
    return bool(partitions) and all(not each["error_code"] and each["leader"] >= 0 for each in partitions)


def _run(task: Any) -> None:
    """On the main thread, since Kafka ends with the thread that started it; leaves pytest's loop alone."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(task)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _container() -> Any:
    """Kafka in Docker, started; None where no Docker answers."""
    try:
        import docker  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415  # comes with testcontainers
        from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415  # likewise
    except ImportError:
        return None
    with warnings.catch_warnings():
        # A client that finds no Docker leaves its socket open.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            docker.from_env(timeout=5).close()
        except docker.errors.DockerException:
            return None
        finally:
            gc.collect()
    container = KafkaContainer().with_kraft()
    for name, value in {
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_LOG_RETENTION_MS": "-1",
    }.items():
        container.with_env(name, value)
    return container.start()


@asynccontextmanager
async def beside(
    work: Coroutine[Any, Any, None],
) -> AsyncIterator[Callable[[Callable[[], bool]], Awaitable[None]]]:
    """The work goes on for as long as the block. Gives `until`, which waits for what it does."""
    task = asyncio.create_task(work)

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # what is waited for sets no event
                assert not task.done(), task.exception()
                await asyncio.sleep(0.01)

    try:
        yield until
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
