"""The broker itself is killed under load, and comes back: nothing is lost, nothing is doubled, nobody has to help."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import Topics, produce
from tests.broker.world import APP_ID, SECRET, World, event

pytestmark = pytest.mark.broker


@pytest.fixture
async def mortal_broker() -> AsyncIterator[EmbeddedBroker]:
    """One of its own for this test, to be killed."""
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.mark.long
async def test_a_broker_killed_under_load_and_started_again_leaves_exactly_one_outcome_each(
    mortal_broker: EmbeddedBroker,
    create_topics: Callable[[str, Mapping[str, int]], Awaitable[None]],
    tmp_path: Path,
) -> None:
    name = f"t{secrets.token_hex(4)}"
    topics = Topics(f"{name}-events", f"{name}-outcomes", f"{name}-dead", f"{name}-group", 4)
    servers = mortal_broker.bootstrap_servers
    await create_topics(servers, {topics.events: 4, topics.outcomes: 3, topics.dead_letters: 1})
    count = 3_000
    async with SandboxGateway(apps={APP_ID: SECRET}, latency=0.1) as gateway:
        world = World(servers, topics, tmp_path, gateway.url)
        try:
            await produce(servers, topics.events, [event(number) for number in range(count)])
            member = world.start()
            await world.until_outcomes(600, of=count)
            await mortal_broker.kill()
            await asyncio.sleep(2)
            assert (await member.get("/healthz"))[0] == 200
            await mortal_broker.restart()
            await world.until_done(90)
            outcomes = Counter(outcome["order_id"] for outcome in await world.outcomes())
            assert outcomes == Counter(f"ORDER{number:08}" for number in range(count))
            assert await member.stop() == 0
        finally:
            world.end()
