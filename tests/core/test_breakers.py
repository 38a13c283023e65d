"""The circuit breaker: who may call a refused or failing account, and when."""

import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.breakers import Breaker, BreakerPolicy, Pass, State, Why

POLICY = BreakerPolicy()


def leave(breaker: Breaker, now: float) -> Pass:
    assert breaker.ready(now)
    return breaker.admit(now)


def stopped(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    assert breaker.stop(leave(breaker, now), now)
    return breaker


def failing(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    while breaker.state is State.CLOSED:
        breaker.fail(leave(breaker, now), now)
    return breaker


def closing(now: float = 1.0) -> Breaker:
    breaker = failing(now - 1)
    breaker.succeed(leave(breaker, now), now)
    assert breaker.state is State.CLOSING
    return breaker


def test_a_closed_breaker_lets_everyone_through() -> None:
    breaker = Breaker()

    assert leave(breaker, 0) == leave(breaker, 0) == Pass(0)


# -- Refused ----------------------------------------------------------------------------------------


def test_a_stop_opens_it_until_a_probe_is_due() -> None:
    breaker = stopped()

    assert (breaker.state, breaker.why) == (State.OPEN, Why.STOP)
    assert not breaker.ready(29.9)
    assert breaker.probe_in(20.0) == 10.0
    assert leave(breaker, 30.0).probe


def test_one_probe_goes_at_a_time() -> None:
    breaker = stopped()
    leave(breaker, 30)

    assert breaker.state is State.HALF_OPEN
    assert not breaker.ready(10_000)
    assert breaker.probe_in(31) == float("inf")


def waits(breaker: Breaker, end: Callable[[Pass, float], object], times: int) -> list[float]:
    """How long it waits before each of its probes, if they end like this."""
    now, found = 0.0, []
    for _ in range(times):
        found.append(breaker.probe_in(now))
        now += breaker.probe_in(now)
        end(leave(breaker, now), now)
    return found


def test_refused_probes_wait_twice_as_long_each_time_up_to_the_cap() -> None:
    breaker = stopped()

    assert waits(breaker, breaker.stop, 6) == [30, 60, 120, 240, 300, 300]


def test_an_answer_closes_it_at_once_and_forgets_the_wait() -> None:
    breaker = stopped()
    breaker.stop(leave(breaker, 30), 30)

    assert breaker.succeed(leave(breaker, 90), 90)
    assert breaker.state is State.CLOSED
    breaker.stop(leave(breaker, 91), 91)
    assert breaker.probe_in(91) == 30


def test_many_stops_of_calls_sent_before_it_opened_count_once() -> None:
    breaker = Breaker()
    leaves = [leave(breaker, 0) for _ in range(5)]

    assert [breaker.stop(each, 1) for each in leaves] == [True, False, False, False, False]
    assert breaker.probe_in(1) == 30


def test_a_stop_of_a_call_sent_before_it_closed_does_not_open_it() -> None:
    breaker = Breaker()
    early, late = leave(breaker, 0), leave(breaker, 0)
    breaker.stop(early, 1)
    breaker.succeed(leave(breaker, 31), 31)

    assert not breaker.stop(late, 32)
    assert breaker.state is State.CLOSED


def test_a_call_that_is_answered_late_shows_that_the_account_is_not_refused() -> None:
    breaker = Breaker()
    refused, answered = leave(breaker, 0), leave(breaker, 0)
    breaker.stop(refused, 1)

    assert breaker.succeed(answered, 2)
    assert breaker.state is State.CLOSED


def test_a_probe_that_tells_nothing_of_the_account_waits_as_long_again() -> None:
    breaker = stopped()

    assert waits(breaker, breaker.fail, 2) == [30, 30]
    assert waits(stopped(), lambda *_: None, 1) == [30]
    assert breaker.why is Why.STOP
    lost = stopped()
    lost.lost(leave(lost, 30), 35)
    assert lost.probe_in(35) == 30


def test_how_long_the_account_was_refused_adds_up() -> None:
    breaker = stopped(10)
    assert breaker.stopped_seconds(15) == 5
    breaker.succeed(leave(breaker, 40), 40)
    assert breaker.stopped_seconds(100) == 30
    breaker.stop(leave(breaker, 100), 100)
    assert breaker.stopped_seconds(101) == 31


# -- Failing ----------------------------------------------------------------------------------------


def test_failures_open_it_when_they_are_the_greater_part_of_enough_calls() -> None:
    breaker = Breaker()
    for number in range(POLICY.least_calls - 1):
        assert not breaker.fail(leave(breaker, number), number)

    assert breaker.fail(leave(breaker, 19), 19)
    assert (breaker.state, breaker.why) == (State.OPEN, Why.FAILURES)


def test_single_failures_do_not_open_it() -> None:
    breaker = Breaker()
    for number in range(1000):
        end = breaker.succeed if number % 5 else breaker.fail
        assert not end(leave(breaker, number / 10), number / 10)

    assert breaker.state is State.CLOSED


def test_good_answers_of_before_do_not_hide_that_there_are_none_now() -> None:
    breaker = Breaker()
    for number in range(10_000):
        breaker.succeed(leave(breaker, number / 1000), number / 1000)
    burnt = 0
    while breaker.state is State.CLOSED:
        breaker.fail(leave(breaker, 10.0), 10.0)
        burnt += 1

    assert burnt <= POLICY.window_calls


def test_failures_of_long_ago_count_no_more() -> None:
    breaker = Breaker()
    for number in range(100):
        breaker.fail(leave(breaker, number * 2), number * 2)

    assert breaker.state is State.CLOSED


def test_calls_sent_before_it_opened_say_nothing() -> None:
    breaker = Breaker()
    late = leave(breaker, 0)
    for _ in range(20):
        breaker.fail(leave(breaker, 0), 0)

    assert not breaker.succeed(late, 0.5)
    assert breaker.state is State.OPEN


def test_failed_probes_wait_twice_as_long_each_time_up_to_the_cap() -> None:
    breaker = failing()

    assert waits(breaker, breaker.fail, 5) == [1, 2, 4, 4, 4]


def test_a_probe_that_is_not_answered_has_waited_long_enough() -> None:
    breaker = failing()
    breaker.fail(leave(breaker, 1), 2.5)
    assert breaker.probe_in(2.5) == 0.5, "two seconds after the first one began"
    breaker.fail(leave(breaker, 3), 13)
    assert breaker.probe_in(13) == 0


def test_a_retry_after_lengthens_the_wait_for_the_next_probe_up_to_the_cap() -> None:
    breaker = failing()
    breaker.fail(leave(breaker, 1), 1, retry_after=12)
    assert breaker.probe_in(1) == 12
    breaker.fail(leave(breaker, 13), 13, retry_after=1e9)
    assert breaker.probe_in(13) == 30


def test_a_probe_that_is_refused_raises_the_alarm_instead() -> None:
    breaker = failing()

    assert breaker.stop(leave(breaker, 1), 1)
    assert breaker.why is Why.STOP
    assert breaker.probe_in(1) == 30


def test_it_closes_gradually() -> None:
    breaker, now = closing(), 1.0
    at_once = []
    while breaker.state is State.CLOSING:
        out = []
        while breaker.state is State.CLOSING and breaker.ready(now):
            out.append(leave(breaker, now))
        at_once.append(len(out))
        now += 0.1
        for each in out:
            breaker.succeed(each, now)

    assert at_once[0] == 1
    assert at_once == sorted(at_once)
    assert max(after / before for before, after in itertools.pairwise(at_once) if before > 4) < 1.5
    assert len(at_once) > 10
    assert breaker.state is State.CLOSED


def allowed(breaker: Breaker, now: float) -> int:
    out = []
    while breaker.ready(now):
        out.append(leave(breaker, now))
    for each in out:
        breaker.lost(each, now)
    return len(out)


def test_a_failure_while_it_closes_takes_some_of_the_calls_back() -> None:
    breaker = closing()
    for _ in range(40):
        breaker.succeed(leave(breaker, 1), 1)
    assert allowed(breaker, 1) == 11
    for _ in range(4):
        breaker.fail(leave(breaker, 1), 1)

    assert allowed(breaker, 1) == 9
    assert breaker.state is State.CLOSING


def test_orders_that_always_fail_do_not_keep_it_from_closing() -> None:
    breaker = closing()
    for number in range(1000):
        end = breaker.succeed if number % 4 else breaker.fail
        end(leave(breaker, 1), 1)

    assert breaker.state is State.CLOSED


def test_a_platform_that_fails_again_while_it_closes_waits_longer_than_before() -> None:
    breaker = closing(1.0)
    while breaker.state is State.CLOSING:
        breaker.fail(leave(breaker, 1.1), 1.1)

    assert breaker.state is State.OPEN
    assert breaker.probe_in(1.1) == 2


def test_a_call_that_was_given_up_while_it_closes_leaves_its_place() -> None:
    breaker = closing()
    breaker.lost(leave(breaker, 1), 1)

    assert breaker.ready(1)


def test_a_change_lets_the_next_probe_go_at_once() -> None:
    breaker = stopped()
    breaker.probe_now(5)

    assert leave(breaker, 5).probe


# -- Whatever happens -------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "succeed", "fail", "stop", "lost"]),
        st.integers(0, 10),
        st.sampled_from([0.0, 0.1, 1.0, 40.0]),
    ),
    max_size=300,
)


@given(STEPS)
def test_it_never_stays_shut_and_an_open_one_has_one_probe_at_most(
    steps: list[tuple[str, int, float]],
) -> None:
    breaker = Breaker(BreakerPolicy(least_calls=4))
    out: list[Pass] = []
    now = 0.0
    for what, which, passed in steps:
        now += passed
        if what == "admit":
            if breaker.ready(now):
                out.append(breaker.admit(now))
        elif out:
            each = out.pop(which % len(out))
            {"succeed": breaker.succeed, "fail": breaker.fail, "stop": breaker.stop, "lost": breaker.lost}[
                what
            ](each, now)
        current = [each for each in out if each.epoch == breaker.leave.epoch]
        if breaker.state in (State.OPEN, State.HALF_OPEN):
            assert len(current) == (breaker.state is State.HALF_OPEN)
            assert all(each.probe for each in current)
        elif breaker.state is State.CLOSING:
            assert len(current) == breaker._out <= POLICY.closed_at
        assert (breaker.why is None) == (breaker.state is State.CLOSED)
    for each in out:
        breaker.lost(each, now)
    assert breaker.ready(now + POLICY.stop_cap_seconds)


@given(STEPS)
def test_whoever_asks_only_when_it_is_shut_and_tells_of_good_answers_only_when_it_is_not_calm_misses_nothing(
    steps: list[tuple[str, int, float]],
) -> None:
    asked, spared = (Breaker(BreakerPolicy(least_calls=4)) for _ in range(2))
    out: list[tuple[Pass, Pass]] = []
    now = 0.0
    for what, which, passed in steps:
        now += passed
        if what == "admit":
            assert asked.ready(now) == spared.ready(now)
            if asked.ready(now):
                out.append((asked.admit(now), spared.admit(now) if spared.shut else spared.leave))
        elif out:
            one, other = out.pop(which % len(out))
            spare = what == "succeed" and spared.calm
            told = False if spare else getattr(spared, what)(other, now)
            assert getattr(asked, what)(one, now) == told
        assert (asked.state, asked.why, asked._ends) == (spared.state, spared.why, spared._ends)
        assert all(one == other for one, other in out)
