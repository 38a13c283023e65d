"""Records -> their resolutions: read, plan, call the platform until there is a last word, or a long wait.

I/O only through Protocols. An order has no task of its own: what it waits for notes that it can go on, and all that can
are heeded together, in one turn of the event loop: the interpreter does the same again and again faster than by turns.
Only what waits between two calls is a coroutine.

Orders of one ordering key (the plate) are delivered in the order of their records, and
there is at most one request at a time for a key and for an event_id.
"""

import asyncio
import random
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Generic, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from consumer.core.coupons import CouponRequest
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.events import (
    NO_ATTEMPTS,
    NO_WORDS,
    Attempts,
    GatewayWords,
    Order,
    Record,
    RetryContext,
    Wait,
)
from consumer.core.outcomes import Finding, Later, Outcome, Reason, Resolution
from consumer.core.replies import Answered, AttemptEnd, NoAnswer, Reply, ReplyTable, Then
from consumer.core.retries import (
    DONE,
    Again,
    NextStep,
    RetryBudget,
    RetryPolicy,
    Stopped,
    excused_seconds,
    next_step,
)
from consumer.core.traces import TracedCall
from consumer.core.values import Frozen
from consumer.flow import Flow, Permit
from consumer.gateway import Call, Gateway
from consumer.metrics import Metrics


class AccountLike(Protocol):
    """An account of the rules file."""

    @property
    def secret(self) -> str:
        """NAME of its secret, never the secret."""
        ...


class Rules(Protocol):
    """What delivery needs of the rules in force (`consumer.core.rules.RuleBook`)."""

    @property
    def hash(self) -> str:
        """Says which rules these are."""
        ...

    @property
    def accounts(self) -> Mapping[str, AccountLike]:
        """By name."""
        ...

    @property
    def replies(self) -> ReplyTable:
        """How replies are understood."""
        ...

    def read(self, record: Record, now: datetime) -> tuple[Order | Finding, ...]:
        """The record's orders, or what was found instead."""
        ...

    def read_all(self, records: Sequence[Record], now: datetime) -> Sequence[tuple[Order | Finding, ...]]:
        """The same of each."""
        ...

    def plan(self, order: Order) -> CouponRequest | Finding:
        """What is to be done for one order."""
        ...

    def deadline(self, order: Order, record: Record, label: str) -> datetime | None:
        """When it is too late for another call after the reply of this label."""
        ...

    def terms(self, account: str, rule: str) -> object:
        """What must be equal in other rules, for an order that waits under these to go on as it is."""
        ...


class Tracer(Protocol):
    """Who tells others of orders (`consumer.tracing`)."""

    def tell(
        self,
        record: Record,
        began_at: datetime,
        resolutions: Sequence[Resolution],
        calls: Sequence[TracedCall],
    ) -> tuple[Resolution, ...]:
        """The same resolutions, each with its trace."""
        ...


class Place(Struct, eq=False):
    """One order's place in the queues of its keys.

    Attributes:
        keys: the queues that it stands in, no two the same; none once it was left, and nothing more becomes of it.
        behind: in how many of them somebody is before it.

    """

    keys: tuple[Hashable, ...]
    behind: int


_Placed = TypeVar("_Placed", bound=Place)


class KeyedOrder(Generic[_Placed]):
    """Queues, one a key: whoever holds a place goes when it is first in all the queues that it stands in.

    This cannot deadlock. A place enters all its queues in one step, so every queue is sorted
    by the moment of entering. Of all places not yet left, the oldest is therefore first in
    each of its queues: one can always go, and each that leaves makes another one the oldest.
    """

    def __init__(self, on_first: Callable[[_Placed], object]) -> None:
        """`on_first` is told of each place that has moved up to be first everywhere."""
        self._on_first = on_first
        # Most keys have one place, and need no queue of their own.
        self._queues: dict[Hashable, _Placed | deque[_Placed]] = {}

    def __len__(self) -> int:
        """Keys with a place; the memory of a key ends with its last one."""
        return len(self._queues)

    def enter(self, places: Iterable[_Placed]) -> list[_Placed]:
        """Take these places, one after the other, each at the end of its keys' queues. Those that are first everywhere."""
        queues, first = self._queues, []
        for place in places:
            for key in place.keys:
                queue = queues.setdefault(key, place)
                if queue is place:
                    continue
                if not isinstance(queue, deque):
                    queue = queues[key] = deque((queue,))
                queue.append(place)
                place.behind += 1
            if not place.behind:
                first.append(place)
        return first

    def leave(self, place: _Placed) -> None:
        """Let the next ones move up; the place may be first, waiting, or gone already."""
        queues = self._queues
        for key in place.keys:
            queue = queues.pop(key)
            if queue is place:
                continue
            assert isinstance(queue, deque), "another place is in it, too"
            if queue[0] is not place:
                queue.remove(place)
            else:
                queue.popleft()
                if not queue:
                    continue
                following = queue[0]
                following.behind -= 1
                if not following.behind:
                    self._on_first(following)
            queues[key] = queue
        place.keys = ()


class Delivery:
    """Delivers records.

    Attributes:
        under_way: the records that were begun and have not ended.
        ready: orders that can go on.
        answered: orders whose calls have ended, not heeded yet, each with how.
        failed: likewise those whose calls met a bug instead, with it.
        awake: they will be, in a turn that is to come.

    """

    def __init__(
        self,
        *,
        rules: Callable[[], Rules],
        flow: Flow,
        gateway: Gateway,
        secrets: Mapping[str, str],
        read_again: Callable[[str], Awaitable[None]] | None = None,
        policy: RetryPolicy,
        url: str,
        metrics: Metrics,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,  # jitter, not cryptography
        tracer: Tracer | None = None,
    ) -> None:
        """`read_again` brings one of the `secrets` up to date; None where they never change.

        Without a `tracer` nothing is noted for traces.
        """
        self.under_way: set[UnderWay] = set()
        self.ready: deque[_Way] = deque()
        self.answered: list[tuple[_Way, AttemptEnd]] = []
        self.failed: list[tuple[_Way, Exception]] = []
        self._rules = rules
        self._flow = flow
        self._gateway = gateway
        self._secrets = secrets
        self._read_again = read_again
        self._policy = policy
        self._url = url
        self._metrics = metrics
        self._requests = cache(metrics.requests.labels)
        self._request_seconds = cache(metrics.request_seconds.labels)
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._random = random
        self._tracer = tracer
        self._budgets: defaultdict[str, RetryBudget] = defaultdict(RetryBudget)
        self._held: list[_Way] = []
        self._keys = KeyedOrder[_Way](self.ready.append)
        self.awake = False
        self._after_turn: Callable[[], None] | None = None
        self._is_open = True
        self._called = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._naps: set[asyncio.Timeout] = set()

    # -- For intake ----------------------------------------------------------------------------------

    def begin(self, records: Sequence[Record], ended: Callable[[Sequence["UnderWay"]], None]) -> None:
        """Read and plan records, and let their orders go. `ended` is told of each once all its orders have ended, of those of a turn together.

        Orders go in the order of their keys' records, as these are begun. Where something is wrong that is no
        outcome, a bug or a broken configuration, the record has a `problem` instead of resolutions.
        """
        rules, now = self._rules(), self._clock()  # the same for a whole record, whatever is loaded meanwhile
        read = rules.read_all(records, now)  # which never raises
        ways: list[_Way] = []
        for record, items in zip(records, read, strict=True):
            whole = UnderWay(record, self, ended, now)
            orders = whole.orders
            try:
                for item in items:
                    planned = self._plan(whole, item, rules, now)
                    if isinstance(planned, _Way):
                        orders.append(planned)
                    else:
                        whole.resolutions.append(planned)
            except Exception as problem:  # noqa: BLE001  # it is of this record alone
                orders.clear()
                whole.problem = problem
            if not orders:
                self._end_records([whole])
                continue
            self.under_way.add(whole)
            ways += orders
        self.ready += self._keys.enter(ways)
        self.wake()

    def after_turns(self, call: Callable[[], None]) -> None:
        """Call this at the end of each turn: then it is known what more can be begun."""
        self._after_turn = call

    def wind_down(self) -> None:
        """Make no first call for a record: those without one so far wait, and are left to the next owner untouched.

        Those with one end soon: where they would have to wait between calls, they go to a retry topic, if there are any.
        """
        self._is_open = False
        self._flow.wind_down()
        now = asyncio.get_running_loop().time()
        for nap in self._naps:
            if not nap.expired():
                nap.reschedule(now)

    def resume(self) -> None:
        """Make first calls again."""
        self._is_open = True
        self._flow.resume()
        if self._held:
            self.ready += self._held
            self._held.clear()
            self.wake()

    async def quiet(self) -> None:
        """Until each record for which a call was made has ended."""
        await self._quiet.wait()

    def abandon(self, whole: "UnderWay") -> list["asyncio.Task[None]"]:
        """Nobody waits for this record any more; what was cancelled for that is on its way to its end."""
        waits = []
        for way in whole.orders:
            self._free(way)
            if way.post is not None:
                way.post.call.cancel()
            if way.waits is not None:
                way.waits.cancel()
                waits.append(way.waits)
            self._keys.leave(way)
        whole.orders.clear()
        self._forget([whole])
        self.wake()  # others may have moved up
        return waits

    # -- A turn --------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something can go on: heed it in the next turn of the event loop, with whatever else can by then."""
        if not self.awake:
            self.awake = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """What has come about since the last one, and then all that can go on."""
        answered, self.answered = self.answered, []
        failed, self.failed = self.failed, []
        try:
            for way, bug in failed:
                self._fail(way, bug)
            if answered:
                self._heed(answered)
            self._let_go()
        finally:
            self.awake = False
            if self.answered or self.failed or self.ready:
                self.wake()
        if self._after_turn is not None:
            self._after_turn()  # what it begins has a turn of its own, with what else there is by then

    def _let_go(self) -> None:
        """Each as far as it comes; and then those that came to a call make it, one step of all after the other."""
        ready, rules, is_open, calling = self.ready, self._rules(), self._is_open, list[_Way]()
        asking: defaultdict[str, list[_Way]] = defaultdict(list)
        while ready:
            way = ready.popleft()
            if not way.keys:
                continue
            if is_open and way.permit is None and way.seen is rules:  # as nearly always
                asking[way.request.account].append(way)
                continue
            try:
                ended = self._go(way, rules, asking, calling)
            except Exception as bug:  # noqa: BLE001  # it is of this record alone
                self._fail(way, bug)
                continue
            if ended is not None:
                self._end_orders([(way, ended)])
        for account, ways in asking.items():
            self._ask(account, ways, calling)
        if calling:
            self._call(calling)

    # -- Before a call -------------------------------------------------------------------------------

    def _plan(
        self, whole: "UnderWay", item: Order | Finding, rules: Rules, now: datetime
    ) -> "Resolution | _Way":
        """An end, or an order that can be delivered; it has no place yet."""
        if not isinstance(item, Order):
            return self._found(rules, whole.record, item, now)
        plan = rules.plan(item)
        if not isinstance(plan, CouponRequest):
            return self._found(rules, whole.record, plan, now, item)
        record, plate, event_id = whole.record, item.plate, item.event_id
        # Should one order's event_id be another one's plate, they wait for each other, and nothing else comes of it.
        keys = (plate, event_id) if plate != event_id else (plate,)
        way = _Way(keys, 0, whole, item, plan, rules, rules, NO_ATTEMPTS, record.maybe_sent)
        if plan.shadow:
            return way.resolution(Outcome.SHADOW, now)
        context = record.retry
        if context is not None:
            way.attempts = context.attempts
            way.ambiguous = way.ambiguous or context.attempts.ambiguous
            way.excused = excused_seconds(context, now)
            too_late = self._too_late(way, context, now)
            if too_late is not None:
                return too_late
        secret = rules.accounts[plan.account].secret
        if secret not in self._secrets:  # found before a place is taken
            raise _no_secret(plan.account, secret)
        return way

    def _too_late(self, way: "_Way", context: RetryContext, now: datetime) -> Resolution | None:
        """An order whose deadline passed in a retry topic (the service was away): its last reply is its end."""
        if not context.attempts.count:
            return None
        rows = way.rules.replies.rows
        row = rows.get(context.label) or rows["other"]
        record, order = way.whole.record, way.order
        deadline = _deadline(way.rules, order, record, context.label, way.excused)
        if deadline is None or now <= deadline:
            return None
        if row.outcome is Outcome.GRANTED:
            way.ambiguous = False
        return way.resolution(
            row.outcome,
            now,
            detail="its deadline passed while it waited for another attempt",
            dead_letter=row.dead_letter,
            attempts=way.so_far(),
            words=context.words,
            label=context.label,
        )

    def _found(
        self, rules: Rules, record: Record, finding: Finding, now: datetime, order: Order | None = None
    ) -> Resolution:
        """A finding is an end of its own; what the finding does not say of a read order, the order does."""
        context = record.retry
        later = None
        if finding.reason is Reason.HOLD and self._policy.delays:
            later = self._policy.later(Wait.HOLD, now, context, excused=excused_seconds(context, now))
        values, source = finding.values, finding.source
        if order is not None:
            values = values if values is not None else order.values
            source = source or order.source
        return Resolution(
            record,
            finding.index if order is None else order.index,
            finding.outcome,
            now,
            finding.reason,
            finding.detail,
            finding.dead_letter,
            source,
            finding.rule,
            finding.account,
            rules.hash,
            values,
            () if order is None else order.suspicions,
            finding.reverses,
            None,  # no request
            NO_ATTEMPTS if context is None else context.attempts,
            NO_WORDS if context is None else context.words,
            "" if context is None else context.label,
            later,
            order.span if order is not None and values is order.values else None,
        )

    def _go(
        self, way: "_Way", rules: Rules, asking: "defaultdict[str, list[_Way]]", calling: "list[_Way]"
    ) -> Resolution | None:
        """Take one order one step: it ends (returned), waits, or joins `asking` (for a permit) or `calling`."""
        whole, permit = way.whole, way.permit
        if permit is None:
            if not (whole.called or self._is_open):
                self._held.append(way)
                return None
            if way.seen is not rules:
                ended = self._look_again(way, rules)
                if ended is not None:
                    return ended
            asking[way.request.account].append(way)
            return None
        way.excused += permit.stopped_seconds
        changed = way.seen is not rules and _is_changed(way, rules)
        if changed or not permit.given:
            self._free(way)
            ended = None if changed else self._set_aside(way, permit.waits_for)
            if ended is None:
                self.ready.append(way)  # it is looked at again
            return ended
        if whole.called or self._is_open:
            calling.append(way)
        else:
            self._free(way)
            self._held.append(way)
        return None

    def _look_again(self, way: "_Way", rules: Rules) -> Resolution | None:
        """An order under other rules: where its account or rule is changed, as if it had come back from a retry topic."""
        if not _is_changed(way, rules):
            return None
        whole, order, now = way.whole, way.order, self._clock()
        way.seen = rules
        items = rules.read(whole.record, now)
        item = next((item for item in items if item.index == order.index), None)
        # The platform knows it by its event_id, and its turn is that of its plate: they cannot change any more.
        if not isinstance(item, Order) or (item.event_id, item.plate) != (order.event_id, order.plate):
            return None
        planned = self._plan(whole, item, rules, now)
        if isinstance(planned, _Way):
            way.order, way.request, way.rules = item, planned.request, rules
            return None
        later = planned.later and replace(planned.later, excused_seconds=way.excused)
        planned = replace(planned, attempts=way.so_far(), later=later)
        reply = way.reply
        return planned if reply is None else replace(planned, words=reply.words, label=reply.label)

    def _set_aside(self, way: "_Way", wait: Wait) -> Resolution | None:
        """It waits where it is in nobody's way: its account is refused while others go on, or the member drains.

        None: the next owner does it, without a call by this one.
        """
        if not way.whole.called and not self._is_open:
            return None
        now, context, reply = self._clock(), way.whole.record.retry, way.reply
        return way.resolution(
            Outcome.PLATFORM_FAILED,
            now,
            attempts=way.so_far(),
            words=reply.words if reply else context.words if context else NO_WORDS,
            label=reply.label if reply else context.label if context else "",
            later=self._policy.later(wait, now, context, excused=way.excused),
        )

    def _ask(self, account: str, ways: "Sequence[_Way]", calling: "list[_Way]") -> None:
        """For leave to call: those that have it are among those that call, the others wait for it."""
        try:
            permits = self._flow.permits(account, len(ways))
        except Exception as bug:  # noqa: BLE001  # it is of these records alone
            for way in ways:
                self._fail(way, bug)
            return
        for way, permit in zip(ways, permits, strict=True):
            way.permit = permit
            if permit.given:
                calling.append(way)
                continue
            try:
                permit.wait(way)
            except Exception as bug:  # noqa: BLE001  # likewise
                self._fail(way, bug)

    def _call(self, ways: "Sequence[_Way]") -> None:
        """They are encoded only now, so that waiting orders keep no bodies."""
        at, monotonic, start = self._clock(), self._monotonic, self._gateway.start
        posts: list[tuple[_Way, str, str, bytes]] = []
        self._quiet.clear()
        for way in ways:  # all of them first: one that fails may be the end of its record
            if not way.whole.called:
                way.whole.called = True
                self._called += 1
        for way in ways:
            request = way.request
            try:
                name = way.rules.accounts[request.account].secret
                # Looked up for every call, so that an order which waits at the stop line meets a corrected one.
                secret = self._secrets.get(name)
                if secret is None:
                    self._fail(way, _no_secret(request.account, name))
                    continue
                posts.append((way, secret, request.url or self._url, request.encoded(at, secret)))
            except Exception as bug:  # noqa: BLE001  # it is of this record alone
                self._fail(way, bug)
        for way, secret, url, body in posts:
            try:
                way.post = _Post(secret, at, monotonic(), start(url, body, way))
            except Exception as bug:  # noqa: BLE001  # likewise
                self._fail(way, bug)

    # -- After a call --------------------------------------------------------------------------------

    def _heed(self, answered: "Sequence[tuple[_Way, AttemptEnd]]") -> None:
        """Their calls have ended. One step of all after the other: classify, count, give the permits back, end."""
        now, at = self._monotonic(), self._clock()
        stop, final = Then.STOP, Then.FINAL
        replied: list[tuple[_Way, _Post, AttemptEnd, Reply, float]] = []
        for way, end in answered:
            if not way.keys:
                continue
            post = way.post
            assert post is not None, "what was answered was asked"
            try:
                reply = way.rules.replies.classify(end, at)
            except Exception as bug:  # noqa: BLE001  # it is of this record alone
                self._fail(way, bug)
                continue
            message, hint = reply.words.message, reply.words.hint
            said = message if hint is None else hint if message is None else f"{message}\n{hint}"
            if said is not None and (post.secret in said or way.order.plate in said):
                reply = _without(reply, post.secret, way.order.plate)
            replied.append((way, post, end, reply, now - post.started))
        self._count(replied, now, at)
        over: list[tuple[Permit, Reply]] = []
        ended: list[tuple[_Way, Resolution]] = []
        for way, post, end, reply, seconds in replied:
            then = reply.then
            if then is not stop:
                permit, way.permit = way.permit, None
                assert permit is not None, "it is held throughout a call"
                over.append((permit, reply))
                if then is final:
                    ended.append((way, _after_last_call(way, post, end, reply, at, seconds)))
                    continue
            going_on = self._go_on(way, _PastCall(post, end, reply, at, seconds))
            way.waits = asyncio.get_running_loop().create_task(going_on)
        self._end_orders(ended)
        if over:
            self._flow.end(over, now)

    def _count(
        self, replied: "Sequence[tuple[_Way, _Post, AttemptEnd, Reply, float]]", now: float, at: datetime
    ) -> None:
        """Those of a turn are much alike, and each metric is moved once."""
        alike: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for way, _, _, reply, seconds in replied:
            alike[way.request.account, reply.label].append(seconds)
        for (account, label), each in alike.items():
            self._requests(account, label).inc(len(each))
            self._request_seconds(account).observe_all(each)
            self._budgets[account].note_calls(now, len(each))
        if self._tracer is not None:
            for way, post, _, reply, _ in replied:
                whole, url = way.whole, way.request.url or self._url
                whole.calls = whole.calls or []
                whole.calls.append(TracedCall(way.order.index, url, post.began_at, at, reply))

    async def _go_on(self, way: "_Way", call: "_PastCall") -> None:
        """After a call that was not the last word."""
        try:
            outdated = call.reply.then is Then.STOP and await self._was_outdated(way, call)
            if way.permit is not None and not outdated:
                way.permit.report(call.reply)
            self._free(way)
            step = await self._next_step(way, call, outdated=outdated)
            ended = self._meaning(way, call, step)
        except Exception as bug:  # noqa: BLE001  # it is of this record alone
            self._fail(way, bug)
        else:
            way.waits = None
            if ended is not None:
                self._end_orders([(way, ended)])
            else:
                self.ready.append(way)
        self.wake()  # or others, that have moved up

    async def _was_outdated(self, way: "_Way", call: "_PastCall") -> bool:
        """Whether the platform refused a call for its secret, and there is another one by now."""
        if call.reply.is_redirect:
            return False
        name = way.rules.accounts[way.request.account].secret
        if self._read_again is not None and self._secrets[name] == call.post.secret:
            await self._read_again(name)
        return self._secrets[name] != call.post.secret

    async def _next_step(self, way: "_Way", call: "_PastCall", *, outdated: bool) -> NextStep:
        """What comes after a call that is not the last one yet. `Again` comes when its time has come."""
        record, reply, account = way.whole.record, call.reply, way.request.account
        if outdated:
            self._flow.probe_now(account)  # if this was the probe, it has told nothing
        now = self._monotonic()
        decide = partial(
            next_step,
            reply,
            way.calls + 1,
            self._policy,
            self._random(),
            now=call.ended_at,
            deadline=_deadline(way.rules, way.order, record, reply.label, way.excused),
            context=record.retry,
            excused=way.excused,
        )
        step = decide(in_budget=self._in_budget(account, reply, now) and self._is_open)
        if not isinstance(step, Again):
            return step
        self._budgets[account].spend(now)
        return step if await self._nap(step.after) else decide(in_budget=False)

    def _meaning(self, way: "_Way", call: "_PastCall", step: NextStep) -> Resolution | None:
        """What the call means for the order. None: another one follows now."""
        end, reply = call.end, call.reply
        if step is DONE:
            return _after_last_call(way, call.post, end, reply, call.ended_at, call.seconds)
        if isinstance(step, Later):
            return _after_last_call(
                way, call.post, end, reply, call.ended_at, call.seconds, later=step, decided_at=self._clock()
            )
        way.reply = reply
        if reply.ambiguous or (isinstance(end, Answered) and end.resent):
            way.ambiguous = True
        if not isinstance(step, Stopped):
            way.calls += 1
            before = way.attempts
            first_at = before.first_at or call.post.began_at
            way.attempts = Attempts(before.count + 1, first_at, call.ended_at, call.seconds)
        self._metrics.retries.labels(reply.label).inc()
        return None

    def _in_budget(self, account: str, reply: Reply, now: float) -> bool:
        """Whether a call that came to this may be made again within seconds."""
        if not reply.in_trouble or self._budgets[account].allows(now):
            return True
        self._metrics.retry_budget_used_up.inc()
        return False

    async def _nap(self, seconds: float) -> bool:
        """False: cut short, since what has been called for has to end now."""
        if not self._is_open:
            return False
        try:
            async with asyncio.timeout(None) as nap:
                self._naps.add(nap)
                await self._sleep(seconds)
        except TimeoutError:
            return False
        finally:
            self._naps.discard(nap)
        return True

    # -- The end -------------------------------------------------------------------------------------

    def _end_orders(self, ended: "Sequence[tuple[_Way, Resolution]]") -> None:
        """The orders' places are free, and with its last order a record has ended."""
        leave, over = self._keys.leave, []
        for way, resolution in ended:
            whole = way.whole
            leave(way)
            whole.resolutions.append(resolution)
            whole.orders.remove(way)
            if not whole.orders:
                over.append(whole)
        self._end_records(over)

    def _fail(self, way: "_Way", bug: Exception) -> None:
        """The record will have a problem once its other orders have ended: none is left calling unwatched."""
        if not way.keys:
            return
        whole = way.whole
        self._free(way)
        self._keys.leave(way)
        whole.problem = whole.problem or bug
        whole.orders.remove(way)
        if not whole.orders:
            self._end_records([whole])

    def _end_records(self, wholes: "Sequence[UnderWay]") -> None:
        """They are told of, together where one is told of many."""
        self._forget(wholes)
        told: defaultdict[Callable[[Sequence[UnderWay]], None], list[UnderWay]] = defaultdict(list)
        for whole in wholes:
            if len(whole.resolutions) > 1:
                whole.resolutions.sort(key=lambda resolution: resolution.index)
            if self._tracer is not None and whole.problem is None:
                self._tell(self._tracer, whole)
            told[whole.ended].append(whole)
        for ended, each in told.items():
            try:
                ended(each)
            except Exception as bug:  # noqa: BLE001  # it is of these records alone, which hold their frontiers
                _tell_of(bug, "records that have ended cannot be told of")

    def _forget(self, wholes: "Sequence[UnderWay]") -> None:
        """They are not under way any more; nor are the calls that were waited for."""
        self.under_way.difference_update(wholes)
        for whole in wholes:
            if whole.called:
                self._called -= 1
        if not self._called:
            self._quiet.set()

    def _tell(self, tracer: Tracer, whole: "UnderWay") -> None:
        try:
            told = tracer.tell(whole.record, whole.began_at, whole.resolutions, whole.calls or ())
            whole.resolutions = list(told)
        except Exception as bug:  # noqa: BLE001  # it costs the spans, and no more
            _tell_of(bug, "a record's spans cannot be told")

    def _free(self, way: "_Way") -> None:
        """What it holds, or waits for, is others'."""
        permit, way.permit = way.permit, None
        if permit is not None:
            permit.close()


class _Post(Frozen):
    """A call that was made.

    Attributes:
        secret: that signed it.
        began_at, started: when it was made, by the two clocks.

    """

    secret: str
    began_at: datetime
    started: float
    call: Call


class _PastCall(Frozen):
    """A call that is over, and was not the last word."""

    post: _Post
    end: AttemptEnd
    reply: Reply
    ended_at: datetime
    seconds: float


class UnderWay(Struct, eq=False):
    """A record that was begun, and what its orders share.

    Attributes:
        ended: told when it has, together with others.
        calls: so far, where somebody traces them.
        resolutions: of the orders that have ended; of all, by index, once it has ended itself.
        problem: why it has none.
        orders: that need a call, and have not ended.
        called: a call was made, or is about to be, for at least one of its orders.

    """

    record: Record
    delivery: Delivery
    ended: Callable[[Sequence["UnderWay"]], None]
    began_at: datetime
    calls: list[TracedCall] | None = None
    resolutions: list[Resolution] = []
    orders: "list[_Way]" = []
    problem: Exception | None = None
    called: bool = False


class _Way(Place):
    """What one order carries through its delivery.

    Attributes:
        seen: the rules that last had a say.
        attempts: so far.
        ambiguous: one of the calls may have granted the coupon.
        calls: since the record was taken in.
        excused: seconds that it has waited for no fault of its own.
        reply: of the last call.
        permit: it waits for leave to call, or is calling.
        post: the last call.
        waits: between two calls.

    """

    whole: UnderWay
    order: Order
    request: CouponRequest
    rules: Rules
    seen: Rules
    attempts: Attempts
    ambiguous: bool
    calls: int = 0
    excused: float = 0.0
    reply: Reply | None = None
    permit: Permit | None = None
    post: _Post | None = None
    waits: "asyncio.Task[None] | None" = None

    def decided(self) -> None:
        """For its permit."""
        delivery = self.whole.delivery
        delivery.ready.append(self)
        delivery.wake()

    def answered(self, end: AttemptEnd) -> None:
        """For its call."""
        delivery = self.whole.delivery
        delivery.answered.append((self, end))
        if not delivery.awake:  # it nearly always is
            delivery.wake()

    def failed(self, bug: Exception) -> None:
        """For its call, likewise."""
        self.whole.delivery.failed.append((self, bug))
        self.whole.delivery.wake()

    def so_far(self) -> Attempts:
        """As they are told."""
        attempts = self.attempts
        return (
            attempts if attempts.ambiguous is self.ambiguous else replace(attempts, ambiguous=self.ambiguous)
        )

    def resolution(  # noqa: PLR0917  # by position, since names cost time
        self,
        outcome: Outcome,
        decided_at: datetime,
        detail: str = "",
        dead_letter: bool = False,
        attempts: Attempts = NO_ATTEMPTS,
        words: GatewayWords = NO_WORDS,
        label: str = "",
        later: Later | None = None,
    ) -> Resolution:
        """What becomes of it."""
        order, request = self.order, self.request
        return Resolution(
            self.whole.record,
            order.index,
            outcome,
            decided_at,
            None,  # of a request there is no reason: the detail and the platform's words tell
            detail,
            dead_letter,
            order.source,
            request.rule,
            request.account,
            self.rules.hash,
            order.values,
            order.suspicions,
            None,  # and it reverses nothing
            request,
            attempts,
            words,
            label,
            later,
            order.span,
        )


def _after_last_call(  # noqa: PLR0917  # by position, since names cost time
    way: _Way,
    post: _Post,
    end: AttemptEnd,
    reply: Reply,
    at: datetime,
    seconds: float,
    *,
    later: Later | None = None,
    decided_at: datetime | None = None,
) -> Resolution:
    """It ends with the call that ended so, or waits in a retry topic."""
    before, outcome, detail, ambiguous = way.attempts, reply.outcome, "", way.ambiguous or reply.ambiguous
    if not isinstance(end, Answered):
        detail = _no_answer(end.error, sent=isinstance(end, NoAnswer))
    elif end.resent:
        ambiguous = True
    if outcome is _GRANTED and later is None:
        ambiguous = False
    attempts = Attempts(before.count + 1, before.first_at or post.began_at, at, seconds, ambiguous)
    return way.resolution(
        outcome, decided_at or at, detail, reply.dead_letter, attempts, reply.words, reply.label, later
    )


_GRANTED = Outcome.GRANTED
"""To take it from its class costs as much as a step of its own."""


def _is_changed(way: _Way, rules: Rules) -> bool:
    """Its account or rule is not what it was: changed, on hold, gone. Other changes are for records to come."""
    request = way.request
    return rules.terms(request.account, request.rule) != way.seen.terms(request.account, request.rule)


def _deadline(rules: Rules, order: Order, record: Record, label: str, excused: float) -> datetime | None:
    """The rules' deadline, moved by what the order has waited for no fault of its own."""
    deadline = rules.deadline(order, record, label)
    return None if deadline is None else deadline + timedelta(seconds=excused)


def _no_secret(account: str, name: str) -> ConfigurationError:
    problem = Problem(
        f"accounts.{account}.secret", f"there is no secret {name!r}", "add it to the settings' secrets"
    )
    return ConfigurationError([problem])


def _tell_of(bug: Exception, message: str) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": bug})


def _no_answer(error: str, *, sent: bool) -> str:
    return f"no answer: {error}" if sent else f"not sent: {error}"


def _without(reply: Reply, secret: str, plate: str) -> Reply:
    """The platform may echo what we sent in forms that `redact` cannot know: these exact texts go as well."""
    words = reply.words
    message, hint = words.message, words.hint
    for text in (secret, plate):
        if text and message and text in message:
            message = message.replace(text, "***")
        if text and hint and text in hint:
            hint = hint.replace(text, "***")
    if message is words.message and hint is words.hint:
        return reply
    return replace(reply, words=replace(words, message=message, hint=hint))
