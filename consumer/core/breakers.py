"""Whether an account may call its endpoint at all: a circuit breaker. Performs no I/O; the caller passes the time.

Times are seconds of any one monotonic clock.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Of a breaker, in the usual words: an open one lets nothing through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    """A probe is under way."""

    CLOSING = "closing"
    """A probe was answered well: a few calls at once, and more with each that is."""


class Why(StrEnum):
    """What opened it."""

    STOP = "stop"
    """The platform refuses the account (401, 403, a redirect): people have to mend that."""

    FAILURES = "failures"
    """The platform is in trouble (no answer, 5xx, 429, 1500): time mends that."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When it opens, how it probes and how it closes.

    Attributes:
        window_seconds: calls that ended longer ago count no more.
        window_calls: at most so many of the latest count, so that the good answers of a minute ago, at
            a thousand a second, do not hide that there are none now.
        least_calls: with fewer it does not open; `least_closing` while it closes.
        failure_share: share of failures among them that opens it.
        probe_seconds, probe_cap_seconds: the first time between two probes after failures, which doubles, and
            its end: so soon after the platform's return it is noticed.
        retry_after_cap_seconds: a longer wait, for which the platform asks, is cut.
        stop_seconds, stop_cap_seconds: the same after a stop.
        first_allowance: calls in flight when it begins to close.
        growth: what each good answer then adds to them; a failure takes twice as much.
        closed_at: allowance at which it is closed.

    """

    window_seconds: float = 30.0
    window_calls: int = 100
    least_calls: int = 20
    least_closing: int = 5
    failure_share: float = 0.5
    probe_seconds: float = 1.0
    probe_cap_seconds: float = 4.0
    retry_after_cap_seconds: float = 30.0
    stop_seconds: float = 30.0
    stop_cap_seconds: float = 300.0
    first_allowance: float = 1.0
    growth: float = 0.25
    closed_at: float = 32.0


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave to make one call.

    Attributes:
        epoch: which opening or closing of the breaker it was given under.
        probe: it is the one call that tries an open breaker.

    """

    epoch: int
    probe: bool = False


class Breaker:
    """One account's at its endpoint. Each pass comes back once: by `stop`, `fail`, `succeed` or `lost`.

    A stop opens it at once, failures do when they are the greater part of the latest calls.
    Then one real call at a time probes, after waits that grow; what it hears decides. A
    platform that had trouble is given calls a few at a time, and all of them when it has
    answered those; an account that was merely refused goes on as before.

    Attributes:
        state: as it stands.
        shut: it is not closed, and has to be asked; else `admit` would give `leave`.
        calm: it is closed, and no failure is remembered: `succeed` would do nothing.
        why: what opened it; None while it is closed.
        leave: the one of a closed breaker.
        stopped_before: seconds that the account was refused, all in all, before it was the last time.

    """

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self.state = State.CLOSED
        self.shut = False
        self.calm = True
        self.why: Why | None = None
        self.leave = Pass(0)
        self._ends: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._wait = 0.0
        self._probe_at = 0.0
        self._probe_began = 0.0
        self._allowance = 0.0
        self._out = 0
        self._stopped_since = 0.0
        self.stopped_before = 0.0

    # -- May I? -------------------------------------------------------------------------------------

    def ready(self, now: float) -> bool:
        """True if `admit` may be called."""
        if self.state is State.OPEN:
            return now >= self._probe_at
        return not self.shut or (self.state is State.CLOSING and self._out < int(self._allowance))

    def admit(self, now: float) -> Pass:
        """Leave to call, where it is `ready`."""
        if not self.shut:
            return self.leave
        assert self.ready(now), "ask first whether it is ready"
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN
            self._probe_began = now
            return Pass(self.leave.epoch, probe=True)
        self._out += 1
        return self.leave

    def probe_in(self, now: float) -> float:
        """Seconds until an open one lets a probe through; infinite where the end of a call decides."""
        return max(0.0, self._probe_at - now) if self.state is State.OPEN else float("inf")

    def stopped_seconds(self, now: float) -> float:
        """For how long, all in all, the account has been refused."""
        return self.stopped_before + (now - self._stopped_since if self.why is Why.STOP else 0.0)

    # -- How a call ended ---------------------------------------------------------------------------

    def stop(self, leave: Pass, now: float) -> bool:
        """The account was refused. True if that opened it, or is a new reason for which it is open."""
        if not self._holds(leave):
            return False  # a call sent before it last moved says nothing about how things stand now
        policy = self._policy
        known = self.why is Why.STOP
        self._wait = min(self._wait * 2, policy.stop_cap_seconds) if known else policy.stop_seconds
        if not known:
            self._stopped_since = now
        self._open(Why.STOP, now)
        return not known

    def fail(self, leave: Pass, now: float, retry_after: float = 0.0) -> bool:
        """The platform was in trouble; it may have said for how long. True if that opened it."""
        if not self._holds(leave):
            return False
        policy = self._policy
        if self.why is Why.STOP:
            self._open(Why.STOP, now)  # it does not say whether the account is still refused
            return False
        self._note(now, failed=True)
        calls, share = len(self._ends), self._failed / len(self._ends)
        if self.state is State.CLOSED:
            if calls < policy.least_calls or share < policy.failure_share:
                return False
            self._wait = policy.probe_seconds
        elif self.state is State.CLOSING:
            self._out -= 1
            # Some orders fail whatever the platform does: it closes all the same, only later.
            self._allowance = max(policy.first_allowance, self._allowance - 2 * policy.growth)
            if calls < policy.least_closing or share < policy.failure_share:
                return False
            self._wait = min(self._wait * 2, policy.probe_cap_seconds)
        else:
            self._wait = min(self._wait * 2, policy.probe_cap_seconds)
        opened = self.state is State.CLOSED
        self._open(Why.FAILURES, now, min(retry_after, policy.retry_after_cap_seconds))
        return opened

    def succeed(self, leave: Pass, now: float) -> bool:
        """The platform answered this account. True if it was open for that."""
        if self.calm:
            return False  # as nearly always; good answers count from the first failure on
        if self.why is Why.STOP:
            # Whenever it was sent: an account that is answered is not refused.
            self._close(now)
            return True
        if not self._holds(leave):
            return False
        self._note(now, failed=False)
        if self.state is State.CLOSED:
            return False
        if self.state is State.HALF_OPEN:
            self.state = State.CLOSING
            self._allowance, self._out = self._policy.first_allowance, 0
            self._move()
            return True
        self._out -= 1
        self._allowance += self._policy.growth
        if self._allowance >= self._policy.closed_at:
            self._close(now)
        return False

    def lost(self, leave: Pass, now: float) -> None:
        """Nobody knows how the call ended: if it was the probe, the next one waits as long again."""
        if not self._holds(leave):
            return
        if self.state is State.HALF_OPEN:
            self._open(self.why or Why.FAILURES, now)
        elif self.state is State.CLOSING:
            self._out -= 1

    def probe_now(self, now: float) -> None:
        """Something was changed (a secret, the endpoint): an open one need not wait with its next probe."""
        if self.state is State.OPEN:
            self._probe_at = now

    # -- Moving -------------------------------------------------------------------------------------

    def _holds(self, leave: Pass) -> bool:
        return leave.epoch == self.leave.epoch

    def _note(self, now: float, *, failed: bool) -> None:
        ends = self._ends
        ends.append((now, failed))
        self._failed += failed
        while len(ends) > self._policy.window_calls or ends[0][0] < now - self._policy.window_seconds:
            self._failed -= ends.popleft()[1]
        self.calm = not self._failed and self.state is State.CLOSED
        if self.calm:
            ends.clear()

    def _open(self, why: Why, now: float, at_least: float = 0.0) -> None:
        # The time that a probe took, if nobody answered, is waiting enough.
        since = self._probe_began if self.state is State.HALF_OPEN and why is Why.FAILURES else now
        self.state, self.shut, self.calm, self.why = State.OPEN, True, False, why
        self._probe_at = max(since + self._wait, now + at_least)
        self._move()

    def _close(self, now: float) -> None:
        if self.why is Why.STOP:
            self.stopped_before += now - self._stopped_since
        self.state, self.shut, self.calm, self.why = State.CLOSED, False, True, None
        self._move()

    def _move(self) -> None:
        """What was given or heard until now counts no more."""
        self.leave = Pass(self.leave.epoch + 1)
        self._ends.clear()
        self._failed = 0
