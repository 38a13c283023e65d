"""Flow and delivery under load, in virtual time: what the platform is asked, how fast, and how outages end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from consumer.core.rates import Share
from consumer.core.replies import AttemptEnd, NoAnswer
from consumer.flow import FleetBounds
from tests.bench.capacity import Late, beside_ourselves, over_sockets
from tests.bench.load import UNAVAILABLE, Apart, Member, Platform, run, spend

TOPICS = {"charges": 9}


@asynccontextmanager
async def working(*members: Member) -> AsyncIterator[None]:
    """They take in and call, until this is left."""
    tasks = [asyncio.create_task(member.work()) for member in members]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- A capacity that nobody told -----------------------------------------------------------------------


def test_a_hidden_capacity_is_used_and_not_overrun() -> None:
    async def main() -> Platform:
        platform = Platform(capacity=20, seconds=0.2)
        async with working(Member(platform)):
            await asyncio.sleep(60)
        return platform

    platform = run(main)

    assert platform.used(15, 60) >= 0.9
    assert platform.p99(15, 60) <= 2.0
    assert platform.failed(0, 60) < 0.01


@pytest.mark.long
async def test_over_real_sockets_too() -> None:
    began = asyncio.get_running_loop().time()
    calls = await over_sockets(12, 45.0, max_in_flight=1000, room=200)

    # Coarse, since who else is on the machine counts here: Vegas uses 0.43, AIMD comes to 14.6 (`bench.capacity`).
    assert calls.used(began + 18, began + 45) >= 0.7
    assert calls.p99(began + 18, began + 45) <= 4.0
    assert calls.failed(began, began + 45) < 0.01


def test_a_fixed_number_of_calls_only_queues_at_the_platform() -> None:
    async def main() -> Platform:
        platform = Platform(capacity=20, seconds=0.2)
        async with working(Member(platform, adaptive=False, max_in_flight=80)):
            await asyncio.sleep(15)
        return platform

    platform = run(main)

    assert platform.p99(5, 15) > 2.4, "else the limit that is found out saves nothing"


@pytest.mark.long
def test_when_the_capacity_halves_or_doubles_the_limit_follows_within_thirty_seconds() -> None:
    async def main() -> list[tuple[int, float]]:
        platform = Platform(capacity=20, seconds=0.2)
        found = []
        member = Member(platform)
        async with working(member):
            await asyncio.sleep(20)
            for capacity in (10, 20, 40):
                platform.capacity = capacity
                await asyncio.sleep(20)
                limits = []
                for _ in range(20):
                    await asyncio.sleep(0.5)
                    limits.append(member.limit)
                found.append((capacity, sum(limits) / len(limits)))
        return found

    for capacity, limit in run(main):
        assert 0.9 * capacity <= limit <= 1.8 * capacity, capacity


def test_neither_the_permits_nor_one_call_for_a_plate_are_ever_exceeded() -> None:
    async def main() -> Platform:
        platform = Platform(seconds=0.3)
        async with working(Member(platform, max_in_flight=50)):
            await asyncio.sleep(10)
        return platform

    assert run(main).most_in_flight == 50


@pytest.mark.parametrize(
    "late",
    [
        Late("gets no core half of the time", None, 0.05, 1e-3, (0.025, 0.025), 4.0),
        Late("gets no core now and then", None, 0.1, 1e-3, (0.5, 0.2), 4.0),
        Late("works without a pause", None, 0.05, 1e-3, None, 4.0),
    ],
    ids=lambda late: late.words,
)
def test_a_process_that_is_late_by_itself_makes_no_fewer_calls(late: Late) -> None:
    found, _ = run(partial(beside_ourselves, late, adaptive=True))
    most, _ = run(partial(beside_ourselves, late, adaptive=False))

    assert found >= 0.97 * most


def test_a_process_that_is_late_still_finds_a_hidden_capacity() -> None:
    late = Late("gets no core half of the time", 20, 0.2, 500e-6, (0.01, 0.01), 20.0)
    calls, took = run(partial(beside_ourselves, late, adaptive=True))

    assert calls >= 0.9 * 20 / 0.2
    assert took <= 1.6


def test_how_late_the_process_is_is_looked_at_while_it_calls() -> None:
    async def main() -> tuple[float, float]:
        member = Member(Apart(seconds=0.1))
        lateness = member.flow.lateness
        await asyncio.sleep(1)
        spend(0.5)
        await asyncio.sleep(1)
        idle = lateness.seen
        async with working(member):
            await asyncio.sleep(0.2)
            spend(0.5)
            await asyncio.sleep(0.2)
        return idle, lateness.waited

    idle, waited = run(main)

    assert idle == 0.0
    assert waited == pytest.approx(0.5 * 0.5 / 2, rel=0.1)


# -- An outage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("away", "delays"),
    [(UNAVAILABLE, (60.0, 300.0)), (NoAnswer("timeout"), ())],
    ids=["503, with retry topics", "timeout, without"],
)
def test_an_outage_of_ten_minutes_is_waited_out_with_a_few_probes_and_ends_without_a_storm(
    away: AttemptEnd, delays: tuple[float, ...]
) -> None:
    async def main() -> tuple[Platform, Member, float, float]:
        platform = Platform(capacity=12, seconds=0.2)
        member = Member(platform, delays=delays)
        async with working(member):
            await asyncio.sleep(40)
            platform.away = away
            await asyncio.sleep(600)
            paused, retried = member.paused["breaker"], member.count("coupon_retries_total")
            platform.away = None
            await asyncio.sleep(70)
        return platform, member, paused, retried

    platform, member, paused, retried = run(main)

    before = max(platform.calls(second, second + 1) for second in range(15, 40))
    assert paused > 560
    assert member.most_held <= 1000
    # Those in flight, those that opened the breaker, and its probes.
    assert platform.calls(40, 640) <= 420
    # One every four seconds: few enough for a platform that is away, and it is soon noticed that it is back.
    assert platform.calls(55, 640) <= 150
    assert min(at for at, _, granted in platform.ended if granted and at > 640) <= 645
    # Then it is asked no faster than before.
    assert max(platform.calls(second, second + 1) for second in range(640, 700)) <= 1.1 * before
    assert platform.used(660, 710) >= 0.9
    retries = member.count("coupon_retries_total")
    assert retries <= 0.1 * len(platform.begun)
    assert member.ends["granted"] + member.ends["already_granted"] > 0
    assert set(member.ends) <= {"granted", "later", "platform_failed"}
    if delays:
        assert not member.ends["platform_failed"]
        assert retries - retried <= 0.1 * platform.calls(640, 710)


def test_a_platform_that_comes_and_goes_is_neither_stormed_nor_left_alone() -> None:
    async def main() -> Platform:
        platform = Platform(capacity=12, seconds=0.2)
        async with working(Member(platform)):
            for _ in range(5):
                await asyncio.sleep(10)
                platform.away = UNAVAILABLE
                await asyncio.sleep(5)
                platform.away = None
            await asyncio.sleep(60)
        return platform

    platform = run(main)

    while_away = sum(platform.calls(10.5 + 15 * n, 15 + 15 * n) for n in range(5))
    assert while_away < 0.1 * len(platform.begun)
    assert platform.used(105, 135) >= 0.9


# -- The whole fleet -------------------------------------------------------------------------------------


def shares(owners: list[int]) -> list[Share]:
    """Of the members, by who owns each partition."""
    partitions = list(enumerate(owners))
    return [
        Share.of([("charges", number) for number, owner in partitions if owner == member], TOPICS)
        for member in range(3)
    ]


def fleet_of(platform: Platform, bounds: FleetBounds) -> list[Member]:
    members = [Member(platform, name=f"m{n}-", fleet=bounds, adaptive=False) for n in range(3)]
    divide(members, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    return members


def divide(members: list[Member], owners: list[int]) -> None:
    for member, share in zip(members, shares(owners), strict=True):
        member.flow.use_share(share)


@pytest.mark.long
def test_three_members_keep_to_the_fleets_rate_and_use_it_through_rebalances() -> None:
    async def main() -> Platform:
        platform = Platform(seconds=0.15)
        members = fleet_of(platform, FleetBounds(rate=300))
        async with working(*members):
            await asyncio.sleep(16)
            divide(members, [0, 0, 0, 0, 0, 1, 1, 1, 1])
            await asyncio.sleep(8)
            divide(members, [0, 0, 0, 1, 1, 1, 2, 2, 2])
            await asyncio.sleep(16)
        return platform

    platform = run(main)

    ten_seconds = [platform.calls(begin / 10, begin / 10 + 10) for begin in range(300)]
    assert max(ten_seconds) <= 3000 * 1.05
    for begin, end in ((1, 16), (17, 24), (25, 40)):
        assert platform.calls(begin, end) >= 0.95 * 300 * (end - begin)


def test_three_members_keep_to_the_fleets_cap_in_flight_and_use_it() -> None:
    async def main() -> tuple[int, float]:
        platform = Platform(seconds=0.15)
        in_flight = []
        async with working(*fleet_of(platform, FleetBounds(max_in_flight=50))):
            await asyncio.sleep(2)
            for _ in range(100):
                await asyncio.sleep(0.1)
                in_flight.append(platform.in_flight)
        return platform.most_in_flight, sum(in_flight) / len(in_flight)

    most, mean = run(main)

    assert most == 50
    assert mean >= 0.95 * 50
