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
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Protocol

from consumer.core.coupons import CouponRequest
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.events import NO_ATTEMPTS, NO_WORDS, Attempts, Order, Record, Wait
from consumer.core.outcomes import Finding, Later, Outcome, Reason, Resolution
from consumer.core.replies import Answered, AttemptEnd, NotSent, Reply, ReplyTable, Then
from consumer.core.retries import (
    Again,
    Done,
    NextStep,
    RetryBudget,
    RetryPolicy,
    Stopped,
    excused_seconds,
    next_step,
)
from consumer.core.signing import encode_form
from consumer.core.traces import TracedCall
from consumer.core.values import value
from consumer.flow import Flow, Permit
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
        self._queues: dict[Hashable, deque[Place]] = {}

    def __len__(self) -> int:
        """Keys with a queue; the memory of a key ends with its queue."""
        return len(self._queues)

    def enter(self, *keys: Hashable) -> "Place":
        """Take a place at the end of each key's queue, at once."""
        place = Place(self, tuple(dict.fromkeys(keys)))
        for key in place.keys:
            queue = self._queues.setdefault(key, deque())
            place.behind += bool(queue)
            queue.append(place)
        return place

    def leave(self, place: "Place") -> None:
        """Let the next ones move up; the place may be first, waiting, or gone already."""
        for key in place.keys:
            queue = self._queues[key]
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


class Delivery:
    """Delivers records. One task a record calls `deliver`; the tasks are made in each partition's order.

    A task runs up to its first await before the next one starts. In that stretch
    `deliver` reads, plans and enters the queues of its keys, so the queues have the
    order of the partitions.
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
        """What became of each of the record's orders, by index.

        An exception is a bug or a broken configuration: the record is not done then.
        It leaves when all the record's orders have ended, and none keeps its place.
        """
        rules = self._rules()  # one rule book for the whole record, whatever is loaded meanwhile
        began_at = self._clock()
        progress = _Progress(calls=None if self._tracer is None else [])
        resolutions: list[Resolution] = []
        deliveries: list[_OrderDelivery] = []
        try:
            for item in rules.read(record, began_at):
                planned = self._plan(rules, record, item, progress)
                if isinstance(planned, Resolution):
                    resolutions.append(planned)
                else:
                    deliveries.append(planned)
            # Up to here nothing was awaited: see the class.
            if len(deliveries) == 1:
                resolutions.append(await self._deliver_order(deliveries[0]))
            elif deliveries:
                # All of them end before an exception of one goes on: none is left calling unwatched.
                ends = await asyncio.gather(*map(self._deliver_order, deliveries), return_exceptions=True)
                for end in ends:
                    if isinstance(end, BaseException):
                        raise end
                    resolutions.append(end)
        finally:
            for delivery in deliveries:
                delivery.place.leave()
            if progress.begun:
                self._begun -= 1
                if not self._begun:
                    self._quiet.set()
        resolved = tuple(sorted(resolutions, key=lambda resolution: resolution.index))
        return (
            resolved if progress.calls is None else self._traced(record, began_at, resolved, progress.calls)
        )

    def _traced(
        self,
        record: Record,
        began_at: datetime,
        resolutions: tuple[Resolution, ...],
        calls: Sequence[TracedCall],
    ) -> tuple[Resolution, ...]:
        assert self._tracer is not None, "else no calls are noted"
        return self._tracer.tell(record, began_at, resolutions, calls)

    def _plan(
        self,
        rules: Rules,
        record: Record,
        item: Order | Finding,
        progress: "_Progress",
        place: Place | None = None,
    ) -> "Resolution | _OrderDelivery":
        if isinstance(item, Finding):
            return self._found(rules, record, item)
        plan = rules.plan(item)
        if isinstance(plan, Finding):
            return self._found(rules, record, plan, item)
        base = Resolution(
            record=record,
            index=item.index,
            outcome=Outcome.SHADOW,
            decided_at=self._clock(),
            source=item.source,
            rule=plan.rule,
            account=plan.account,
            rules_hash=rules.hash,
            values=item.values,
            suspicions=item.suspicions,
            parameters=plan.parameters,
            metadata=plan.metadata,
        )
        if plan.shadow:
            return base
        too_late = self._too_late(rules, base, item)
        if too_late is not None:
            return too_late
        secret_name = rules.accounts[plan.account].secret
        self._secret(plan.account, secret_name)  # a missing one is found before a place is taken
        place = place or self._keys.enter(("plate", item.plate), ("event_id", item.event_id))
        return _OrderDelivery(base, item, plan, secret_name, rules, rules, place, progress)

    def _too_late(self, rules: Rules, base: Resolution, order: Order) -> Resolution | None:
        """An order whose deadline passed in a retry topic (the service was away): its last reply is its end."""
        context = base.record.retry
        if context is None or not context.attempts.count:
            return None
        row = rules.replies.rows.get(context.label) or rules.replies.rows["other"]
        excused = excused_seconds(context, base.decided_at)
        deadline = _deadline(rules, order, base.record, context.label, excused)
        if deadline is None or base.decided_at <= deadline:
            return None
        attempts = replace(
            context.attempts, ambiguous=context.attempts.ambiguous and row.outcome is not Outcome.GRANTED
        )
        return replace(
            base,
            outcome=row.outcome,
            detail="its deadline passed while it waited for another attempt",
            dead_letter=row.dead_letter,
            attempts=attempts,
            words=context.words,
            label=context.label,
        )

    def _found(
        self, rules: Rules, record: Record, finding: Finding, order: Order | None = None
    ) -> Resolution:
        """A finding is an end of its own; what the finding does not say of a read order, the order does."""
        context, now = record.retry, self._clock()
        later = None
        if finding.reason is Reason.HOLD and self._policy.delays:
            later = self._policy.later(Wait.HOLD, now, context, excused=excused_seconds(context, now))
        values, source = finding.values, finding.source
        if order is not None:
            values = values if values is not None else order.values
            source = source or order.source
        return Resolution(
            record=record,
            index=finding.index if order is None else order.index,
            outcome=finding.outcome,
            decided_at=now,
            reason=finding.reason,
            detail=finding.detail,
            dead_letter=finding.dead_letter,
            source=source,
            rule=finding.rule,
            account=finding.account,
            rules_hash=rules.hash,
            values=values,
            suspicions=() if order is None else order.suspicions,
            reverses=finding.reverses,
            attempts=NO_ATTEMPTS if context is None else context.attempts,
            words=NO_WORDS if context is None else context.words,
            label="" if context is None else context.label,
            later=later,
        )

    def _secret(self, account: str, name: str) -> str:
        """Looked up for every call, so that an order which waits at the stop line meets a corrected one."""
        try:
            return self._secrets[name]
        except KeyError:
            problem = Problem(
                f"accounts.{account}.secret",
                f"there is no secret {name!r}",
                "add it to the settings' secrets",
            )
            raise ConfigurationError([problem]) from None

    async def _deliver_order(self, delivery: "_OrderDelivery") -> Resolution:
        try:
            await delivery.place.turn()
            return await self._call_until_last_word(delivery)
        finally:
            delivery.place.leave()

    async def _call_until_last_word(self, delivery: "_OrderDelivery") -> Resolution:
        """Attempts, with the place held throughout and a permit only while a call is under way."""
        record = delivery.base.record
        attempts = NO_ATTEMPTS if record.retry is None else record.retry.attempts
        may_be_granted = record.maybe_sent or attempts.ambiguous
        excused = excused_seconds(record.retry, delivery.base.decided_at)
        reply: Reply | None = None
        calls = 0
        while True:
            if not delivery.progress.begun:
                await self._open.wait()
            planned = self._as_of_now(delivery, attempts, may_be_granted, reply, excused)
            if isinstance(planned, Resolution):
                return planned
            delivery = planned
            async with self._flow.permit(delivery.request.account) as permit:
                excused += permit.stopped_seconds
                if self._is_changed(delivery):
                    continue  # while it waited for its permit
                if permit.set_aside:
                    if not delivery.progress.begun and not self._open.is_set():
                        continue  # it is the next owner's
                    so_far = _so_far(attempts, may_be_granted)
                    return self._set_aside(delivery, so_far, permit.waits_for, excused, reply)
                if not self._may_call(delivery.progress):
                    continue  # held while it waited for its permit
                call = await self._call(delivery, permit)
            end, reply = call.end, call.reply
            may_be_granted = may_be_granted or reply.ambiguous or (isinstance(end, Answered) and end.resent)
            step = await self._next_step(delivery, call, calls + 1, excused)
            if not isinstance(step, Stopped):
                calls += 1
                first_at = attempts.first_at or call.began_at
                attempts = Attempts(attempts.count + 1, first_at, call.ended_at, call.seconds)
            if isinstance(step, Done | Later):
                later = step if isinstance(step, Later) else None
                ambiguous = may_be_granted and (later is not None or reply.outcome is not Outcome.GRANTED)
                return self._ended(delivery, end, reply, _so_far(attempts, ambiguous), later)
            self._metrics.retries.labels(reply.label).inc()

    async def _call(self, delivery: "_OrderDelivery", permit: Permit) -> "_Call":
        """One request. It is encoded here, so that waiting orders keep no bodies."""
        account = delivery.request.account
        secret = self._secret(account, delivery.secret_name)
        began_at, started = self._clock(), self._monotonic()
        body = encode_form(delivery.request.sent(began_at), secret)
        url = delivery.request.url or self._url
        end = await self._gateway.post(url, body)
        seconds, ended_at = self._monotonic() - started, self._clock()
        reply = _without(delivery.rules.replies.classify(end, ended_at), secret, delivery.order.plate)
        self._requests(account, reply.label).inc()
        self._request_seconds(account).observe(seconds)
        if delivery.progress.calls is not None:
            delivery.progress.calls.append(TracedCall(delivery.order.index, url, began_at, ended_at, reply))
        outdated = await self._was_outdated(delivery.secret_name, secret, reply)
        if not outdated:
            permit.report(reply)
        return _Call(end, reply, began_at, ended_at, seconds, outdated)

    async def _was_outdated(self, name: str, secret: str, reply: Reply) -> bool:
        """Whether the platform refused a call for its secret, and there is another one by now."""
        if reply.then is not Then.STOP or reply.is_redirect:
            return False
        if self._read_again is not None and self._secrets[name] == secret:
            await self._read_again(name)
        return self._secrets[name] != secret

    async def _next_step(
        self, delivery: "_OrderDelivery", call: "_Call", calls: int, excused: float
    ) -> NextStep:
        """What comes after a call. `Again` comes when its time has come."""
        record, reply, account = delivery.base.record, call.reply, delivery.request.account
        if call.outdated:
            self._flow.probe_now(account)  # if this was the probe, it has told nothing
        now = self._monotonic()
        if reply.then is Then.FINAL:
            self._budgets[account].note_call(now)
            return Done()
        decide = partial(
            next_step,
            reply,
            calls,
            self._policy,
            self._random(),
            now=call.ended_at,
            deadline=_deadline(delivery.rules, delivery.order, record, reply.label, excused),
            context=record.retry,
            excused=excused,
        )
        step = decide(in_budget=self._in_budget(account, reply, now) and self._open.is_set())
        if not isinstance(step, Again):
            return step
        self._budgets[account].spend(now)
        return step if await self._nap(step.after) else decide(in_budget=False)

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

    def _as_of_now(
        self,
        delivery: "_OrderDelivery",
        attempts: Attempts,
        ambiguous: bool,
        reply: Reply | None,
        excused: float,
    ) -> "Resolution | _OrderDelivery":
        """The order, where it is changed as if it had come back from a retry topic."""
        if not self._is_changed(delivery):
            return delivery
        rules, record, order = self._rules(), delivery.base.record, delivery.order
        items = rules.read(record, self._clock())
        item = next((item for item in items if item.index == order.index), None)
        # The platform knows it by its event_id, and its turn is that of its plate: they cannot change any more.
        if not isinstance(item, Order) or (item.event_id, item.plate) != (order.event_id, order.plate):
            return replace(delivery, seen=rules)
        planned = self._plan(rules, record, item, delivery.progress, delivery.place)
        if not isinstance(planned, Resolution):
            return planned
        later = planned.later and replace(planned.later, excused_seconds=excused)
        planned = replace(planned, attempts=_so_far(attempts, ambiguous), later=later)
        return planned if reply is None else replace(planned, words=reply.words, label=reply.label)

    def _in_budget(self, account: str, reply: Reply, now: float) -> bool:
        """Whether a call that came to this may be made again within seconds."""
        budget = self._budgets[account]
        budget.note_call(now)
        if not reply.in_trouble or budget.allows(now):
            return True
        self._metrics.retry_budget_used_up.inc()
        return False

    def _may_call(self, progress: "_Progress") -> bool:
        if not progress.begun and self._open.is_set():
            progress.begun = True
            self._begun += 1
            self._quiet.clear()
        return progress.begun

    def _set_aside(
        self,
        delivery: "_OrderDelivery",
        attempts: Attempts,
        wait: Wait,
        excused: float,
        reply: Reply | None,
    ) -> Resolution:
        """It waits where it is in nobody's way: its account is refused while others go on, or the member drains."""
        now, context = self._clock(), delivery.base.record.retry
        return replace(
            delivery.base,
            outcome=Outcome.PLATFORM_FAILED,
            decided_at=now,
            attempts=attempts,
            words=reply.words if reply else context.words if context else NO_WORDS,
            label=reply.label if reply else context.label if context else "",
            later=self._policy.later(wait, now, context, excused=excused),
        )

    def _ended(
        self,
        delivery: "_OrderDelivery",
        end: AttemptEnd,
        reply: Reply,
        attempts: Attempts,
        later: Later | None,
    ) -> Resolution:
        base = delivery.base
        return Resolution(
            record=base.record,
            index=base.index,
            outcome=reply.outcome,
            decided_at=self._clock(),
            detail=""
            if isinstance(end, Answered)
            else _no_answer(end.error, sent=not isinstance(end, NotSent)),
            dead_letter=reply.dead_letter,
            source=base.source,
            rule=base.rule,
            account=base.account,
            rules_hash=base.rules_hash,
            values=base.values,
            suspicions=base.suspicions,
            parameters=base.parameters,
            metadata=base.metadata,
            attempts=attempts,
            words=reply.words,
            label=reply.label,
            later=later,
        )


@value
class _Call:
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


@dataclass(slots=True)
class _Progress:
    """A record's: begun as soon as a call was made for any of its orders.

    Attributes:
        calls: so far; None where nobody traces them.

    """

    begun: bool = False
    calls: list[TracedCall] | None = None


@value
class _OrderDelivery:
    """What one order carries through its delivery; `seen` are the rules that last had a say."""

    base: Resolution
    order: Order
    request: CouponRequest
    secret_name: str
    rules: Rules
    seen: Rules
    place: Place
    progress: _Progress


def _so_far(attempts: Attempts, ambiguous: bool) -> Attempts:
    return attempts if attempts.ambiguous is ambiguous else replace(attempts, ambiguous=ambiguous)


def _deadline(rules: Rules, order: Order, record: Record, label: str, excused: float) -> datetime | None:
    """The rules' deadline, moved by what the order has waited for no fault of its own."""
    deadline = rules.deadline(order, record, label)
    return None if deadline is None else deadline + timedelta(seconds=excused)


def _no_answer(error: str, *, sent: bool) -> str:
    return f"no answer: {error}" if sent else f"not sent: {error}"


def _without(reply: Reply, *hidden: str) -> Reply:
    """The platform may echo what we sent in forms that `redact` cannot know: these exact texts go as well."""
    words = reply.words
    message, hint = words.message, words.hint
    for text in filter(None, hidden):
        message = message and message.replace(text, "***")
        hint = hint and hint.replace(text, "***")
    if (message, hint) == (words.message, words.hint):
        return reply
    return replace(reply, words=replace(words, message=message, hint=hint))
