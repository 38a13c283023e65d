"""Each test's own topics, group, gateway and world, on the session's broker."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import Topics
from tests.broker.world import APP_ID, SECRET, World


@pytest.fixture
async def topics(
    broker: str, topic_prefix: str, create_topics: Callable[[str, Mapping[str, int]], Awaitable[None]]
) -> Topics:
    """Events in four partitions, outcomes in three, dead letters in one."""
    names = Topics(
        f"{topic_prefix}-events",
        f"{topic_prefix}-outcomes",
        f"{topic_prefix}-dead",
        f"{topic_prefix}-group",
        4,
    )
    await create_topics(broker, {names.events: 4, names.outcomes: 3, names.dead_letters: 1})
    return names


@pytest.fixture
async def gateway() -> AsyncIterator[SandboxGateway]:
    """A platform that knows the world's account."""
    async with SandboxGateway(apps={APP_ID: SECRET}) as gateway:
        yield gateway


@pytest.fixture
async def world(broker: str, topics: Topics, tmp_path: Path, gateway: SandboxGateway) -> AsyncIterator[World]:
    """A deployment whose members end with the test."""
    world = World(broker, topics, tmp_path, gateway.url)
    try:
        yield world
    finally:
        world.end()
