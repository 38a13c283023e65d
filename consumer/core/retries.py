"""A reply and the attempts so far -> another attempt, a wait at the stop line, or the end. Performs no I/O."""

from dataclasses import dataclass

from consumer.core.replies import Reply, Then


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The bounds of retrying within seconds.

    Attributes:
        max_attempts_now: calls made for one order, the first among them.
        base_seconds: upper bound of the first wait; it doubles with each attempt.
        cap_seconds: the upper bound stops growing here.
        retry_after_cap_seconds: more than this is not waited, whatever Retry-After says.

    """

    max_attempts_now: int = 3
    base_seconds: float = 0.5
    cap_seconds: float = 10.0
    retry_after_cap_seconds: float = 30.0

    def backoff(self, attempt: int, jitter: float, retry_after: float | None = None) -> float:
        """Seconds to wait after the attempt-th call (from 1), with `jitter` from [0, 1): full jitter.

        Retry-After can only lengthen the wait, so that 0 does not turn into a busy loop.
        """
        bound = min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempt - 1, 64))
        return max(bound * jitter, min(retry_after or 0.0, self.retry_after_cap_seconds))


@dataclass(frozen=True, slots=True)
class Again:
    """Call again after so many seconds."""

    after: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """Back to the stop line: the account is refused, which is not the order's fault and no attempt of its own."""


@dataclass(frozen=True, slots=True)
class Done:
    """The reply is the last word."""


NextStep = Again | Stopped | Done
"""What follows a call: a closed set."""


def next_step(reply: Reply, attempts: int, policy: RetryPolicy, jitter: float) -> NextStep:
    """Decide after a call. `attempts` counts the calls so far, this one included, stops not.

    A row that says `later` is retried here too: until there are retry topics, a try
    within seconds is the only one that it gets.
    """
    if reply.then is Then.STOP:
        return Stopped()
    if reply.then is Then.FINAL or attempts >= policy.max_attempts_now:
        return Done()
    return Again(policy.backoff(attempts, jitter, reply.retry_after))
