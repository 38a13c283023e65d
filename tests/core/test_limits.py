"""The limit that is found out: against a platform whose capacity it does not know, in time that is made up."""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.limits import AdaptiveLimit, Lateness, LimitPolicy

MOST = LimitPolicy(most=1000)


class Queueing:
    """A platform that works on `capacity` calls at once, first come first served; and members who call all they may.

    Attributes:
        ends: when each call ended, and how long it took.

    """

    def __init__(self, *limits: AdaptiveLimit, capacity: int, seconds: float = 0.1, seed: int = 1) -> None:
        self.limits = limits
        self.capacity = capacity
        self.seconds = seconds
        self.now = 0.0
        self.ends: list[tuple[float, float]] = []
        self.spread: Callable[[random.Random], float] = lambda rng: rng.uniform(0.4, 1.6)
        self._rng = random.Random(seed)
        self._in_flight = [0] * len(limits)
        self._working: list[tuple[float, int, int, float]] = []
        self._waiting: deque[tuple[int, float]] = deque()
        self._number = itertools.count()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        self._send()
        while self._working[0][0] < until:
            self.now, _, member, sent = heapq.heappop(self._working)
            self._work()
            self.ends.append((self.now, self.now - sent))
            self.limits[member].ended(self.now, self.now - sent, self._in_flight[member])
            self._in_flight[member] -= 1
            self._send()
        self.now = until

    def _send(self) -> None:
        for member, limit in enumerate(self.limits):
            while self._in_flight[member] < limit.limit:
                self._in_flight[member] += 1
                self._waiting.append((member, self.now))
        self._work()

    def _work(self) -> None:
        while self._waiting and len(self._working) < self.capacity:
            member, sent = self._waiting.popleft()
            ends = self.now + self.seconds * self.spread(self._rng)
            heapq.heappush(self._working, (ends, next(self._number), member, sent))

    @property
    def limit(self) -> int:
        return sum(limit.limit for limit in self.limits)

    def limit_within(self, seconds: float) -> float:
        """The mean limit of the next seconds."""
        found = []
        for _ in range(20):
            self.run(seconds / 20)
            found.append(self.limit)
        return sum(found) / len(found)

    def used(self, since: float) -> float:
        """Share of its capacity that was used."""
        done = sum(1 for at, _ in self.ends if at >= since)
        return done * self.seconds / (self.now - since) / self.capacity

    def p99(self, since: float) -> float:
        """In terms of the p99 of a platform with nothing to do."""
        seconds = sorted(seconds for at, seconds in self.ends if at >= since)
        alone = sorted(self.seconds * self.spread(self._rng) for _ in range(10_000))
        return seconds[int(0.99 * len(seconds))] / alone[int(0.99 * len(alone))]


@pytest.mark.parametrize("capacity", [8, 20, 50, 200, 500])
def test_it_finds_a_capacity_that_it_does_not_know_and_does_not_queue_there(capacity: int) -> None:
    platform = Queueing(AdaptiveLimit(MOST), capacity=capacity)
    platform.run(80)

    assert platform.used(20) >= 0.9
    assert platform.p99(20) <= 2.0
    assert max(seconds for _, seconds in platform.ends) < 1.0


def test_answers_whose_latency_varies_by_a_factor_of_ten_do_not_confuse_it() -> None:
    platform = Queueing(AdaptiveLimit(MOST), capacity=50)
    platform.spread = lambda rng: rng.lognormvariate(-0.32, 0.8)
    platform.run(120)

    assert platform.used(30) >= 0.9
    assert platform.p99(30) <= 2.0


def test_it_follows_a_capacity_that_halves_and_doubles_within_thirty_seconds() -> None:
    platform = Queueing(AdaptiveLimit(MOST), capacity=50)
    platform.run(40)
    for capacity in (25, 50, 100):
        platform.capacity = capacity
        platform.run(20)
        assert 0.9 * capacity <= platform.limit_within(10) <= 1.7 * capacity, capacity


def test_a_platform_that_becomes_slower_keeps_its_calls() -> None:
    platform = Queueing(AdaptiveLimit(MOST), capacity=50)
    platform.run(40)
    platform.seconds = 0.3
    platform.run(20)

    assert 45 <= platform.limit_within(10) <= 85


def test_members_who_share_a_platform_share_it_without_a_queue() -> None:
    members = [AdaptiveLimit(MOST, wall=1000.0) for _ in range(3)]
    platform = Queueing(*members, capacity=60)
    platform.run(200)

    assert platform.used(30) >= 0.9
    assert platform.p99(30) <= 2.0
    assert min(member.limit for member in members) >= 5


def test_what_is_not_used_does_not_grow() -> None:
    limit = AdaptiveLimit(LimitPolicy(first=10))
    for number in range(5000):
        limit.ended(number / 50, 0.1, 5)

    assert limit.limit <= 10


def used(limit: AdaptiveLimit, seconds: float, now: float, fails: Callable[[int], bool]) -> float:
    """A hundred calls a second, as many at once as there may be -> the time."""
    for number in range(int(seconds * 100)):
        now += 0.01
        limit.ended(now, 0.005, limit.limit, failed=fails(number))
    return now


def test_failures_that_were_not_there_before_shrink_it_and_it_grows_again_without_them() -> None:
    limit = AdaptiveLimit(LimitPolicy(first=100))
    now = used(limit, 1, 0.0, lambda _: False)
    now = used(limit, 8, now, lambda number: number % 2 == 0)
    assert limit.limit < 20
    used(limit, 30, now, lambda _: False)

    assert limit.limit > 100


def test_orders_that_always_fail_do_not_shrink_it() -> None:
    limit = AdaptiveLimit()
    rng = random.Random(1)
    used(limit, 60, 0.0, lambda _: rng.random() < 0.2)

    assert limit.limit > 60


def test_a_platform_that_sheds_what_is_too_much_for_it_is_not_asked_for_much_more() -> None:
    limit, rng = AdaptiveLimit(), random.Random(1)
    failed = []
    for number in range(12_000):
        over = max(0.0, 1 - 30 / limit.limit)
        failed.append(rng.random() < over)
        limit.ended(number / 100, 0.1, limit.limit, failed=failed[-1])

    assert 15 <= limit.limit <= 50
    assert sum(failed[3000:]) / len(failed[3000:]) < 0.3


def test_calls_that_end_together_count_as_much_as_those_that_end_one_by_one() -> None:
    together, apart = AdaptiveLimit(MOST), AdaptiveLimit(MOST)
    for turn in range(400):
        now, seconds = turn / 50, [0.02 + 0.001 * number for number in range(10)]
        together.all_ended(now, seconds, together.limit)
        for each in seconds:
            apart.ended(now, each, apart.limit)

    assert together.limit > 50
    assert together.limit == pytest.approx(apart.limit, rel=0.1)


# -- A process that is late ---------------------------------------------------------------------------


def test_who_comes_while_a_process_is_late_waits_for_what_is_left_of_it() -> None:
    lateness = Lateness()
    for number in range(100):  # it stands still for 30 ms, and then sets its timer again, to 10 ms
        lateness.note(number * 0.04, number * 0.04 + 0.01, number * 0.04 + 0.04)

    of_all = lateness.waited / lateness.seen

    assert of_all == pytest.approx((0.03 * 0.015 + 0.01 * 0.03) / 0.04)


def test_a_timer_that_comes_early_is_not_late() -> None:
    lateness = Lateness()
    lateness.note(1.0, 1.005, 1.004)

    assert lateness.waited == 0.0


def least(limit: AdaptiveLimit, lateness: Lateness, seconds: float, late: float, now: float) -> int:
    """Five seconds and more of calls that take so long, in a process whose timers are so late -> the least limit."""
    found = []
    for _ in range(1000):
        lateness.note(now, now + 0.005, now + 0.005 + late)
        now += 0.005 + late
        limit.ended(now, seconds, limit.limit)
        found.append(limit.limit)
    return min(found)


def test_what_a_process_is_late_by_itself_is_no_queue_at_the_platform() -> None:
    lateness = Lateness()
    limit = AdaptiveLimit(lateness=lateness)
    least(limit, lateness, 0.02, 0.0, 0.0)
    before = limit.limit

    assert least(limit, lateness, 0.04, 0.02, 5.0) >= before


def test_a_latency_that_no_lateness_explains_is_a_queue() -> None:
    lateness = Lateness()
    limit = AdaptiveLimit(lateness=lateness)
    least(limit, lateness, 0.02, 0.0, 0.0)
    before = limit.limit

    assert least(limit, lateness, 0.06, 0.002, 5.0) < before / 2


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 60), st.integers(1, 300), st.booleans(), st.floats(0, 9)),
        max_size=500,
    )
)
def test_whatever_comes_it_stays_within_its_bounds(
    ends: list[tuple[float, float, int, bool, float]],
) -> None:
    lateness = Lateness()
    limit, now = AdaptiveLimit(LimitPolicy(most=200), lateness=lateness), 0.0
    for passed, seconds, in_flight, failed, late in ends:
        lateness.note(now, now + 0.005, now + late)
        now += passed
        limit.ended(now, seconds, in_flight, failed=failed)
        assert 1 <= limit.limit <= 200
