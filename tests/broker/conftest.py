"""Each test's own topics and group, on the session's broker."""

from collections.abc import Awaitable, Callable, Mapping

import pytest

from tests.broker.kafka import Topics


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
