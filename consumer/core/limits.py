"""How many calls at once the platform can take, found out from its answers. Performs no I/O; the caller passes the time.

After Gradient2 of Netflix' concurrency-limits (E. Matthews and others, 2018,
github.com/Netflix/concurrency-limits): the limit follows the ratio of the least latency to the
latency now, and grows by about its square root where there is no queue. Like Gradient2, and
unlike AIMD, it does not have to make calls fail in order to find the limit; and unlike Vegas
(Brakmo and Peterson, 1995), which counts queued calls from the single fastest answer, it works
on means, since one platform answers in 18 ms and in 3 s by turns. `python -m
tests.bench.capacity` runs all of them against a platform of hidden capacity.

Where it differs from Gradient2:

- The least latency is the least of the windows' means in the last half minute or so, not a slow
  average, which takes in our own queue and creeps upward with it.
- Now and then the limit dips to a half, so that our queue drains and the least latency is seen
  anew (BBR's ProbeRTT: Cardwell and others, 2016). All members dip at the same time by the clock
  on the wall: they share the platform's queue.
- Failures count as far as they are more than at the least: an order that the platform cannot do
  fails however few are under way, and a platform that sheds load fails none in a dip.
- A mean and a share of failures count as far as their standard errors allow: few calls decide little.
- A latency that stays where it was though the limit shrank to a third is no queue of ours: the
  platform has become slower, and is given what it had before.
- What of a latency may be this process's own delay (a reply lies there while it works on others, or waits for a core)
  is no queue at the platform, and nothing is taken from the limit for it.
- It grows faster from window to window, as long as no queue is seen at all.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

_STILL_AS_SLOW = 0.9
"""Of a latency before, below which it has fallen."""

_NO_LATENCY = 0.001
"""Seconds below which there is nothing to compare."""

_USED = 0.9
"""Of the limit, from which on calls in flight have tried it."""

_TURNS = 2.0
"""How often a reply waits as long as a timer: to be read, and then for the turn of the order that waits for it."""


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """How the limit moves.

    Attributes:
        first: where it begins.
        most: where it ends.
        tolerance: latency in terms of the least one, up to which nothing is taken for a queue.
        headroom: what it grows by, in square roots of itself.
        shrink: least factor of one step down.
        window_seconds, window_calls: a mean is taken over so long (and over a latency), and so many calls, at least.
        precision: standard error of a mean, in terms of it, that is good enough.
        patience_seconds: a window that is less precise ends after this, or two latencies.
        dip: factor of the limit while it dips.
        dip_windows: how long.
        dip_seconds, dip_latencies: how often: the first, doubled until it is the second.
        memory: dips after which a mean says nothing about the platform any more.

    """

    first: float = 4.0
    most: float = 256.0
    tolerance: float = 1.2
    headroom: float = 0.5
    shrink: float = 0.5
    window_seconds: float = 0.1
    window_calls: int = 10
    precision: float = 0.08
    patience_seconds: float = 1.0
    dip: float = 0.5
    dip_windows: int = 3
    dip_seconds: float = 10.0
    dip_latencies: float = 40.0
    memory: int = 3


class Lateness:
    """How long a reply lies in this process until it is looked at, as a timer that is set again and again tells.

    A reply cannot tell by itself: nobody knows when it arrived. Of a timer it is known when it was due.

    Attributes:
        seen: seconds that timers have told of, in all.
        waited: seconds that replies would have waited in all, had one come in each second of these.

    """

    __slots__ = ("seen", "waited")

    def __init__(self) -> None:
        self.waited = self.seen = 0.0

    def note(self, set_at: float, due: float, now: float) -> None:
        """A timer that was set at one time and due at another was looked at now."""
        late = max(0.0, now - due)
        # A reply that comes while the timer is late waits half of that on average; one that came before it was due, all of it at most.
        self.waited += late * (late / 2 + due - set_at)
        self.seen += late + due - set_at


class AdaptiveLimit:
    """Told of each call's end, it knows how many may be in flight.

    Attributes:
        limit: calls in flight, now.

    """

    def __init__(
        self,
        policy: LimitPolicy | None = None,
        *,
        now: float = 0.0,
        wall: float = 0.0,
        lateness: Lateness | None = None,
    ) -> None:
        """`wall` is what all members have in common: the clock on the wall, in seconds, at `now`."""
        self._policy = policy = policy or LimitPolicy()
        self._wall = wall - now
        self._lateness = lateness or Lateness()
        self._waited, self._seen = self._lateness.waited, self._lateness.seen
        self._limit = min(policy.first, policy.most)
        self.limit = int(self._limit)
        self._mean = self._error = self._own = 0.0
        self._latencies = _Least()
        self._failing = _Least()
        self._shrinking_from: tuple[float, float] | None = None
        self._unqueued = 0
        self._dipping = 0
        self._next_dip = self._dip_after(now)
        self._settling = True
        self._began = self._settled_at = self._ends_at = now
        self._calls = self._failures = self._peak = 0
        self._sum = self._squares = 0.0

    def ended(self, now: float, seconds: float, in_flight: int, *, failed: bool = False) -> None:
        """A call of so many seconds ended; there were so many in flight, it included. Failures say nothing of latency."""
        self.all_ended(now, [seconds], in_flight, failed=failed)

    def all_ended(
        self, now: float, seconds: Sequence[float], in_flight: int, *, failed: bool = False
    ) -> None:
        """Likewise of calls that ended together."""
        if self._settling:
            if now < self._settled_at:
                return
            # What was sent under the limit before tells of that one.
            seconds = [each for each in seconds if now - each >= self._began]
            if not seconds:
                return
            self._settling = False
            self._seen = self._lateness.seen
            self._ends_at = now + max(self._mean, self._policy.window_seconds)
        self._peak = max(self._peak, in_flight)
        if failed:
            self._failures += len(seconds)
        else:
            self._calls += len(seconds)
            self._sum += sum(seconds)
            self._squares += sum([each * each for each in seconds])
        if now >= self._ends_at and self._calls + self._failures >= self._policy.window_calls:
            self._end(now)

    def _begin(self, now: float) -> None:
        self._settling = True
        self._began = now
        self._waited = self._lateness.waited
        self._settled_at = now + self._mean
        self._ends_at = 0.0
        self._calls = self._failures = self._peak = 0
        self._sum = self._squares = 0.0

    def _end(self, now: float) -> None:
        """Look at a window, if it is one yet, and begin the next."""
        policy, calls = self._policy, self._calls
        if calls:
            mean = self._sum / calls
            error = sqrt(max(0.0, self._squares / calls - mean * mean) / calls)
            patient = now < self._began + max(policy.patience_seconds, 2 * mean)
            if error > policy.precision * mean and patient and self._failures < calls:
                return
            self._mean, self._error = mean, error
            self._own = self._own_delay()
            self._remember(now)
        excess = self._excess(now)
        if excess > 0:
            self._unqueued = 0
            self._limit *= max(policy.shrink, 1 - excess)
        elif calls and not self._dipping:
            self._follow()
        self._limit = min(max(self._limit, 1.0), policy.most)
        if self._dipping:
            self._dipping -= 1
        elif now >= self._next_dip and self._unqueued < 2:  # what grows fast has no queue to drain
            self._dipping = policy.dip_windows
            self._next_dip = self._dip_after(now)
        self.limit = max(1, int(self._limit * policy.dip if self._dipping else self._limit))
        self._begin(now)

    def _own_delay(self) -> float:
        """Seconds of the mean, as far as they may be this process's own."""
        seen = self._lateness.seen - self._seen
        return _TURNS * (self._lateness.waited - self._waited) / seen if seen > 0 else 0.0

    def _remember(self, now: float) -> None:
        """Note this mean among those of which the least counts."""
        policy, highest = self._policy, self._mean + self._error
        least = self._latencies.note(now, highest, self._memory())
        if self._mean <= policy.tolerance * least:
            self._shrinking_from = None
        elif self._shrinking_from is None:
            self._shrinking_from = (self.limit, self._mean)
        elif self.limit <= 0.3 * self._shrinking_from[0]:
            if self._mean > _STILL_AS_SLOW * self._shrinking_from[1]:
                self._latencies = _Least()
                self._latencies.note(now, highest, self._memory())
                self._shrinking_from = None
            else:
                self._shrinking_from = (self.limit, self._mean)

    def _follow(self) -> None:
        policy = self._policy
        latency = max(self._mean - self._error - self._own, _NO_LATENCY)
        ratio = policy.tolerance * max(self._latencies.value, _NO_LATENCY) / latency
        gradient = min(1.0, max(policy.shrink, ratio))
        grown = policy.headroom * sqrt(self._limit)
        if gradient == 1.0:
            grown = min(self._limit / 2, grown * 2**self._unqueued)
        else:
            self._unqueued = 0
        target = self._limit * gradient + grown
        if target > self._limit and self._peak < _USED * self.limit:
            return  # nobody tried what there is
        if gradient == 1.0:
            self._unqueued = min(self._unqueued + 1, 16)
        self._limit = target

    def _excess(self, now: float) -> float:
        """Share of calls that fail, more than at the least."""
        ends = self._calls + self._failures
        share = (self._failures + 1) / (ends + 2)  # of few calls, nothing is certain
        error = sqrt(share * (1 - share) / (ends + 2))
        return share - error - self._failing.note(now, share + error, self._memory())

    def _memory(self) -> float:
        return self._policy.memory * self._dips_every()

    def _dip_after(self, now: float) -> float:
        every = self._dips_every()
        return now + every - (now + self._wall) % every

    def _dips_every(self) -> float:
        every = self._policy.dip_seconds
        while every < self._policy.dip_latencies * self._mean:
            every *= 2
        return every


class _Least:
    """The least of what was noted lately.

    Attributes:
        value: as of the last note.

    """

    def __init__(self) -> None:
        self.value = 0.0
        self._noted: deque[tuple[float, float]] = deque()  # ascending: each the least from its time on

    def note(self, now: float, value: float, memory: float) -> float:
        """Another one -> the least, now."""
        noted = self._noted
        while noted and noted[-1][1] >= value:
            noted.pop()
        noted.append((now, value))
        while noted[0][0] < now - memory:
            noted.popleft()
        self.value = noted[0][1]
        return self.value
