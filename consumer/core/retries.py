"""A reply and the attempts so far -> another attempt, a wait, or the end. Performs no I/O.

Retries have two ranges: within seconds the order waits in memory and keeps its key; after
that it waits in a retry topic for minutes to hours, where it is in nobody's way.
Retries within seconds have a budget, so that a platform in trouble is not asked more than before.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from consumer.core.events import RetryContext, Wait
from consumer.core.headers import LONGEST_SECONDS
from consumer.core.outcomes import Later
from consumer.core.replies import Reply, Then
from consumer.core.values import Frozen


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The bounds of retrying.

    Attributes:
        max_attempts_now: calls made for one order within seconds, the first among them.
        base_seconds: upper bound of the first wait; it doubles with each attempt.
        cap_seconds: the upper bound stops growing here.
        retry_after_cap_seconds: more than this is not waited in memory, whatever Retry-After says.
        delays: seconds in each retry topic, ascending; the last one repeats. Empty: there are no retry topics.

    """

    max_attempts_now: int = 3
    base_seconds: float = 0.5
    cap_seconds: float = 10.0
    retry_after_cap_seconds: float = 30.0
    delays: tuple[float, ...] = ()

    def backoff(self, attempt: int, jitter: float, retry_after: float | None = None) -> float:
        """Seconds to wait after the attempt-th call (from 1), with `jitter` from [0, 1): full jitter.

        Retry-After can only lengthen the wait, so that 0 does not turn into a busy loop.
        """
        bound = min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempt - 1, 64))
        return max(bound * jitter, min(retry_after or 0.0, self.retry_after_cap_seconds))

    def later(
        self,
        wait: Wait,
        now: datetime,
        context: RetryContext | None = None,
        *,
        excused: float = 0.0,
        retry_after: float | None = None,
    ) -> Later:
        """The next retry topic for an order, `context` being where it comes from.

        Delays are fixed, since a record waits for the one before it. So a longer Retry-After
        is met by a later topic. A `stop`, a `breaker` or a `hold` is looked at again after the second
        delay at most: when it ends, nobody wants to wait for the longest.
        """
        tier, waits = (context.tier, context.waits) if context is not None else (0, 0)
        if wait is Wait.REPLY:
            topic = max(tier, bisect_left(self.delays, retry_after or 0.0))
            tier += 1
        else:
            topic = min(waits, 1)
            waits += 1
        topic = min(topic, len(self.delays) - 1)
        due_at = now + timedelta(seconds=self.delays[topic])
        return Later(wait, topic, due_at, tier, waits, excused)


class RetryBudget:
    """How many calls may be made again within seconds: a share of all calls of the last seconds, and a few.

    After the retry budgets of Finagle. The few let single failures be retried where there are few calls.
    """

    def __init__(self, *, share: float = 0.1, few: int = 10, window_seconds: int = 10) -> None:
        self._share = share
        self._few = few
        self._window = window_seconds
        self._slot = _Slot(0)
        self._slots: deque[_Slot] = deque([self._slot])
        self._ends = 0

    def note_calls(self, now: float, count: int = 1) -> None:
        """So many calls were made, the first for their orders or not."""
        if now >= self._ends:
            self._turn(int(now))
        self._slot.calls += count

    def allows(self, now: float) -> bool:
        """True if there is one left."""
        if now >= self._ends:
            self._turn(int(now))
        calls = sum(slot.calls for slot in self._slots)
        return sum(slot.retries for slot in self._slots) < max(self._few, int(self._share * calls))

    def spend(self, now: float) -> None:
        """A call will be made again."""
        if now >= self._ends:
            self._turn(int(now))
        self._slot.retries += 1

    def _turn(self, second: int) -> None:
        """To another second."""
        self._slot, self._ends = _Slot(second), second + 1
        self._slots.append(self._slot)
        while self._slots[0].second <= second - self._window:
            self._slots.popleft()


@dataclass(slots=True)
class _Slot:
    """What was done in one second."""

    second: int
    calls: int = 0
    retries: int = 0


def excused_seconds(context: RetryContext | None, now: datetime) -> float:
    """What an order has waited for no fault of its own, and what its deadline therefore moves by."""
    if context is None:
        return 0.0
    if context.wait in (Wait.REPLY, Wait.BREAKER):
        return context.excused_seconds
    waited = max(0.0, (now - context.written_at).total_seconds())
    # However old a foreign header makes the wait: what is written next can be read again.
    return min(context.excused_seconds + waited, LONGEST_SECONDS)


class Again(Frozen):
    """Call again after so many seconds."""

    after: float


class Stopped(Frozen):
    """Back to the stop line: the account is refused, which is not the order's fault and no attempt of its own."""


class Done(Frozen):
    """The reply is the last word."""


DONE = Done()

NextStep = Again | Later | Stopped | Done
"""What follows a call: a closed set."""


def next_step(
    reply: Reply,
    calls: int,
    policy: RetryPolicy,
    jitter: float,
    *,
    now: datetime,
    deadline: datetime | None = None,
    context: RetryContext | None = None,
    excused: float = 0.0,
    in_budget: bool = True,
) -> NextStep:
    """Decide after a call.

    `calls` counts those since the record was taken in, this one included, stops not.
    After `deadline` (None: never) no call is made any more, and so none is waited for; `excused`
    seconds are in it already.
    Without retry topics a row that says `later` is retried within seconds, too: better than not at all.
    With them, what is not `in_budget` goes there at once instead.
    """
    if reply.then is Then.STOP:
        return Stopped()
    if reply.then is Then.FINAL:
        return DONE
    later_at_once = reply.then is Then.LATER or (reply.then is Then.NOW_THEN_LATER and not in_budget)
    if calls < policy.max_attempts_now and not (later_at_once and policy.delays):
        again = Again(policy.backoff(calls, jitter, reply.retry_after))
        if deadline is not None and now + timedelta(seconds=again.after) > deadline:
            return DONE
        return again
    if reply.then is Then.NOW or not policy.delays:
        return DONE
    later = policy.later(Wait.REPLY, now, context, excused=excused, retry_after=reply.retry_after)
    return DONE if deadline is not None and later.due_at > deadline else later
