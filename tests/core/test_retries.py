"""How often, and after what wait, an order is tried again within seconds."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.events import GatewayWords
from consumer.core.outcomes import Outcome
from consumer.core.replies import Reply, Then
from consumer.core.retries import Again, Done, RetryPolicy, Stopped, next_step

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
POLICY = RetryPolicy(max_attempts_now=3, base_seconds=0.5, cap_seconds=10, retry_after_cap_seconds=30)


def reply(then: Then, retry_after: float | None = None) -> Reply:
    words = GatewayWords(http_status=200)
    return Reply("x", Outcome.PLATFORM_FAILED, then, False, words, retry_after=retry_after)


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [(1, 0.0, 0.0), (1, 0.5, 0.25), (2, 0.5, 0.5), (3, 0.5, 1.0), (6, 0.5, 5.0), (10_000, 0.5, 5.0)],
)
def test_the_wait_doubles_up_to_its_cap_and_is_fully_jittered(
    attempt: int, jitter: float, seconds: float
) -> None:
    assert seconds == POLICY.backoff(attempt, jitter)


def test_retry_after_lengthens_the_wait_up_to_its_cap() -> None:
    assert POLICY.backoff(1, 0.5, 7.0) == 7.0
    assert POLICY.backoff(1, 0.5, float("inf")) == 30.0


def test_retry_after_zero_leaves_the_own_backoff() -> None:
    assert POLICY.backoff(1, 0.5, 0.0) == 0.25


def test_retry_after_does_not_shorten_the_wait() -> None:
    assert POLICY.backoff(9, 0.5, 1.0) == 5.0


@given(
    st.integers(1, 10**9),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(min_value=0, allow_nan=False),
)
def test_no_wait_is_negative_or_longer_than_the_caps(
    attempt: int, jitter: float, retry_after: float | None
) -> None:
    assert 0 <= POLICY.backoff(attempt, jitter, retry_after) <= 30


@pytest.mark.parametrize("then", [Then.NOW, Then.LATER, Then.NOW_THEN_LATER])
def test_what_can_be_retried_is_retried_within_the_bound(then: Then) -> None:
    assert Again(0.25) == next_step(reply(then), 1, POLICY, 0.5, now=NOW)
    assert Again(0.5) == next_step(reply(then), 2, POLICY, 0.5, now=NOW)
    assert Done() == next_step(reply(then), 3, POLICY, 0.5, now=NOW)


def test_a_final_reply_is_the_last_word_at_once() -> None:
    assert Done() == next_step(reply(Then.FINAL, retry_after=5), 1, POLICY, 0.5, now=NOW)


def test_a_stop_is_no_end_however_often_it_comes() -> None:
    assert Stopped() == next_step(reply(Then.STOP), 1000, POLICY, 0.5, now=NOW)
