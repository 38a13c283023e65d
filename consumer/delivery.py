"""One record -> its resolutions: read, plan, call the platform until there is a last word, or a long wait.

I/O only through Protocols.

Orders of one ordering key (the plate) are delivered in the order of their records, and
there is at most one request at a time for a key and for an event_id.
"""

import asyncio
import random
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Protocol

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
from consumer.core.signing import encode_form
from consumer.core.traces import TracedCall
from consumer.core.values import Frozen
from consumer.flow import Flow
from consumer.gateway import Gateway
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


class KeyedOrder:
    """Queues, one a key: whoever holds a place goes when it is first in all the queues that it stands in.

    This cannot deadlock. A place enters all its queues in one step, with no await
    between, so every queue is sorted by the moment of entering. Of all places not yet
    left, the oldest is therefore first in each of its queues: one can always go, and
    each that leaves makes another one the oldest.
    """

    def __init__(self) -> None:
        # Most keys have one place, and need no queue of their own.
        self._queues: dict[Hashable, Place | deque[Place]] = {}

    def __len__(self) -> int:
        """Keys with a place; the memory of a key ends with its last one."""
        return len(self._queues)

    def enter(self, *keys: Hashable) -> "Place":
        """Take a place at the end of each key's queue, at once; no two of the keys are equal."""
        place = Place(self, keys)
        for key in keys:
            queue = self._queues.setdefault(key, place)
            if queue is place:
                continue
            if isinstance(queue, Place):
                queue = self._queues[key] = deque((queue,))
            queue.append(place)
            place.behind += 1
        return place

    def leave(self, place: "Place") -> None:
        """Let the next ones move up; the place may be first, waiting, or gone already."""
        for key in place.keys:
            queue = self._queues[key]
            if queue is place:
                del self._queues[key]
                continue
            assert isinstance(queue, deque), "another place is in it, too"
            if queue[0] is not place:
                queue.remove(place)
                continue
            queue.popleft()
            if queue:
                queue[0].move_up()
            else:
                del self._queues[key]
        place.keys = ()


class Place:
    """One order's place in the queues of its keys.

    Attributes:
        keys: the queues that it stands in; none once it was left.
        behind: in how many of them somebody is before it.

    """

    __slots__ = ("_owner", "_turn", "behind", "keys")

    def __init__(self, owner: KeyedOrder, keys: tuple[Hashable, ...]) -> None:
        self._owner = owner
        self._turn: asyncio.Future[None] | None = None
        self.keys = keys
        self.behind = 0

    async def turn(self) -> None:
        """Wait until it is first everywhere. Cancelled or not, `leave` has to follow."""
        if self.behind:
            self._turn = asyncio.get_running_loop().create_future()
            await self._turn

    def move_up(self) -> None:
        """One of its queues has it first now."""
        self.behind -= 1
        if not self.behind and self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def leave(self) -> None:
        """Give the place up. A second time does nothing."""
        self._owner.leave(self)


NOWHERE = KeyedOrder().enter()


class Delivery:
    """Delivers records. One task a record calls `deliver_prepared`; the tasks are made in each partition's order.

    A task runs up to its first await before the next one starts. In that stretch its
    orders enter the queues of their keys, so the queues have the order of the partitions.
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
        self._keys = KeyedOrder()
        self._open = asyncio.Event()
        self._open.set()
        self._begun = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._naps: set[asyncio.Timeout] = set()

    def hold(self) -> None:
        """Begin no further record: those without a call so far wait, and are left to the next owner untouched.

        Those that were begun end soon: where they would have to wait between calls, they go to a retry topic.
        """
        self._open.clear()
        self._flow.hold()
        now = asyncio.get_running_loop().time()
        for nap in self._naps:
            nap.reschedule(now)

    def release(self) -> None:
        """Begin records again."""
        self._open.set()
        self._flow.release()

    async def quiet(self) -> None:
        """Until each record for which a call was made has ended."""
        await self._quiet.wait()

    async def deliver(self, record: Record) -> tuple[Resolution, ...]:
        """What became of each of the record's orders, by index: from its bytes to their ends."""
        (prepared,) = self.prepare([record])
        return await self.deliver_prepared(prepared)

    def prepare(self, records: Sequence[Record]) -> list["Prepared"]:
        """Read and plan records. Never raises: what goes wrong is raised by `deliver_prepared`.

        All are read, and then all are planned: the interpreter does the same again and again faster than by turns.
        """
        rules, now = self._rules(), self._clock()  # the same for a whole record, whatever is loaded meanwhile
        traced = self._tracer is not None
        read = [rules.read(record, now) for record in records]
        prepared = [Prepared(record, now, [] if traced else None) for record in records]
        for one, items in zip(prepared, read, strict=True):
            try:
                for item in items:
                    planned = self._plan(one, item, rules, now)
                    if isinstance(planned, Resolution):
                        one.ended.append(planned)
                    else:
                        one.orders.append(planned)
            except Exception as problem:  # noqa: BLE001  # it is of this record alone
                one.problem = problem
        return prepared

    async def deliver_prepared(self, prepared: "Prepared") -> tuple[Resolution, ...]:
        """What became of each of the record's orders, by index.

        An exception is a bug or a broken configuration: the record is not done then.
        It leaves when all the record's orders have ended, and none keeps its place.
        """
        if prepared.problem is not None:
            raise prepared.problem
        orders, resolutions = prepared.orders, prepared.ended
        prepared.orders = []  # they know of it as well: no circle is left for the garbage collector
        try:
            for order in orders:
                order.place = self._place_of(order.order)
            # Up to here nothing was awaited: see the class.
            if len(orders) == 1:
                resolutions.append(await self._deliver_order(orders[0]))
            elif orders:
                resolutions += await self._deliver_orders(orders)
        finally:
            for order in orders:
                self._keys.leave(order.place)
            if prepared.begun:
                self._ended_one()
        if len(resolutions) > 1:
            resolutions.sort(key=lambda resolution: resolution.index)
        return tuple(resolutions) if prepared.calls is None else self._traced(prepared, resolutions)

    def _ended_one(self) -> None:
        self._begun -= 1
        if not self._begun:
            self._quiet.set()

    def _traced(self, prepared: "Prepared", resolutions: Sequence[Resolution]) -> tuple[Resolution, ...]:
        assert self._tracer is not None, "else no calls are noted"
        return self._tracer.tell(prepared.record, prepared.began_at, resolutions, prepared.calls or ())

    def _plan(
        self, whole: "Prepared", item: Order | Finding, rules: Rules, now: datetime
    ) -> "Resolution | _OrderDelivery":
        """An end, or an order that can be delivered; it has no place yet."""
        if isinstance(item, Finding):
            return self._found(rules, whole.record, item, now)
        plan = rules.plan(item)
        if isinstance(plan, Finding):
            return self._found(rules, whole.record, plan, now, item)
        context = whole.record.retry
        attempts = NO_ATTEMPTS if context is None else context.attempts
        ambiguous = whole.record.maybe_sent or attempts.ambiguous
        delivery = _OrderDelivery(whole, item, plan, rules, rules, attempts, ambiguous)
        if plan.shadow:
            return delivery.resolution(Outcome.SHADOW, now)
        if context is not None:
            delivery.excused = excused_seconds(context, now)
            too_late = self._too_late(delivery, context, now)
            if too_late is not None:
                return too_late
        self._secret(delivery)  # a missing one is found before a place is taken
        return delivery

    def _place_of(self, order: Order) -> Place:
        """Should one order's event_id be another one's plate, they wait for each other, and nothing else comes of it."""
        plate, event_id = order.plate, order.event_id
        return self._keys.enter(plate, event_id) if plate != event_id else self._keys.enter(plate)

    def _too_late(
        self, delivery: "_OrderDelivery", context: RetryContext, now: datetime
    ) -> Resolution | None:
        """An order whose deadline passed in a retry topic (the service was away): its last reply is its end."""
        if not context.attempts.count:
            return None
        rows = delivery.rules.replies.rows
        row = rows.get(context.label) or rows["other"]
        record, order = delivery.whole.record, delivery.order
        deadline = _deadline(delivery.rules, order, record, context.label, delivery.excused)
        if deadline is None or now <= deadline:
            return None
        if row.outcome is Outcome.GRANTED:
            delivery.ambiguous = False
        return delivery.resolution(
            row.outcome,
            now,
            detail="its deadline passed while it waited for another attempt",
            dead_letter=row.dead_letter,
            attempts=delivery.so_far(),
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
            None,  # no request, and nothing that was computed for one
            None,
            NO_ATTEMPTS if context is None else context.attempts,
            NO_WORDS if context is None else context.words,
            "" if context is None else context.label,
            later,
        )

    def _secret(self, delivery: "_OrderDelivery") -> tuple[str, str]:
        """Its name and itself: looked up for every call, so that an order which waits at the stop line meets a corrected one."""
        account = delivery.request.account
        name = delivery.rules.accounts[account].secret
        try:
            return name, self._secrets[name]
        except KeyError:
            problem = Problem(
                f"accounts.{account}.secret",
                f"there is no secret {name!r}",
                "add it to the settings' secrets",
            )
            raise ConfigurationError([problem]) from None

    async def _deliver_orders(self, deliveries: "Sequence[_OrderDelivery]") -> list[Resolution]:
        """All of them end before an exception of one goes on: none is left calling unwatched."""
        ends = await asyncio.gather(*map(self._deliver_order, deliveries), return_exceptions=True)
        resolutions: list[Resolution] = []
        for end in ends:
            if isinstance(end, BaseException):
                raise end
            resolutions.append(end)
        return resolutions

    async def _deliver_order(self, delivery: "_OrderDelivery") -> Resolution:
        """Attempts, with the place held throughout and a permit only while a call is under way."""
        try:
            if delivery.place.behind:
                await delivery.place.turn()
            while True:
                if not delivery.whole.begun:
                    await self._open.wait()
                if self._rules() is not delivery.seen:
                    ended = self._look_again(delivery)
                    if ended is not None:
                        return ended
                call = await self._call(delivery)
                if isinstance(call, Resolution):
                    return call
                if call is not None:
                    step = DONE if call.reply.then is Then.FINAL else await self._next_step(delivery, call)
                    ended = self._heed(delivery, call, step)
                    if ended is not None:
                        return ended
        finally:
            self._keys.leave(delivery.place)

    async def _call(self, delivery: "_OrderDelivery") -> "_Call | Resolution | None":
        """One call, once there is leave for it. None: while it waited, something changed."""
        whole, request = delivery.whole, delivery.request
        account = request.account
        with self._flow.permit(account) as permit:
            if not permit.given:
                await permit.wait()
                delivery.excused += permit.stopped_seconds
                if self._is_changed(delivery):
                    return None
                if not permit.given:
                    return self._set_aside(delivery, permit.waits_for)
            if not whole.begun and not self._begin(whole):
                return None  # held
            name, secret = self._secret(delivery)
            began_at, started = self._clock(), self._monotonic()
            # It is encoded only now, so that waiting orders keep no bodies.
            body = encode_form(request.sent(began_at), secret)
            url = request.url or self._url
            end = await self._gateway.post(url, body)
            now, ended_at = self._monotonic(), self._clock()
            reply = _without(delivery.rules.replies.classify(end, ended_at), secret, delivery.order.plate)
            self._requests(account, reply.label).inc()
            self._request_seconds(account).observe(now - started)
            self._budgets[account].note_call(now)
            if whole.calls is not None:
                whole.calls.append(TracedCall(delivery.order.index, url, began_at, ended_at, reply))
            outdated = reply.then is Then.STOP and await self._was_outdated(name, secret, reply)
            if not outdated:
                permit.report(reply)
        return _Call(end, reply, began_at, ended_at, now - started, outdated)

    async def _was_outdated(self, name: str, secret: str, reply: Reply) -> bool:
        """Whether the platform refused a call for its secret, and there is another one by now."""
        if reply.is_redirect:
            return False
        if self._read_again is not None and self._secrets[name] == secret:
            await self._read_again(name)
        return self._secrets[name] != secret

    async def _next_step(self, delivery: "_OrderDelivery", call: "_Call") -> NextStep:
        """What comes after a call that is not the last one yet. `Again` comes when its time has come."""
        record, reply, account = delivery.whole.record, call.reply, delivery.request.account
        if call.outdated:
            self._flow.probe_now(account)  # if this was the probe, it has told nothing
        now = self._monotonic()
        decide = partial(
            next_step,
            reply,
            delivery.calls + 1,
            self._policy,
            self._random(),
            now=call.ended_at,
            deadline=_deadline(delivery.rules, delivery.order, record, reply.label, delivery.excused),
            context=record.retry,
            excused=delivery.excused,
        )
        step = decide(in_budget=self._in_budget(account, reply, now) and self._open.is_set())
        if not isinstance(step, Again):
            return step
        self._budgets[account].spend(now)
        return step if await self._nap(step.after) else decide(in_budget=False)

    def _heed(self, delivery: "_OrderDelivery", call: "_Call", step: NextStep) -> Resolution | None:
        """What the call means for the order. None: another one follows now."""
        end, reply = call.end, call.reply
        delivery.reply = reply
        if reply.ambiguous or (isinstance(end, Answered) and end.resent):
            delivery.ambiguous = True
        if not isinstance(step, Stopped):
            delivery.calls += 1
            before = delivery.attempts
            first_at = before.first_at or call.began_at
            delivery.attempts = Attempts(before.count + 1, first_at, call.ended_at, call.seconds)
        if step is DONE:
            return self._ended(delivery, end, reply, None)
        if isinstance(step, Later):
            return self._ended(delivery, end, reply, step)
        self._metrics.retries.labels(reply.label).inc()
        return None

    async def _nap(self, seconds: float) -> bool:
        """False: cut short, since what was begun has to end now."""
        try:
            async with asyncio.timeout(None) as nap:
                self._naps.add(nap)
                await self._sleep(seconds)
        except TimeoutError:
            return False
        finally:
            self._naps.discard(nap)
        return True

    def _is_changed(self, delivery: "_OrderDelivery") -> bool:
        """Its account or rule is not what it was: changed, on hold, gone. Other changes are for records to come."""
        rules, request = self._rules(), delivery.request
        if rules is delivery.seen:
            return False
        return rules.terms(request.account, request.rule) != delivery.seen.terms(
            request.account, request.rule
        )

    def _look_again(self, delivery: "_OrderDelivery") -> Resolution | None:
        """An order under other rules: where its account or rule is changed, as if it had come back from a retry topic."""
        if not self._is_changed(delivery):
            return None
        rules, whole, order, now = self._rules(), delivery.whole, delivery.order, self._clock()
        delivery.seen = rules
        items = rules.read(whole.record, now)
        item = next((item for item in items if item.index == order.index), None)
        # The platform knows it by its event_id, and its turn is that of its plate: they cannot change any more.
        if not isinstance(item, Order) or (item.event_id, item.plate) != (order.event_id, order.plate):
            return None
        planned = self._plan(whole, item, rules, now)
        if isinstance(planned, _OrderDelivery):
            delivery.order, delivery.request, delivery.rules = item, planned.request, rules
            return None
        later = planned.later and replace(planned.later, excused_seconds=delivery.excused)
        planned = replace(planned, attempts=delivery.so_far(), later=later)
        reply = delivery.reply
        return planned if reply is None else replace(planned, words=reply.words, label=reply.label)

    def _in_budget(self, account: str, reply: Reply, now: float) -> bool:
        """Whether a call that came to this may be made again within seconds."""
        if not reply.in_trouble or self._budgets[account].allows(now):
            return True
        self._metrics.retry_budget_used_up.inc()
        return False

    def _begin(self, whole: "Prepared") -> bool:
        if self._open.is_set():
            whole.begun = True
            self._begun += 1
            self._quiet.clear()
        return whole.begun

    def _set_aside(self, delivery: "_OrderDelivery", wait: Wait) -> Resolution | None:
        """It waits where it is in nobody's way: its account is refused while others go on, or the member drains.

        None: the next owner does it, without a call by this one.
        """
        if not delivery.whole.begun and not self._open.is_set():
            return None
        now, context, reply = self._clock(), delivery.whole.record.retry, delivery.reply
        return delivery.resolution(
            Outcome.PLATFORM_FAILED,
            now,
            attempts=delivery.so_far(),
            words=reply.words if reply else context.words if context else NO_WORDS,
            label=reply.label if reply else context.label if context else "",
            later=self._policy.later(wait, now, context, excused=delivery.excused),
        )

    def _ended(
        self, delivery: "_OrderDelivery", end: AttemptEnd, reply: Reply, later: Later | None
    ) -> Resolution:
        if reply.outcome is Outcome.GRANTED and later is None:
            delivery.ambiguous = False
        return delivery.resolution(
            reply.outcome,
            self._clock(),
            detail="" if isinstance(end, Answered) else _no_answer(end.error, sent=isinstance(end, NoAnswer)),
            dead_letter=reply.dead_letter,
            attempts=delivery.so_far(),
            words=reply.words,
            label=reply.label,
            later=later,
        )


class _Call(Frozen):
    """How one request went.

    Attributes:
        outdated: it was refused for a secret that is another one by now.

    """

    end: AttemptEnd
    reply: Reply
    began_at: datetime
    ended_at: datetime
    seconds: float
    outdated: bool


class Prepared(Struct):
    """A record that was read and planned, and what its orders share.

    Attributes:
        calls: so far; None where nobody traces them.
        ended: orders that need no call, or no further one.
        orders: to be delivered.
        problem: why it could not be prepared.
        begun: a call was made for one of the orders.

    """

    record: Record
    began_at: datetime
    calls: list[TracedCall] | None
    ended: list[Resolution] = []
    orders: "list[_OrderDelivery]" = []
    problem: Exception | None = None
    begun: bool = False


class _OrderDelivery(Struct):
    """What one order carries through its delivery.

    Attributes:
        seen: the rules that last had a say.
        attempts: so far.
        ambiguous: one of the calls may have granted the coupon.
        calls: since the record was taken in.
        excused: seconds that it has waited for no fault of its own.
        reply: of the last call.

    """

    whole: Prepared
    order: Order
    request: CouponRequest
    rules: Rules
    seen: Rules
    attempts: Attempts
    ambiguous: bool
    place: Place = NOWHERE
    calls: int = 0
    excused: float = 0.0
    reply: Reply | None = None

    def so_far(self) -> Attempts:
        """As they are told."""
        attempts = self.attempts
        return (
            attempts if attempts.ambiguous is self.ambiguous else replace(attempts, ambiguous=self.ambiguous)
        )

    def resolution(
        self,
        outcome: Outcome,
        decided_at: datetime,
        *,
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
            request.parameters,
            request.metadata,
            attempts,
            words,
            label,
            later,
        )


def _deadline(rules: Rules, order: Order, record: Record, label: str, excused: float) -> datetime | None:
    """The rules' deadline, moved by what the order has waited for no fault of its own."""
    deadline = rules.deadline(order, record, label)
    return None if deadline is None else deadline + timedelta(seconds=excused)


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
