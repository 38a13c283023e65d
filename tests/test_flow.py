"""The gate: permits in order of asking, refused and failing accounts that wait and probe, rates, caps and limits."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import consumer.flow
from consumer.core.breakers import BreakerPolicy, State, Why
from consumer.core.events import GatewayWords
from consumer.core.outcomes import Outcome
from consumer.core.rates import Share
from consumer.core.replies import Reply, Then
from consumer.flow import FleetBounds, Flow, HeldBy
from consumer.metrics import Metrics
from tests.permits import permit_of

STOP = Reply("401", Outcome.PLATFORM_FAILED, Then.STOP, True, GatewayWords(code="401", http_status=401))
FINE = Reply("1001", Outcome.GRANTED, Then.FINAL, False, GatewayWords(code="1001", http_status=200))
SILENCE = Reply("timeout", Outcome.PLATFORM_FAILED, Then.NOW_THEN_LATER, True, GatewayWords(), ambiguous=True)
PROBE_SECONDS = 0.03


@pytest.fixture(autouse=True)
def _fresh_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    # A logger keeps the configuration of its first use, which may be another test's.
    monkeypatch.setattr(consumer.flow, "log", structlog.get_logger())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def flow_of(
    metrics: Metrics,
    *accounts: str,
    max_in_flight: int = 10,
    probe_seconds: float = PROBE_SECONDS,
    sets_aside: bool = False,
) -> Flow:
    return Flow(
        max_in_flight=max_in_flight,
        accounts=accounts,
        metrics=metrics,
        sets_aside=sets_aside,
        probe_seconds=probe_seconds,
    )


async def call(flow: Flow, account: str, reply: Reply) -> None:
    async with permit_of(flow, account) as permit:
        permit.report(reply)


async def soon(task: "asyncio.Task[None]", seconds: float = 0.0) -> bool:
    """Whether it is done after a few turns of the loop, and these seconds."""
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(seconds)
    return task.done()


async def cancel(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_permits_are_bounded_and_given_in_order_of_asking(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", max_in_flight=2)
    order: list[int] = []
    highest = 0

    async def work(number: int) -> None:
        nonlocal highest
        async with permit_of(flow, "a") as permit:
            order.append(number)
            highest = max(highest, int(value(metrics, "coupon_requests_in_flight") or 0))
            await asyncio.sleep(0.001)
            permit.report(FINE)

    await asyncio.gather(*map(work, range(20)))

    assert order == list(range(20))
    assert highest == 2
    assert value(metrics, "coupon_requests_in_flight") == 0


async def test_a_permit_is_given_back_when_its_holder_or_its_waiter_is_cancelled(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", max_in_flight=1)

    async def hold() -> None:
        async with permit_of(flow, "a"):
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0)
    await cancel(*reversed(tasks))

    await asyncio.wait_for(call(flow, "a", FINE), 30)
    assert value(metrics, "coupon_requests_in_flight") == 0


async def test_of_many_that_ask_at_once_the_first_have_leave_and_ends_that_are_told_at_once_let_others_go(
    metrics: Metrics,
) -> None:
    flow = flow_of(metrics, "a", max_in_flight=3)

    permits = flow.permits("a", 5)
    assert [permit.given for permit in permits] == [True, True, True, False, False]
    told: list[int] = []
    for number in (3, 4):
        permits[number].wait(Noting(told, number))
    assert not flow.permits("a", 1)[0].given, "others wait already"

    flow.end([(permit, FINE) for permit in permits[:1]], time.monotonic())
    assert told == [3]
    flow.end([(permit, FINE) for permit in permits[1:3]], time.monotonic())
    assert told == [3, 4]
    assert flow.in_flight == 2


class Noting:
    """A waiter."""

    def __init__(self, told: list[int], number: int) -> None:
        self._told, self._number = told, number

    def decided(self) -> None:
        self._told.append(self._number)


@given(st.lists(st.lists(st.sampled_from([FINE, FINE, SILENCE, STOP]), min_size=1, max_size=30), max_size=10))
def test_what_is_told_of_many_at_once_is_what_would_be_told_of_each(turns: list[list[Reply]]) -> None:
    async def told(*, at_once: bool) -> list[object]:
        now, found = 0.0, list[object]()
        flow = Flow(
            max_in_flight=20,
            accounts=["a"],
            metrics=Metrics(CollectorRegistry()),
            adaptive=False,
            monotonic=lambda: now,
        )
        for replies in turns:
            permits = [permit for permit in flow.permits("a", len(replies)) if permit.given]
            now += 0.4
            ended = list(zip(permits, replies, strict=False))
            if at_once:
                flow.end(ended, now)
            for permit, reply in () if at_once else ended:
                permit.report(reply)
                permit.close()
            found.append((len(permits), flow.in_flight, flow._queues["a"].breaker.state, dict(flow.halted)))
        return found

    assert asyncio.run(told(at_once=True)) == asyncio.run(told(at_once=False))


async def test_a_stop_halts_its_account_with_one_alarm_and_a_remedy(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    assert value(metrics, "coupon_config_alarm", account="a") == 0

    with capture_logs() as logs:
        async with permit_of(flow, "a") as one, permit_of(flow, "a") as two:
            one.report(STOP)
            two.report(STOP)

    assert flow.halted == {"a": "401"}
    assert value(metrics, "coupon_config_alarm", account="a") == 1
    assert [(line["log_level"], line["account"], line["code"]) for line in logs] == [("error", "a", "401")]
    assert "app_id and the secret of account 'a'" in logs[0]["remedy"]


async def test_a_redirect_names_the_url_as_the_remedy(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    redirect = Reply("3xx", Outcome.PLATFORM_FAILED, Then.STOP, True, GatewayWords(http_status=302))

    with capture_logs() as logs:
        await call(flow, "a", redirect)

    assert "URL" in logs[0]["remedy"]


async def test_orders_of_a_stopped_account_wait_and_one_probes(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    await call(flow, "a", STOP)
    inside: list[int] = []
    release = asyncio.Event()

    async def work(number: int) -> None:
        async with permit_of(flow, "a") as permit:
            inside.append(number)
            await release.wait()
            permit.report(FINE)

    tasks = [asyncio.create_task(work(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert inside == []

    await asyncio.sleep(PROBE_SECONDS * 3)
    assert inside == [0]

    release.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert inside == [0, 1, 2, 3, 4]
    assert flow.halted == {}
    assert value(metrics, "coupon_config_alarm", account="a") == 0


async def test_a_refused_probe_leaves_the_others_waiting(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    await call(flow, "a", STOP)
    probe = asyncio.create_task(call(flow, "a", STOP))
    other = asyncio.create_task(call(flow, "a", FINE))

    await asyncio.wait_for(probe, 30)

    assert not await soon(other)
    assert flow.halted == {"a": "401"}
    await asyncio.wait_for(other, 30)
    assert flow.halted == {}


async def test_an_unanswered_probe_tells_nothing_and_the_next_order_probes(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    await call(flow, "a", STOP)
    await asyncio.wait_for(call(flow, "a", SILENCE), 30)

    assert flow.halted == {"a": "401"}
    await asyncio.wait_for(call(flow, "a", FINE), 30)
    assert flow.halted == {}


async def test_a_cancelled_probe_lets_the_next_order_probe(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    await call(flow, "a", STOP)

    async def hang() -> None:
        async with permit_of(flow, "a"):
            await asyncio.sleep(60)

    probe = asyncio.create_task(hang())
    other = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(PROBE_SECONDS * 2)
    await cancel(probe)

    await asyncio.wait_for(other, 30)


async def test_waiting_orders_can_be_cancelled(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", probe_seconds=0.02)
    await call(flow, "a", STOP)
    tasks = [asyncio.create_task(call(flow, "a", FINE)) for _ in range(3)]
    await asyncio.sleep(0)

    await cancel(*tasks[:2])

    await asyncio.wait_for(tasks[2], 30)


async def test_an_order_queued_for_a_slot_goes_back_when_its_account_is_stopped(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", max_in_flight=1, probe_seconds=60)
    async with permit_of(flow, "a") as permit:
        queued = asyncio.create_task(call(flow, "a", FINE))
        assert not await soon(queued)
        permit.report(STOP)

    assert not await soon(queued, 0.01)
    await cancel(queued)


async def test_other_accounts_go_on_beside_a_stopped_one(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", "b", max_in_flight=1, probe_seconds=60)
    await call(flow, "a", STOP)
    waiting = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(0)

    await asyncio.wait_for(call(flow, "b", FINE), 30)

    assert flow.pause_reason is None
    await cancel(waiting)


async def test_intake_pauses_when_every_account_is_stopped_and_an_order_is_there_to_probe(
    metrics: Metrics,
) -> None:
    flow = flow_of(metrics, "a", "b", probe_seconds=60)
    await call(flow, "a", STOP)
    await call(flow, "b", STOP)
    assert flow.pause_reason is None, "with no order to probe the line would stay closed for ever"

    waiting = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(0)
    assert flow.pause_reason == "config_alarm"

    await cancel(waiting)
    assert flow.pause_reason is None


async def test_accounts_that_new_rules_bring_count_too(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", probe_seconds=60)
    await call(flow, "a", STOP)
    waiting = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(0)
    assert flow.pause_reason == "config_alarm"

    flow.use_accounts(["a", "b"])

    assert flow.pause_reason is None
    assert value(metrics, "coupon_config_alarm", account="b") == 0
    await cancel(waiting)


async def test_a_permit_is_good_for_one_report(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    async with permit_of(flow, "a") as permit:
        permit.report(FINE)
        with pytest.raises(RuntimeError, match="one permit, one report"):
            permit.report(FINE)


async def test_a_probe_cancelled_in_the_turn_in_which_it_got_leave_is_given_back(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", max_in_flight=1)
    await call(flow, "a", STOP)
    first = asyncio.create_task(call(flow, "a", FINE))
    second = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(0)
    queue = flow._queues["a"]
    while queue.breaker.state is not State.HALF_OPEN:
        queue.let_through()
    first.cancel()

    await asyncio.wait_for(second, 30)
    assert first.cancelled()


async def test_leave_passes_over_orders_cancelled_in_the_same_turn(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", probe_seconds=60)
    async with permit_of(flow, "a") as late, permit_of(flow, "a") as early:
        early.report(STOP)
        first = asyncio.create_task(call(flow, "a", FINE))
        second = asyncio.create_task(call(flow, "a", FINE))
        await asyncio.sleep(0)
        first.cancel()
        late.report(FINE)

    await asyncio.wait_for(second, 30)
    assert flow._queues["a"].orders == 0


# -- With retry topics, only the order that probes waits at a closed line ----------------------------


async def test_orders_of_a_stopped_account_are_set_aside_while_another_account_goes_on(
    metrics: Metrics,
) -> None:
    flow = flow_of(metrics, "a", "b", sets_aside=True, probe_seconds=60)
    await call(flow, "a", STOP)
    prober = asyncio.create_task(call(flow, "a", FINE))
    assert not await soon(prober)

    async with asyncio.timeout(5), permit_of(flow, "a") as permit:
        assert not permit.given
    assert value(metrics, "coupon_requests_in_flight") == 0
    await asyncio.wait_for(call(flow, "b", FINE), 5)
    assert not prober.done()
    await cancel(prober)


async def test_orders_that_queue_when_the_line_closes_are_set_aside_but_one(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", "b", sets_aside=True, max_in_flight=1, probe_seconds=60)
    aside: list[int] = []

    async def ask(number: int) -> None:
        async with permit_of(flow, "a") as permit:
            if not permit.given:
                aside.append(number)
            else:
                permit.report(FINE)

    async with permit_of(flow, "a") as permit:
        tasks = [asyncio.create_task(ask(number)) for number in range(5)]
        await asyncio.sleep(0)
        permit.report(STOP)
    await asyncio.wait(tasks, timeout=0.05)

    assert sorted(aside) == [1, 2, 3, 4]
    await cancel(*tasks)


async def test_where_all_accounts_are_stopped_their_orders_wait_and_intake_pauses(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", "b", sets_aside=True, probe_seconds=60)
    for account in ("a", "b"):
        await call(flow, account, STOP)
    waiting = [asyncio.create_task(call(flow, "a", FINE)) for _ in range(3)]

    assert not await soon(waiting[-1])
    assert flow.pause_reason == "config_alarm"
    await cancel(*waiting)


async def test_the_time_at_the_stop_line_is_told(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a")
    await call(flow, "a", STOP)

    async with asyncio.timeout(5), permit_of(flow, "a") as permit:
        assert permit.stopped_seconds >= PROBE_SECONDS / 2
        permit.report(FINE)
    async with permit_of(flow, "a") as permit:
        assert permit.stopped_seconds < PROBE_SECONDS / 2


# -- A platform in trouble ---------------------------------------------------------------------------

FAST = BreakerPolicy(least_calls=4, probe_seconds=PROBE_SECONDS, probe_cap_seconds=PROBE_SECONDS)
SLOW = BreakerPolicy(least_calls=4, probe_seconds=60)


def failing_flow(
    metrics: Metrics, *accounts: str, breaker: BreakerPolicy = SLOW, sets_aside: bool = False
) -> Flow:
    return Flow(
        max_in_flight=100,
        accounts=accounts,
        metrics=metrics,
        sets_aside=sets_aside,
        breaker=breaker,
        adaptive=False,
    )


async def fail(flow: Flow, account: str) -> None:
    for _ in range(4):
        await call(flow, account, SILENCE)
    assert account in flow.halted


async def test_a_platform_that_fails_is_asked_no_more_but_by_one_order_that_probes(metrics: Metrics) -> None:
    flow = failing_flow(metrics, "a", breaker=FAST)
    with capture_logs() as logs:
        await fail(flow, "a")
    inside: list[int] = []
    release = asyncio.Event()

    async def work(number: int) -> None:
        async with permit_of(flow, "a") as permit:
            inside.append(number)
            await release.wait()
            permit.report(FINE)

    tasks = [asyncio.create_task(work(number)) for number in range(20)]
    await asyncio.sleep(PROBE_SECONDS * 3)

    assert inside == [0]
    assert flow.pause_reason == "breaker"
    assert value(metrics, "coupon_flow_waiting", reason="breaker") == 19
    assert value(metrics, "coupon_breaker_state", account="a") == 2
    assert value(metrics, "coupon_breaker_opened_total", account="a", why="failures") == 1
    assert value(metrics, "coupon_config_alarm", account="a") == 0
    assert [(line["log_level"], line["code"]) for line in logs] == [("warning", "timeout")]
    release.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert inside == list(range(20))
    assert flow.pause_reason is None


async def test_an_open_breaker_tells_what_opened_it_and_since_when_until_it_is_closed(
    metrics: Metrics,
) -> None:
    flow = failing_flow(metrics, "a", breaker=FAST)
    before = datetime.now(UTC)
    well = flow.status_of("a", state="on", endpoint="https://platform/")
    assert (well.breaker, well.code, well.since, well.limit) == (State.CLOSED, None, None, 100)

    await fail(flow, "a")
    waiting = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(0)
    told = flow.status_of("a", state="on", endpoint="https://platform/")

    assert (told.breaker, told.breaker_why, told.code) == (State.OPEN, Why.FAILURES, "timeout")
    assert (told.waiting, told.held_by, told.in_flight) == (1, HeldBy.BREAKER, 0)
    assert told.since is not None
    assert before <= told.since <= datetime.now(UTC)
    assert told.probe_in_seconds is not None
    assert 0 < told.probe_in_seconds <= PROBE_SECONDS

    await asyncio.wait_for(waiting, 30)
    closing = flow.status_of("a", state="on", endpoint="https://platform/")
    assert (closing.breaker, closing.since, closing.code) == (State.CLOSING, told.since, "timeout")
    assert flow.halted == {}


async def test_a_platform_that_cannot_be_reached_is_told_of_with_what_the_system_says(
    metrics: Metrics,
) -> None:
    why = "ConnectionRefusedError (Connection refused: 192.0.2.7 port 443)"
    refused = Reply("connect", Outcome.PLATFORM_FAILED, Then.NOW_THEN_LATER, True, GatewayWords(), error=why)
    flow = failing_flow(metrics, "a", breaker=FAST)

    with capture_logs() as logs:
        for _ in range(4):
            await call(flow, "a", refused)
    told = flow.status_of("a", state="on", endpoint="https://platform/")

    assert (told.code, told.error) == ("connect", why)
    assert [(line["code"], line["error"]) for line in logs] == [("connect", why)]


async def test_bounds_are_told_as_this_members_part_of_them(metrics: Metrics) -> None:
    @dataclass(frozen=True)
    class Bounded:
        url: str | None = None
        rate: float | None = 30.0
        max_in_flight: int | None = 8

    flow = Flow(
        max_in_flight=100,
        accounts={"a": Bounded()},
        metrics=metrics,
        fleet=FleetBounds(rate=60, max_in_flight=20),
    )
    flow.use_share(Share.of([("t", 0)], {"t": 4}))
    async with permit_of(flow, "a"):
        limits, account = flow.limits(), flow.status_of("a", state="on", endpoint="")

    assert (limits.in_flight, limits.max_in_flight) == (1, 100)
    assert (limits.share, limits.rate, limits.fleet_in_flight) == (0.25, 15.0, 5)
    assert (account.in_flight, account.rate, account.most_in_flight) == (1, 7.5, 2)


async def test_it_is_given_calls_a_few_at_a_time_when_it_is_back(metrics: Metrics) -> None:
    flow = failing_flow(metrics, "a", breaker=FAST)
    await fail(flow, "a")
    highest: list[int] = []

    async def work() -> None:
        async with permit_of(flow, "a") as permit:
            highest.append(flow.in_flight)
            await asyncio.sleep(0.001)
            permit.report(FINE)

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(60))), 30)

    assert max(highest[:5]) == 1
    assert max(highest[:20]) <= 6 < max(highest)


async def test_a_business_answer_is_no_failure(metrics: Metrics) -> None:
    flow = failing_flow(metrics, "a")
    limited = Reply("1003", Outcome.LIMITED, Then.FINAL, False, GatewayWords(code="1003", http_status=200))
    for _ in range(50):
        await call(flow, "a", limited)

    assert flow.halted == {}


async def test_only_the_failing_accounts_orders_are_set_aside_and_wait_for_the_platform(
    metrics: Metrics,
) -> None:
    flow = failing_flow(metrics, "a", "b", sets_aside=True)
    await fail(flow, "a")
    prober = asyncio.create_task(call(flow, "a", FINE))
    assert not await soon(prober)

    async with asyncio.timeout(5), permit_of(flow, "a") as permit:
        assert (permit.given, permit.waits_for) == (False, "breaker")
        assert permit.stopped_seconds == 0
    await asyncio.wait_for(call(flow, "b", FINE), 5)
    assert flow.pause_reason is None
    await cancel(prober)


async def test_with_a_refused_and_a_failing_account_intake_pauses_as_for_a_breaker(metrics: Metrics) -> None:
    flow = failing_flow(metrics, "a", "b")
    await fail(flow, "a")
    await call(flow, "b", STOP)
    waiting = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(0)

    assert flow.pause_reason == "breaker"
    await cancel(waiting)


async def test_a_probe_need_not_wait_where_something_was_changed(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", probe_seconds=60)
    await call(flow, "a", STOP)
    waiting = asyncio.create_task(call(flow, "a", FINE))
    await asyncio.sleep(0)

    flow.probe_now("a")

    await asyncio.wait_for(waiting, 5)


# -- Rates and caps of the whole fleet ----------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    url: str | None = None
    rate: float | None = None
    max_in_flight: int | None = None


def fleet(
    metrics: Metrics,
    bounds: FleetBounds | None = None,
    accounts: Mapping[str, Account] | None = None,
    max_in_flight: int = 100,
) -> Flow:
    return Flow(
        max_in_flight=max_in_flight,
        accounts=accounts or {"a": Account(), "b": Account()},
        metrics=metrics,
        adaptive=False,
        fleet=bounds,
    )


async def hold(flow: Flow, *accounts: str) -> AsyncExitStack:
    """Calls that go on until it is closed."""
    stack = AsyncExitStack()
    for account in accounts:
        permit = await stack.enter_async_context(permit_of(flow, account))
        stack.callback(permit.report, FINE)
    return stack


async def test_calls_are_as_many_a_second_as_the_rate_says(metrics: Metrics) -> None:
    flow = fleet(metrics, FleetBounds(rate=200))
    began = time.monotonic()
    await asyncio.wait_for(asyncio.gather(*(call(flow, "ab"[n % 2], FINE) for n in range(100))), 30)

    assert 0.4 < time.monotonic() - began < 2


async def test_a_member_without_partitions_calls_nobody_until_it_has_some(metrics: Metrics) -> None:
    flow = fleet(metrics, FleetBounds(rate=1000, max_in_flight=10))
    flow.use_share(Share.of([], {"charges": 2}))
    waiting = asyncio.create_task(call(flow, "a", FINE))

    assert not await soon(waiting, 0.05)
    assert value(metrics, "coupon_flow_waiting", reason="fleet_rate") == 1
    assert value(metrics, "coupon_fleet_share") == 0
    flow.use_share(Share.of([("charges", 1)], {"charges": 2}))
    await asyncio.wait_for(waiting, 5)
    assert value(metrics, "coupon_fleet_share") == 0.5


@pytest.mark.parametrize(
    ("bounds", "account", "reason"),
    [
        (FleetBounds(max_in_flight=4), Account(), HeldBy.FLEET_IN_FLIGHT),
        (FleetBounds(), Account(max_in_flight=4), HeldBy.ACCOUNT_IN_FLIGHT),
    ],
)
async def test_calls_at_once_are_this_members_share_of_the_cap(
    metrics: Metrics, bounds: FleetBounds, account: Account, reason: HeldBy
) -> None:
    flow = fleet(metrics, bounds, {"a": account})
    flow.use_share(Share.of([("charges", 0)], {"charges": 2}))
    async with await hold(flow, "a", "a"):
        waiting = asyncio.create_task(call(flow, "a", FINE))
        assert not await soon(waiting)
        assert value(metrics, "coupon_flow_waiting", reason=reason) == 1

    await asyncio.wait_for(waiting, 5)
    assert value(metrics, "coupon_flow_waiting", reason=reason) == 0


async def test_an_accounts_own_rate_holds_back_no_other(metrics: Metrics) -> None:
    flow = fleet(metrics, accounts={"a": Account(rate=0.5), "b": Account()})
    waiting = asyncio.create_task(call(flow, "a", FINE))
    assert not await soon(waiting)
    assert value(metrics, "coupon_flow_waiting", reason="account_rate") == 1

    await asyncio.wait_for(call(flow, "b", FINE), 5)
    await cancel(waiting)


async def test_accounts_take_turns_for_what_they_share(metrics: Metrics) -> None:
    flow = fleet(metrics, max_in_flight=2)
    order: list[str] = []

    async def work(account: str) -> None:
        async with permit_of(flow, account) as permit:
            order.append(account)
            await asyncio.sleep(0)
            permit.report(FINE)

    deep = [asyncio.create_task(work("a")) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(*deep, *(work("b") for _ in range(5)))

    assert order[:14].count("b") >= 4, order
    assert value(metrics, "coupon_flow_waiting", reason="permit") == 0


async def test_new_rules_bring_new_bounds(metrics: Metrics) -> None:
    flow = fleet(metrics, accounts={"a": Account(max_in_flight=1)})
    async with await hold(flow, "a"):
        waiting = asyncio.create_task(call(flow, "a", FINE))
        assert not await soon(waiting)
        flow.use_accounts({"a": Account(max_in_flight=2)})
        await asyncio.wait_for(waiting, 5)


async def test_at_another_endpoint_an_open_breaker_probes_at_once(metrics: Metrics) -> None:
    flow = fleet(metrics, accounts={"a": Account(url="http://old/")})
    await call(flow, "a", STOP)
    flow.use_accounts({"a": Account(url="http://new/")})

    await asyncio.wait_for(call(flow, "a", FINE), 5)
    assert flow.halted == {}


# -- The limit that is found out ----------------------------------------------------------------------


async def test_calls_at_once_are_held_to_the_limit_that_is_found_out(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", max_in_flight=100)
    limit = int(value(metrics, "coupon_concurrency_limit", account="a") or 0)
    assert 0 < limit < 100
    async with await hold(flow, *["a"] * limit):
        waiting = asyncio.create_task(call(flow, "a", FINE))
        assert not await soon(waiting)
        assert value(metrics, "coupon_flow_waiting", reason="adaptive_limit") == 1

    await asyncio.wait_for(waiting, 5)


async def test_the_limit_never_passes_the_permits(metrics: Metrics) -> None:
    flow = flow_of(metrics, "a", max_in_flight=3)

    assert value(metrics, "coupon_concurrency_limit", account="a") == 3
    async with await hold(flow, "a", "a", "a"):
        waiting = asyncio.create_task(call(flow, "a", FINE))
        assert not await soon(waiting)
    await asyncio.wait_for(waiting, 5)
