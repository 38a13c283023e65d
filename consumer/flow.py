"""The gate before the gateway: when an order may call the platform. Waits, but does no I/O.

Each account has a queue of its own, and the first in it is asked for, in this order: the
account's circuit breaker, the fleet's rate and the account's, the limit that is found out from
the platform's answers, the caps in flight of account and fleet, and one of this member's
permits. It gets all of them at once or none, so nobody holds a permit while he waits for
something else. What accounts share is given out in turn, one order each.

Nothing is dropped here: orders of a refused or failing account wait until a probe is answered.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Protocol

import structlog
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from consumer.core.breakers import Breaker, BreakerPolicy, Pass, State, Why
from consumer.core.events import Wait
from consumer.core.limits import AdaptiveLimit, Lateness, LimitPolicy
from consumer.core.outcomes import Outcome
from consumer.core.rates import Share, TokenBucket
from consumer.core.replies import Reply, Then
from consumer.core.status import AccountStatus, Limits
from consumer.metrics import Metrics

log: FilteringBoundLogger = structlog.get_logger()

_SOONEST = 0.001
"""Shortest timer, in seconds: a shorter one could come back before the clock has moved on."""

_LOOK_SECONDS = 0.005
"""How often it is seen how late this process is, while calls are under way; it costs a thousandth of a core."""

SUPPLY = 32
"""Orders that wait for leave, so that there is always one: those that one turn of the event loop takes, and some."""


class HeldBy(StrEnum):
    """What holds an order back: a closed set, and the metric's label."""

    CONFIG_ALARM = "config_alarm"
    """The platform refuses the account."""

    BREAKER = "breaker"
    """The platform is in trouble, or has just been."""

    FLEET_RATE = "fleet_rate"
    ACCOUNT_RATE = "account_rate"
    ADAPTIVE_LIMIT = "adaptive_limit"
    """More at once would only queue at the platform."""

    ACCOUNT_IN_FLIGHT = "account_in_flight"
    FLEET_IN_FLIGHT = "fleet_in_flight"
    PERMIT = "permit"
    """`max_in_flight` of this member."""


_SHARED = frozenset({HeldBy.FLEET_RATE, HeldBy.FLEET_IN_FLIGHT, HeldBy.PERMIT})
"""What accounts take from each other."""

_IN_FLIGHT = (HeldBy.ADAPTIVE_LIMIT, HeldBy.ACCOUNT_IN_FLIGHT, HeldBy.FLEET_IN_FLIGHT, HeldBy.PERMIT)
"""Of calls at once, in the order in which they are told."""


class AccountBounds(Protocol):
    """What flow needs of an account of the rules."""

    @property
    def url(self) -> str | None:
        """Its endpoint; None for the settings' own."""

    @property
    def rate(self) -> float | None:
        """Calls a second of the whole fleet, at most."""

    @property
    def max_in_flight(self) -> int | None:
        """Calls of the whole fleet at once, at most."""


@dataclass(frozen=True, slots=True)
class FleetBounds:
    """Calls of the whole fleet, at most; None: no bound.

    Attributes:
        rate: a second.
        max_in_flight: at once.

    """

    rate: float | None = None
    max_in_flight: int | None = None


class Flow:
    """Decides when an order may call the platform.

    Attributes:
        max_in_flight: HTTP calls at once, at most.
        in_flight: HTTP calls now.
        in_turn: accounts that wait for what all of them share; who comes now waits behind them.
        sets_aside: orders of a refused account need not wait here while other accounts go on:
            there are retry topics.
        winding_down: nobody is to wait here now.
        lateness: of this process, as far as it was seen: while calls are under way.

    """

    def __init__(
        self,
        *,
        max_in_flight: int,
        accounts: Mapping[str, AccountBounds] | Iterable[str],
        metrics: Metrics,
        sets_aside: bool = False,
        probe_seconds: float = 30.0,
        probe_cap_seconds: float = 300.0,
        breaker: BreakerPolicy | None = None,
        adaptive: bool = True,
        fleet: FleetBounds | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`probe_seconds` are those after a stop, `breaker` tells the rest; `wall` is the clock that members share."""
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self.sets_aside = sets_aside
        self.winding_down = False
        self.metrics = metrics
        self.monotonic = monotonic
        self.wall = wall
        self.limit_policy = LimitPolicy(most=max_in_flight) if adaptive else None
        self.lateness = Lateness()
        self._looks = False
        self.breaker_policy = breaker or BreakerPolicy(
            stop_seconds=probe_seconds, stop_cap_seconds=probe_cap_seconds
        )
        self.share = Share()
        self.bounds = _MemberBounds(self.share, monotonic())
        self.bounds.use(fleet or FleetBounds(), monotonic())
        self._queues: dict[str, _AccountQueue] = {}
        self._accounts: frozenset[str] = frozenset()
        self.in_turn: deque[_AccountQueue] = deque()
        self._timer: asyncio.TimerHandle | None = None
        metrics.in_flight.set_function(lambda: self.in_flight)
        for held_by in HeldBy:
            metrics.flow_waiting.labels(held_by).set_function(partial(self._waiting_for, held_by))
        self.use_accounts(accounts)

    def use_accounts(
        self, accounts: Mapping[str, AccountBounds] | Iterable[str], changed: Collection[str] = ()
    ) -> None:
        """The accounts of the rules in force, with their bounds; call it again when they change.

        Orders of `changed` ones, and of those that are no more, get no leave: they have to be looked at again.
        """
        bounds = accounts if isinstance(accounts, Mapping) else {}
        self._accounts = frozenset(accounts)
        for account, queue in list(self._queues.items()):
            if account not in self._accounts or account in changed:
                queue.send_away()
                queue.breaker.probe_now(self.monotonic())
            if account not in self._accounts:
                self._queues.pop(account).forget()
        for account in {*self._accounts, *self._queues}:
            self._queue_of(account).use(bounds.get(account))

    def use_share(self, share: Share) -> None:
        """Take this member's part of what the fleet may do; call it at each rebalance."""
        self.share, now = share, self.monotonic()
        self.bounds.divide(share, now)
        self.metrics.fleet_share.set(share.of_rate)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for queue in self._queues.values():
            queue.bounds.divide(share, now)
        self.serve()
        for queue in self._queues.values():
            queue.let_through()

    def probe_now(self, account: str) -> None:
        """What may have been wrong with the account was changed: its next probe need not wait."""
        queue = self._queue_of(account)
        queue.breaker.probe_now(self.monotonic())
        queue.let_through()

    def wind_down(self) -> None:
        """Until `resume`, who would have to wait is set aside instead, where there is somewhere else to wait."""
        self.winding_down = self.sets_aside
        if self.winding_down:
            for queue in self._queues.values():
                queue.send_away()

    def resume(self) -> None:
        """Let orders wait here again."""
        self.winding_down = False

    def permits(self, account: str, count: int) -> "list[Permit]":
        """For so many orders, in their turn. For each: wait if it is not given; then one call, and `close` whatever happens.

        How the call ended is said by `permit.report(reply)` before; or by `end`, for all that ended together.
        """
        queue, now = self._queue_of(account), self.monotonic()
        permits = [Permit(queue, now, leave, True) for leave in queue.take_now(now, count)]
        if len(permits) < count:
            permits += [Permit(queue, now, None, False) for _ in range(count - len(permits))]
        return permits

    def end(self, ended: "Sequence[tuple[Permit, Reply]]", now: float) -> None:
        """These calls are over, and what they came to is known: `report` and `close` in one, for all of them."""
        failed, stop = Outcome.PLATFORM_FAILED, Then.STOP
        fine: defaultdict[_AccountQueue, list[float]] = defaultdict(list)
        for permit, reply in ended:
            queue, leave = permit.queue, permit.leave
            assert leave is not None, "one permit, one report: ask for a new one to call again"
            permit.leave = None
            permit.given = False
            if reply.outcome is failed or reply.then is stop or not queue.breaker.calm:
                queue.report(leave, reply, permit.began, now)
                queue.in_flight -= 1
                self.in_flight -= 1
            else:  # as nearly always
                fine[queue].append(now - permit.began)
        for queue, seconds in fine.items():
            if queue.limit is not None:
                queue.limit.all_ended(now, seconds, queue.in_flight)
            queue.in_flight -= len(seconds)
            self.in_flight -= len(seconds)
        if self.in_turn:
            self.serve()
        for queue in self._queues.values():
            if queue.waiting and (not queue.in_turn or queue.open):
                queue.let_through()

    @property
    def supplied(self) -> bool:
        """More orders would only wait: each account has some that do, or nothing is left of what all of them share.

        An account without traffic has none that wait: an order of it may be the next, whatever the others wait for.
        """
        queues = self._queues
        if self.in_flight >= self.max_in_flight:
            return sum([len(queue.waiting) for queue in queues.values()]) >= SUPPLY
        for account in self._accounts:
            if len(queues[account].waiting) < SUPPLY:
                return False
        return bool(self._accounts)

    @property
    def halted(self) -> Mapping[str, str]:
        """The accounts whose breaker is open, each with the label of the reply that opened it."""
        return {account: queue.reason for account, queue in self._queues.items() if queue.open}

    @property
    def pause_reason(self) -> HeldBy | None:
        """`config_alarm` or `breaker` while taking in more records would help nobody: every account's breaker is open.

        And there is an order to probe with. After a rebalance there may be none; then intake
        has to bring one, or the breaker would stay open for ever.
        """
        queues = [self._queues[account] for account in self._accounts]
        if not queues or not all(queue.open for queue in queues) or not any(queue.orders for queue in queues):
            return None
        stopped = all(queue.breaker.why is Why.STOP for queue in queues)
        return HeldBy.CONFIG_ALARM if stopped else HeldBy.BREAKER

    def limits(self) -> Limits:
        """What this member may do at once."""
        bucket = self.bounds.bucket
        return Limits(
            in_flight=self.in_flight,
            max_in_flight=self.max_in_flight,
            share=self.share.of_rate,
            rate=None if bucket is None else bucket.rate,
            fleet_in_flight=self.bounds.most,
        )

    def status_of(self, account: str, *, state: str, endpoint: str) -> AccountStatus:
        """How an account of the rules stands; what they say of it is for the caller to add."""
        return self._queues[account].status(state, endpoint)

    # -- What accounts share --------------------------------------------------------------------------

    def line_up(self, queue: "_AccountQueue") -> None:
        """Let this account wait its turn for what all of them share."""
        if not queue.in_turn:
            queue.in_turn = True
            self.in_turn.append(queue)
        if queue.held_by is HeldBy.FLEET_RATE and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                max(_SOONEST, queue.look_in), self._look_again
            )

    def serve(self) -> None:
        """Let one order of each account in turn through, until what is shared is used up."""
        turn = self.in_turn
        while turn:
            queue = turn.popleft()
            queue.in_turn = False
            if queue.let_through(one=True):
                if queue.waiting and not queue.in_turn:
                    queue.in_turn = True
                    turn.append(queue)
            elif queue.in_turn:  # it is the others' turn to wait, too; it was first and stays so
                turn.rotate(1)
                return

    def _look_again(self) -> None:
        self._timer = None
        self.serve()

    def look_how_late(self) -> None:
        """From now on, while calls are under way: what they take because of this process is no latency of the platform's."""
        if self.limit_policy is not None and not self._looks:
            self._looks = True
            self._look_how_late()

    def _look_how_late(self, set_at: float | None = None) -> None:
        now = self.monotonic()
        if set_at is not None:
            self.lateness.note(set_at, set_at + _LOOK_SECONDS, now)
        self._looks = self.in_flight > 0
        if self._looks:
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_how_late, now)

    def others_go_on(self) -> bool:
        """There is somewhere else to wait, and an account that need not."""
        return self.sets_aside and not all(self._queues[account].open for account in self._accounts)

    def _waiting_for(self, held_by: HeldBy) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values() if queue.held_by is held_by)

    def _queue_of(self, account: str) -> "_AccountQueue":
        queue = self._queues.get(account)
        if queue is None:
            queue = self._queues[account] = _AccountQueue(account, self)
        return queue


class Waiter(Protocol):
    """An order that waits for leave."""

    def decided(self) -> None:
        """Its permit says what came of it. This is no place to do more than to note it."""


class Permit(Struct, eq=False):
    """Leave for one order to make one call: asked for when it is made, held until it is closed.

    Attributes:
        began: when there was leave, or it was asked for.
        leave: until the call's end is reported.
        given: there is leave. If not at once, `wait` for it; if not then, another order probes the account's
            breaker, and other accounts go on.
        waiter: who waits for it.
        stopped: how long the account had been refused when the wait began.
        stopped_seconds: how long of the wait it was.
        waits_for: what an order without leave waits for.

    """

    queue: "_AccountQueue"
    began: float
    leave: Pass | None
    given: bool
    waiter: Waiter | None = None
    stopped: float = 0.0
    stopped_seconds: float = 0.0
    waits_for: Wait = Wait.BREAKER

    def wait(self, waiter: Waiter) -> None:
        """Tell `waiter`, once, when there is leave, or none will be given."""
        queue = self.queue
        self.stopped = queue.breaker.stopped_seconds(self.began)
        self.waiter = waiter
        queue.wait(self)

    def decide(self, leave: Pass | None, now: float) -> None:
        """For its account: there is leave, or none."""
        queue, waiter = self.queue, self.waiter
        assert waiter is not None, "only who waits is told"
        self.waiter = None
        self.leave = leave
        self.began = now
        breaker = queue.breaker
        if breaker.stopped_before != self.stopped or breaker.why is Why.STOP:
            self.stopped_seconds = breaker.stopped_seconds(now) - self.stopped
        self.given = leave is not None
        if leave is None:
            self.waits_for = Wait.STOP if breaker.why is Why.STOP else Wait.BREAKER
        waiter.decided()

    def report(self, reply: Reply) -> None:
        """Tell how the call ended; without this, a probe has told nothing."""
        leave, self.leave = self.leave, None
        if leave is None:
            raise RuntimeError("one permit, one report: ask for a new one to call again")
        self.queue.report(leave, reply, self.began, self.queue.flow.monotonic())

    def close(self) -> None:
        """The call is over, or there will be none: to be said once."""
        if self.waiter is not None:
            self.waiter = None
            self.queue.withdraw(self)
        elif self.given:
            if self.leave is not None:
                self.queue.lost(self.leave)
                self.leave = None
            self.given = False
            self.queue.ended()


class _MemberBounds:
    """A rate and a cap in flight of the fleet's, of which this member has its share.

    Attributes:
        bucket: None without a rate.
        most: calls at once; None without a cap.

    """

    __slots__ = ("_fleet", "_share", "bucket", "most")

    def __init__(self, share: Share, now: float) -> None:
        self._fleet = FleetBounds()
        self._share = share
        self.bucket: TokenBucket | None = None
        self.most: int | None = None
        self.divide(share, now)

    def use(self, fleet: FleetBounds, now: float) -> None:
        self._fleet = fleet
        self.divide(self._share, now)

    def divide(self, share: Share, now: float) -> None:
        self._share, rate, cap = share, self._fleet.rate, self._fleet.max_in_flight
        if rate is None:
            self.bucket = None
        elif self.bucket is None:
            self.bucket = TokenBucket(share.rate(rate), now)
        else:
            self.bucket.set_rate(share.rate(rate), now)
        self.most = None if cap is None else share.in_flight(cap)


class _AccountQueue:
    """One account's queue at its endpoint, with what it is asked for.

    Attributes:
        waiting: the orders in it, first come first.
        in_flight: orders that are calling.
        held_by: what holds the first one back.
        look_in: seconds after which that may be over; infinite where it ends with a call.
        in_turn: it is among those that wait for what accounts share.
        reason: label of the reply that opened the breaker.
        error: why there was no reply, where there was none.
        since: when it was opened, seconds since the epoch; it counts until the breaker is closed.

    """

    def __init__(self, account: str, flow: Flow) -> None:
        now = flow.monotonic()
        self.account = account
        self.flow = flow
        self.breaker = Breaker(flow.breaker_policy)
        self.limit = (
            AdaptiveLimit(flow.limit_policy, now=now, wall=flow.wall(), lateness=flow.lateness)
            if flow.limit_policy
            else None
        )
        self.bounds = _MemberBounds(flow.share, now)
        self.waiting: deque[Permit] = deque()
        self.in_flight = 0
        self.held_by: HeldBy | None = None
        self.look_in = float("inf")
        self.in_turn = False
        self.reason = ""
        self.error = ""
        self.since = 0.0
        self._url: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        metrics = flow.metrics
        self._alarm = metrics.config_alarm.labels(account)
        self._alarm.set(0)
        self._opened = {why: metrics.breaker_opened.labels(account, why) for why in Why}
        metrics.breaker_state.labels(account).set_function(lambda: _STATES[self.breaker.state])
        metrics.concurrency_limit.labels(account).set_function(
            lambda: self.limit.limit if self.limit else flow.max_in_flight
        )

    @property
    def open(self) -> bool:
        """Nothing goes but probes."""
        return self.breaker.state in (State.OPEN, State.HALF_OPEN)

    @property
    def orders(self) -> int:
        """Here, or calling."""
        return len(self.waiting) + self.in_flight

    def status(self, state: str, endpoint: str) -> AccountStatus:
        """As of now."""
        breaker, bucket = self.breaker, self.bounds.bucket
        probe_in = breaker.probe_in(self.flow.monotonic())
        return AccountStatus(
            name=self.account,
            state=state,
            endpoint=endpoint,
            breaker=breaker.state,
            breaker_why=breaker.why,
            code=self.reason if breaker.shut else None,
            error=(self.error or None) if breaker.shut else None,
            since=datetime.fromtimestamp(self.since, UTC) if breaker.shut else None,
            probe_in_seconds=None if probe_in == float("inf") else probe_in,
            limit=self.limit.limit if self.limit else self.flow.max_in_flight,
            in_flight=self.in_flight,
            most_in_flight=self.bounds.most,
            rate=None if bucket is None else bucket.rate,
            waiting=len(self.waiting),
            held_by=self.held_by,
        )

    def use(self, bounds: AccountBounds | None) -> None:
        """What the rules say of the account now; nothing is said where only its name is known."""
        now = self.flow.monotonic()
        if bounds is not None:
            self.bounds.use(FleetBounds(bounds.rate, bounds.max_in_flight), now)
            if bounds.url != self._url:
                self._url = bounds.url
                self.breaker.probe_now(now)  # it opened at another endpoint
        if self.waiting:
            self.let_through()

    def send_away(self) -> None:
        """Who waits here gets no leave."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self.flow.monotonic()
        while self.waiting:
            self.waiting.popleft().decide(None, now)
        self.held_by = None

    def forget(self) -> None:
        """Its account is no more; so are its metrics."""
        metrics = self.flow.metrics
        for gauge in (metrics.config_alarm, metrics.breaker_state, metrics.concurrency_limit):
            gauge.remove(self.account)

    # -- Waiting --------------------------------------------------------------------------------------

    def take_now(self, now: float, most: int) -> list[Pass]:
        """Leave for as many calls as nothing holds back, where nobody waits."""
        if self.waiting or self.flow.in_turn:
            return []
        many = self._take_many(most)
        if many:
            return [self.breaker.leave] * many
        leaves: list[Pass] = []
        while len(leaves) < most and self._holds(now) is None:
            leaves.append(self._take(now))
        return leaves

    def wait(self, permit: Permit) -> None:
        """It is decided once there is leave; without any where its order is set aside, or sent away."""
        if self.flow.winding_down:
            permit.decide(None, self.flow.monotonic())
            return
        self.waiting.append(permit)
        if self.flow.in_turn and not self.open:
            self.flow.line_up(self)
            self.flow.serve()
        elif len(self.waiting) == 1 or self.open:
            self.let_through()

    def withdraw(self, permit: Permit) -> None:
        """Who waits does so no longer."""
        first = self.waiting[0] is permit
        self.waiting.remove(permit)
        if first:
            self.let_through()

    def let_through(self, *, one: bool = False) -> bool:
        """Give leave to as many as nothing holds back, and see to it that the next is looked at again. True if any."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, any_through = self.waiting, False
        if waiting and not one:
            any_through = self._let_many_through()
        while waiting:
            if one and any_through:
                return True
            now = self.flow.monotonic()
            self.held_by = self._holds(now)
            if self.held_by is None:
                waiting.popleft().decide(self._take(now), now)
                any_through = True
                continue
            if self.held_by in _SHARED:
                self.flow.line_up(self)
            elif self.look_in != float("inf"):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(max(_SOONEST, self.look_in), self.let_through)
            if self.open:
                self._set_aside()
            return any_through
        self.held_by = None
        return any_through

    def _let_many_through(self) -> bool:
        many = self._take_many(len(self.waiting))
        now, leave, first = self.flow.monotonic(), self.breaker.leave, self.waiting.popleft
        for _ in range(many):
            first().decide(leave, now)
        return many > 0

    def _take_many(self, most: int) -> int:
        """As many as there is room for, where nothing else counts, as nearly always; 0: they are looked at one by one."""
        flow = self.flow
        if self.breaker.shut or self.bounds.bucket is not None or flow.bounds.bucket is not None:
            return 0
        many = min(most, *self._rooms(most))
        if many <= 0:
            return 0
        self.in_flight += many
        flow.in_flight += many
        flow.look_how_late()
        return many

    def _holds(self, now: float) -> HeldBy | None:
        """What holds the next order back now."""
        flow, breaker = self.flow, self.breaker
        self.look_in = float("inf")
        if breaker.shut and not breaker.ready(now):
            self.look_in = breaker.probe_in(now)
            return HeldBy.CONFIG_ALARM if breaker.why is Why.STOP else HeldBy.BREAKER
        bucket = flow.bounds.bucket
        if bucket is not None and (wait := bucket.wait(now)):
            self.look_in = wait
            return HeldBy.FLEET_RATE
        bucket = self.bounds.bucket
        if bucket is not None and (wait := bucket.wait(now)):
            self.look_in = wait
            return HeldBy.ACCOUNT_RATE
        for held_by, room in zip(_IN_FLIGHT, self._rooms(1), strict=True):
            if room <= 0:
                return held_by
        return None

    def _rooms(self, most: int) -> tuple[int, int, int, int]:
        """How many more calls each of `_IN_FLIGHT` has room for; `most` of what is not bounded."""
        flow, limit, ours = self.flow, self.limit, self.in_flight
        account, fleet = self.bounds.most, flow.bounds.most
        return (
            most if limit is None else limit.limit - ours,
            most if account is None else account - ours,
            most if fleet is None else fleet - flow.in_flight,
            flow.max_in_flight - flow.in_flight,
        )

    def _take(self, now: float) -> Pass:
        """All that nothing holds back."""
        flow = self.flow
        if flow.bounds.bucket is not None:
            flow.bounds.bucket.take()
        if self.bounds.bucket is not None:
            self.bounds.bucket.take()
        self.in_flight += 1
        flow.in_flight += 1
        if flow.in_flight == 1:
            flow.look_how_late()
        breaker = self.breaker
        return breaker.admit(now) if breaker.shut else breaker.leave

    def _set_aside(self) -> None:
        """While other accounts go on, only one order waits here: the one that will probe."""
        if not self.flow.others_go_on():
            return
        while len(self.waiting) > (0 if self.breaker.state is State.HALF_OPEN else 1):
            self.waiting.pop().decide(None, self.flow.monotonic())

    # -- How a call ended -----------------------------------------------------------------------------

    def report(self, leave: Pass, reply: Reply, began: float, now: float) -> None:
        if reply.then is Then.STOP:
            if self.breaker.stop(leave, now):
                self._note_stop(reply)
            return
        in_trouble = reply.in_trouble
        if self.limit is not None:
            self.limit.ended(now, now - began, self.in_flight, failed=in_trouble)
        if not in_trouble:
            if not self.breaker.calm and self.breaker.succeed(leave, now):
                self._note_answer()
        elif self.breaker.fail(leave, now, reply.retry_after or 0.0):
            self._note_trouble(reply)

    def lost(self, leave: Pass) -> None:
        """A call was given up: nobody knows how it would have ended."""
        self.breaker.lost(leave, self.flow.monotonic())

    def ended(self) -> None:
        """A call is over; what it held is free again."""
        self.in_flight -= 1
        self.flow.in_flight -= 1
        if self.flow.in_turn:
            self.flow.serve()
        if self.waiting and (not self.in_turn or self.open):
            self.let_through()

    def _note_stop(self, reply: Reply) -> None:
        self._note_open(Why.STOP, reply)
        self._alarm.set(1)
        log.error(
            "the platform refuses this account; its orders wait, none is dropped",
            account=self.account,
            code=reply.label,
            http_status=reply.words.http_status,
            platform_message=reply.words.message,
            remedy=_remedy(self.account, reply),
        )

    def _note_trouble(self, reply: Reply) -> None:
        self._note_open(Why.FAILURES, reply)
        log.warning(
            "the platform fails most calls for this account; its orders wait until it answers again",
            account=self.account,
            code=reply.label,
            error=reply.error or None,
            platform_message=reply.words.message,
        )

    def _note_open(self, why: Why, reply: Reply) -> None:
        self.reason, self.error, self.since = reply.label, reply.error, self.flow.wall()
        self._opened[why].inc()

    def _note_answer(self) -> None:
        self._alarm.set(0)
        log.info("the platform answers this account again", account=self.account)


_STATES: Mapping[State, int] = {State.CLOSED: 0, State.CLOSING: 1, State.HALF_OPEN: 2, State.OPEN: 3}
"""For the metric."""


def _remedy(account: str, reply: Reply) -> str:
    if reply.is_redirect:
        return (
            f"the gateway's URL answers with a redirect: set the URL that account {account!r} shall post to"
        )
    return (
        f"check the app_id and the secret of account {account!r}, and with the platform whether it is blocked"
    )
