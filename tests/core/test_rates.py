"""A member's share of what the fleet may do, and its rate."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.rates import Share, TokenBucket

PARTITIONS = {"charges": 5, "more": 2}


def test_without_a_division_all_is_ours() -> None:
    assert (Share().rate(300), Share().in_flight(10)) == (300, 10)


def test_a_share_is_that_of_the_partitions() -> None:
    share = Share.of([("charges", 0), ("more", 1), ("retries.1m", 0)], PARTITIONS)

    assert share.of_rate == 2 / 7
    assert share.rate(70) == 20


def test_without_partitions_there_are_no_calls() -> None:
    share = Share.of([], PARTITIONS)

    assert (share.rate(300), share.in_flight(300)) == (0, 0)


def test_with_partitions_of_retry_topics_only_what_waits_there_still_ends() -> None:
    share = Share.of([], PARTITIONS, waiting=True)

    assert share.rate(300) == 3
    assert share.in_flight(300) == 1


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 12), min_size=1), st.integers(1, 500), st.data()
)
def test_all_shares_together_are_the_fleets(topics: dict[str, int], cap: int, data: st.DataObject) -> None:
    partitions = [(topic, number) for topic, count in topics.items() for number in range(count)]
    owners = [data.draw(st.integers(0, 3)) for _ in partitions]
    shares = [
        Share.of([tp for tp, owner in zip(partitions, owners, strict=True) if owner == member], topics)
        for member in range(4)
    ]

    assert abs(sum(share.rate(1.0) for share in shares) - 1) < 1e-9
    in_flight = [share.in_flight(cap) for share in shares]
    if cap >= len(partitions):
        assert sum(in_flight) == cap
    for share, most in zip(shares, in_flight, strict=True):
        assert (most > 0) == bool(share.places), "a partition would stand still"


@given(
    st.floats(0.5, 2000),
    st.lists(st.sampled_from([0.0, 0.0001, 0.003, 0.05, 0.7, 20.0]), min_size=1, max_size=400),
)
def test_no_span_of_time_has_more_than_its_rate_and_a_burst(rate: float, pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, 0.0), 0.0, [0.0]
    taken.clear()
    for pause in pauses:
        now += pause
        while not bucket.wait(now):
            bucket.take()
            taken.append(now)
    burst = max(1.0, rate / 4)
    for first, begin in enumerate(taken):
        for last in range(first, len(taken), 7):
            assert last - first + 1 <= (taken[last] - begin) * rate + burst + 1e-6


@given(st.floats(0.5, 2000))
def test_whoever_comes_back_when_he_was_told_to_gets_one(rate: float) -> None:
    bucket, now = TokenBucket(rate, 0.0), 0.0
    for _ in range(300):
        now += bucket.wait(now)
        assert bucket.wait(now) == 0
        bucket.take()

    assert abs(now - 300 / rate) < 1e-3 * now


def test_a_rate_of_nothing_lets_nothing_through() -> None:
    assert TokenBucket(0.0, 0.0).wait(1e9) == float("inf")


def test_nothing_saved_up_is_taken_along_into_another_share() -> None:
    bucket = TokenBucket(100.0, 0.0)
    assert not bucket.wait(10.0)
    bucket.set_rate(50.0, 10.0)

    assert bucket.wait(10.0) == 0.02
