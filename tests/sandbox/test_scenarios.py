"""How the demo's platform behaves over time, and the load that shows it."""

from dataclasses import replace
from math import inf

import pytest

from consumer.sandbox.answers import check_rates
from consumer.sandbox.scenarios import (
    BROWN_OUT,
    FLAPPING,
    HIDDEN_CAPACITY,
    OUTAGE,
    RATE_LIMITED,
    SCENARIOS,
    SLOW,
    STEADY,
    Phase,
    Scenario,
)

TWO = Scenario(
    "two",
    "first one, then the other",
    (
        Phase("first", "rises", 10.0, (1.0, 3.0), failures={"503": 0.5}),
        Phase("last", "stays", 5.0, (0.5, 0.5)),
    ),
    events=150,
)


@pytest.mark.parametrize(
    ("seconds", "phase", "latency", "left", "troubled"),
    [
        (0.0, "first", 1.0, 10.0, True),
        (5.0, "first", 2.0, 5.0, True),
        (9.999, "first", pytest.approx(3.0, abs=0.001), pytest.approx(0.001), True),
        (10.0, "last", 0.5, None, False),
        (1000.0, "last", 0.5, None, False),
    ],
)
def test_latency_goes_from_a_phases_beginning_to_its_end_and_the_last_phase_stays(
    seconds: float, phase: str, latency: float, left: float | None, troubled: bool
) -> None:
    moment = TWO.at(seconds)

    assert (moment.phase.name, moment.latency, moment.left) == (phase, latency, left)
    assert moment.troubled is troubled


def test_a_brown_out_slows_down_fails_most_calls_and_recovers() -> None:
    moments = [BROWN_OUT.at(second) for second in range(int(BROWN_OUT.seconds) + 1)]
    rates = [sum(moment.phase.failures.values()) for moment in moments]
    worst = rates.index(max(rates))

    assert max(rates) > 0.5
    assert rates[0] == rates[-1] == 0
    assert moments[worst - 1].latency > 10 * moments[0].latency
    assert moments[-1].latency == moments[0].latency
    assert moments[-1].left is None


def test_a_slow_platform_takes_one_to_three_seconds_and_fails_nothing() -> None:
    moment = SLOW.at(3.0)

    assert moment.latency * (1 - moment.phase.jitter) == 1.0
    assert moment.latency * (1 + moment.phase.jitter) == 3.0
    assert not SLOW.fails


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_every_scenario_lasts_long_enough_to_be_watched_and_its_answers_exist(scenario: Scenario) -> None:
    for phase in scenario.phases:
        check_rates(phase.failures)
    assert 20 <= scenario.seconds <= 40
    assert SCENARIOS[scenario.name] is scenario


def test_records_fill_a_scenario_with_phases_and_without_few_do_not_take_that_long_and_many_go_as_fast_as_they_can() -> (
    None
):
    assert TWO.rate(150) == 10.0
    assert TWO.rate(15) == 1.0
    one = replace(TWO, phases=TWO.phases[:1])
    assert one.rate(15) == one.rate(150) == 15.0
    assert one.rate(1500) == 150.0
    assert one.rate(20_000) == inf
    assert TWO.rate(30_000) == 2_000.0


def test_scaled_all_times_are_and_the_rates_of_failure_are_not() -> None:
    half = BROWN_OUT.scaled(0.5)

    assert half.seconds == BROWN_OUT.seconds / 2
    assert half.call_timeout == BROWN_OUT.call_timeout / 2
    assert half.at(6.0).latency == BROWN_OUT.at(12.0).latency / 2
    assert half.at(6.0).phase.failures == BROWN_OUT.at(12.0).phase.failures
    assert half.events == BROWN_OUT.events


def test_a_scenario_on_the_wire_troubles_where_a_reply_may_not_be_heard() -> None:
    on_the_wire = {name for name, each in SCENARIOS.items() if each.phases[0].deliveries}
    calm = {name for name in on_the_wire if not SCENARIOS[name].fails}

    assert calm == {"stale-keep-alive", "chunked-trailers", "interim-1xx"}
    assert on_the_wire - calm == {"half-open", "resets", "truncated", "oversized", "trickle", "wrong-length"}


def test_a_steady_scenario_never_troubles() -> None:
    assert not STEADY.fails
    assert not STEADY.at(5.0).troubled


def test_a_hidden_capacity_halves_and_grows_and_fails_nothing() -> None:
    capacities = [phase.capacity or 0 for phase in HIDDEN_CAPACITY.phases]

    assert capacities == [12, 6, 24]
    assert not HIDDEN_CAPACITY.fails


def test_in_an_outage_every_call_fails_and_a_flapping_platform_comes_and_goes() -> None:
    assert [sum(phase.failures.values()) for phase in OUTAGE.phases] == [0, 1, 0]
    assert [sum(phase.failures.values()) for phase in FLAPPING.phases] == [0, 1, 0, 1, 0, 1, 0]


def test_a_rate_is_a_trouble_and_scaled_with_time() -> None:
    assert RATE_LIMITED.fails
    assert RATE_LIMITED.at(1.0).troubled
    assert RATE_LIMITED.scaled(0.5).phases[0].rate == 50
