"""How often, and after what wait, an order is tried again: within seconds, and later."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consumer.core.events import Coordinates, GatewayWords, RetryContext, Wait
from consumer.core.headers import own_headers, read_retry, retry_headers
from consumer.core.outcomes import Later, Outcome
from consumer.core.replies import Reply, Then
from consumer.core.retries import (
    Again,
    Done,
    RetryBudget,
    RetryPolicy,
    Stopped,
    excused_seconds,
    next_step,
)

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


# -- Later ------------------------------------------------------------------------------------------

LATER = RetryPolicy(max_attempts_now=3, delays=(60, 300, 1800))


def after(context: RetryContext | None, seconds: float, **changes: Any) -> RetryContext:
    """An order that was written `seconds` before it is due, coming from `context`."""
    known: dict[str, Any] = {
        "origin": Coordinates("charges", 0, 0),
        "timestamp_ms": 0,
        "index": 0,
        "wait": Wait.REPLY,
        "written_at": NOW - timedelta(seconds=seconds),
        "due_at": NOW,
        "tier": 0 if context is None else context.tier,
    }
    return RetryContext(**(known | changes))


def test_what_is_for_later_is_not_tried_again_at_once() -> None:
    step = next_step(reply(Then.LATER), 1, LATER, 0.5, now=NOW)

    assert step == Later(Wait.REPLY, 0, NOW + timedelta(seconds=60), 1, 0, 0.0)


def test_what_is_for_now_and_later_waits_only_when_the_tries_at_once_are_used_up() -> None:
    assert isinstance(next_step(reply(Then.NOW_THEN_LATER), 2, LATER, 0.5, now=NOW), Again)
    assert isinstance(next_step(reply(Then.NOW_THEN_LATER), 3, LATER, 0.5, now=NOW), Later)


def test_what_is_for_now_only_ends_when_the_tries_at_once_are_used_up() -> None:
    assert next_step(reply(Then.NOW), 3, LATER, 0.5, now=NOW) == Done()


@pytest.mark.parametrize(("tier", "topic", "seconds"), [(0, 0, 60), (1, 1, 300), (2, 2, 1800), (7, 2, 1800)])
def test_each_wait_is_longer_than_the_one_before_and_the_last_repeats(
    tier: int, topic: int, seconds: int
) -> None:
    step = next_step(reply(Then.LATER), 1, LATER, 0.5, now=NOW, context=after(None, 60, tier=tier))

    assert step == Later(Wait.REPLY, topic, NOW + timedelta(seconds=seconds), tier + 1, 0, 0.0)


@pytest.mark.parametrize(("asked", "topic"), [(0, 0), (60, 0), (61, 1), (900, 2), (1e9, 2)])
def test_a_longer_retry_after_is_met_by_a_later_topic(asked: float, topic: int) -> None:
    """In one topic all wait equally long, so that no record waits behind one that is due after it."""
    step = next_step(reply(Then.LATER, retry_after=asked), 1, LATER, 0.5, now=NOW)

    assert isinstance(step, Later)
    assert step.topic == topic


def test_nothing_is_waited_for_that_would_come_after_the_deadline() -> None:
    for then, calls in ((Then.LATER, 1), (Then.NOW_THEN_LATER, 3)):
        at_it = next_step(reply(then), calls, LATER, 0.5, now=NOW, deadline=NOW + timedelta(seconds=60))
        behind = next_step(reply(then), calls, LATER, 0.5, now=NOW, deadline=NOW + timedelta(seconds=59))
        assert isinstance(at_it, Later)
        assert behind == Done()
    assert next_step(reply(Then.NOW), 1, LATER, 0.5, now=NOW, deadline=NOW) == Done()


@pytest.mark.parametrize(("waits", "topic"), [(0, 0), (1, 1), (2, 1), (50, 1)])
def test_a_stop_is_looked_at_again_after_the_second_delay_at_most_and_is_no_step_on_the_way(
    waits: int, topic: int
) -> None:
    found = LATER.later(Wait.STOP, NOW, after(None, 60, tier=2, waits=waits), excused=7.0)

    assert (found.topic, found.tier, found.waits, found.excused_seconds) == (topic, 2, waits + 1, 7.0)


def test_a_policy_with_one_delay_has_one_topic_for_everything() -> None:
    policy = RetryPolicy(delays=(60,))

    assert policy.later(Wait.HOLD, NOW, after(None, 60, waits=3)).topic == 0
    assert policy.later(Wait.REPLY, NOW, after(None, 60, tier=3), retry_after=1e6).topic == 0


@pytest.mark.parametrize(("wait", "seconds"), [(Wait.REPLY, 10.0), (Wait.STOP, 70.0), (Wait.HOLD, 70.0)])
def test_only_waits_that_are_not_the_orders_fault_excuse_it(wait: Wait, seconds: float) -> None:
    assert excused_seconds(after(None, 60, wait=wait, excused_seconds=10.0), NOW) == seconds


def test_a_clock_that_went_back_excuses_nothing() -> None:
    assert excused_seconds(after(None, -60, wait=Wait.STOP), NOW) == 0.0
    assert excused_seconds(None, NOW) == 0.0


def test_a_wait_that_a_header_dates_to_a_thousand_years_ago_excuses_what_can_be_read_again() -> None:
    long_ago = after(None, 1000 * 365 * 86400.0, wait=Wait.STOP, excused_seconds=3.5)

    headers = retry_headers(replace(long_ago, excused_seconds=excused_seconds(long_ago, NOW)))

    assert isinstance(read_retry(tuple(own_headers(headers))), RetryContext)


# -- The budget of retries within seconds -----------------------------------------------------------


def test_what_is_not_in_the_budget_goes_later_at_once() -> None:
    step = next_step(reply(Then.NOW_THEN_LATER), 1, LATER, 0.5, now=NOW, in_budget=False)

    assert isinstance(step, Later)
    assert (step.wait, step.topic) == (Wait.REPLY, 0)


def test_without_retry_topics_the_budget_ends_no_order() -> None:
    assert Again(0.25) == next_step(reply(Then.NOW_THEN_LATER), 1, POLICY, 0.5, now=NOW, in_budget=False)


def test_what_cannot_go_later_is_retried_within_seconds_whatever_the_budget() -> None:
    assert Again(0.25) == next_step(reply(Then.NOW), 1, LATER, 0.5, now=NOW, in_budget=False)


def test_past_its_deadline_nothing_goes_later_either() -> None:
    deadline = NOW + timedelta(seconds=30)
    step = next_step(reply(Then.NOW_THEN_LATER), 1, LATER, 0.5, now=NOW, deadline=deadline, in_budget=False)

    assert step == Done()


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.5)), max_size=400))
def test_retries_are_a_tenth_of_the_calls_of_ten_seconds_or_a_few(calls: list[tuple[bool, float]]) -> None:
    budget, now = RetryBudget(), 0.0
    made: list[float] = []
    again: list[float] = []
    for failed, passed in calls:
        now += passed
        budget.note_calls(now)
        made.append(now)
        if failed and budget.allows(now):
            budget.spend(now)
            again.append(now)
            lately = sum(1 for at in again if at > now - 9)
            assert lately <= max(10, 0.1 * sum(1 for at in made if at > now - 11))


def test_single_failures_are_retried_where_there_are_few_calls() -> None:
    budget = RetryBudget()
    for minute in range(60):
        budget.note_calls(minute * 60)
        assert budget.allows(minute * 60)
        budget.spend(minute * 60)


def test_a_wait_for_the_platform_counts_towards_the_deadline() -> None:
    waited = after(None, 60, wait=Wait.BREAKER)

    assert excused_seconds(waited, NOW) == 0
