"""A network that is slow, tears everything into pieces, resets, or falls silent: nothing is lost, nothing doubled."""

import asyncio
import re
import signal
import time

import pytest

from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import produce, traffic, until
from tests.broker.lengths import scaled
from tests.broker.proxy import COMMIT_OFFSETS, END_TRANSACTION, Network, Proxy
from tests.broker.world import Member, World, event, just_now

pytestmark = pytest.mark.broker

REQUESTS = {"CHARGING_COUPON__KAFKA__REQUEST_TIMEOUT": "4s"}
"""A fifth of a deployment's, so that what is lost is noticed within the trial."""


def outcomes_of(gateway: SandboxGateway) -> int:
    return len(gateway.journal.entries)


def openings(member: Member) -> int:
    return [line["event"] for line in member.events()].count("intake.open")


def troubles(member: Member) -> list[str]:
    """Its own log lines at ERROR, and all with a traceback; what aiokafka says of lost connections is no trouble."""
    errors = [line for line in member.events() if line["level"] in {"error", "critical"}]
    return [str(line) for line in errors if "exception" in line or " " not in line["event"]] + [
        line for line in member.log_tail().splitlines() if line.startswith("Traceback")
    ]


@pytest.mark.long
async def test_latency_and_frames_in_pieces_only_take_longer(world: World, gateway: SandboxGateway) -> None:
    count = scaled(1_500, 20_000)
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    async with Network(world.broker) as network:
        network.delay, network.pieces = 0.05, 100
        member = world.through(network.servers)
        await world.until_done(scaled(60, 600))
        books = await audit(world, gateway, range(count))
        assert await member.stop() == 0
    assert set(books.calls.values()) == {1}
    assert not troubles(member)


@pytest.mark.long
async def test_connections_that_are_reset_again_and_again_double_nothing(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.latency = 0.02
    async with (
        Network(world.broker) as network,
        traffic(world.broker, world.topics.events, event, 100) as sent,
    ):
        member = world.through(network.servers)
        await world.until_outcomes(100)
        for number in range(scaled(20, 600)):
            await asyncio.sleep(0.3 + 0.07 * (number % 7))
            network.cut()
        seen = outcomes_of(gateway)
        await until(lambda: outcomes_of(gateway) > seen + 100, 30)
        sent.enough.set()
        await asyncio.sleep(0.5)
        await world.until_done(scaled(90, 900))
        await audit(world, gateway, range(sent.sent))
        assert await member.stop() == 0
    assert not troubles(member)


@pytest.mark.long
async def test_half_open_connections_are_given_up_and_the_member_that_was_cut_off_doubles_nothing(
    world: World, gateway: SandboxGateway
) -> None:
    """It does not know that it was thrown out, goes on with what it holds, and comes back as a zombie."""
    gateway.latency = 0.02
    async with (
        Network(world.broker) as network,
        traffic(world.broker, world.topics.events, event, 100) as sent,
    ):
        cut_off = world.through(network.servers, **REQUESTS)
        await world.until_outcomes(200)
        world.start(**REQUESTS)
        await world.until_shared()
        network.fall_silent()
        await asyncio.sleep(scaled(10, 60))  # its session of 6 s ends meanwhile
        network.recover()
        healed_at, assignments = time.monotonic(), openings(cut_off)
        await until(lambda: openings(cut_off) > assignments, 40)
        print(f"a member again {time.monotonic() - healed_at:.1f} s after the network")
        sent.enough.set()
        await asyncio.sleep(0.5)
        await world.until_done(scaled(90, 900))
        await audit(world, gateway, range(sent.sent))
        assert await cut_off.stop() == 0
    assert not troubles(cut_off)


@pytest.mark.long
async def test_a_member_told_to_stop_while_kafka_is_silent_ends_before_it_would_be_killed(
    world: World, gateway: SandboxGateway
) -> None:
    """It waits for no reply for longer than the chart's grace period: `drain_timeout` and ten seconds."""
    gateway.latency = 0.3
    async with traffic(world.broker, world.topics.events, just_now, 60) as sent:
        async with Network(world.broker) as network:
            member = world.through(network.servers)
            await world.until_outcomes(100)
            network.fall_silent()
            assert await member.stop(8 + 10) == 0
        world.start()  # the next one
        sent.enough.set()
        await world.until_done(60)
    await audit(world, gateway, range(sent.sent))


@pytest.mark.long
@pytest.mark.parametrize("how", ["silent", "frozen"])
async def test_after_a_silence_consumption_goes_on_by_itself(
    world: World, gateway: SandboxGateway, how: str
) -> None:
    """A consumer can sit there for ever, and look healthy."""
    longest = 0.0
    async with (
        Network(world.broker) as network,
        traffic(world.broker, world.topics.events, event, 50) as sent,
    ):
        member = world.through(network.servers, **REQUESTS)
        await world.until_outcomes(50)
        for _ in range(scaled(1, 3)):
            if how == "silent":
                network.fall_silent()
                await asyncio.sleep(scaled(8, 60))
                network.recover()
            else:
                member.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(scaled(8, 40))
                member.process.send_signal(signal.SIGCONT)
            back_at, seen = time.monotonic(), outcomes_of(gateway)
            await until(lambda seen=seen: outcomes_of(gateway) > seen + 20, 45)  # type: ignore[misc]  # bound at once
            longest = max(longest, time.monotonic() - back_at)
        print(f"consuming again {longest:.1f} s after the silence, at most")
        sent.enough.set()
        await asyncio.sleep(0.5)
        await world.until_done(scaled(90, 900))
        await audit(world, gateway, range(sent.sent))
        assert "coupon_last_poll_timestamp_seconds" in (await member.get("/metrics"))[1]
        assert await member.stop() == 0


@pytest.mark.long
async def test_a_slow_commit_while_partitions_are_revoked_is_no_error(
    world: World, gateway: SandboxGateway
) -> None:
    async with (
        Network(world.broker) as network,
        traffic(world.broker, world.topics.events, event, 100) as sent,
    ):
        network.delays = {COMMIT_OFFSETS: 1.0, END_TRANSACTION: 1.0}
        slow = world.through(network.servers)
        await world.until_outcomes(200)
        world.start()
        await world.until_shared()
        await asyncio.sleep(3)
        gauges = [re.findall(r"^coupon_partition_lag\{(.*)\}", (await member.get("/metrics"))[1], re.MULTILINE)
                  for member in world.members]  # fmt: skip  # two lines
        assert [len(each) for each in gauges] == [2, 2]  # each partition's lag is told by its owner only
        assert not set(gauges[0]) & set(gauges[1])
        sent.enough.set()
        await asyncio.sleep(0.5)
        await world.until_done(scaled(90, 900))
        books = await audit(world, gateway, range(sent.sent))
        for member in world.members:
            assert await member.stop() == 0
    assert set(books.calls.values()) == {1}
    assert not troubles(slow)
    assert not [line for line in slow.events() if line["event"] == "intake.assignment_lost"]


class Door(Proxy):
    """A way to the broker that can be shut: then it resets every connection at the first request."""

    def __init__(self, broker: str, *, is_open: bool) -> None:
        super().__init__(broker)
        self.is_open = is_open

    def shut(self) -> None:
        self.is_open = False
        self.cut()

    async def on_request(self, connection: int, key: int) -> None:
        if not self.is_open:
            raise ConnectionResetError


@pytest.mark.long
async def test_brokers_that_are_all_elsewhere_now_are_found_by_the_bootstrap_servers(
    world: World, gateway: SandboxGateway
) -> None:
    """As when pods that advertise their addresses were all replaced: those that clients know lead nowhere any more."""
    async with (
        Door(world.broker, is_open=True) as before,
        Door(world.broker, is_open=False) as after,
    ):
        member = world.through(f"{before.servers},{after.servers}")
        await produce(world.broker, world.topics.events, [event(number) for number in range(20)])
        await world.until_done(60)
        before.shut()
        after.is_open = True
        await produce(world.broker, world.topics.events, [event(number) for number in range(20, 40)])
        await world.until_done(150)
        assert await member.stop() == 0
    await audit(world, gateway, range(40))
    assert not troubles(member)
