"""Whether an account may call at all: the stop line. Performs no I/O; the caller passes the time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave to make one call.

    Attributes:
        epoch: which opening or closing of the line it was given under.
        probe: it is the one call that tries a closed line.

    """

    epoch: int
    probe: bool = False


class StopLine:
    """One account's stop line: closed by a `stop` reply, opened by any other answer.

    While it is closed one order at a time may probe: first after `probe_seconds`, then
    after twice as long each time, up to `probe_cap_seconds`. Times are seconds of any
    one monotonic clock.
    """

    def __init__(self, *, probe_seconds: float = 30.0, probe_cap_seconds: float = 300.0) -> None:
        self._first_interval = probe_seconds
        self._longest_interval = probe_cap_seconds
        self._epoch = 0
        self._closed = False
        self._interval = probe_seconds
        self._probe_at = 0.0
        self._probing = False

    @property
    def closed(self) -> bool:
        """True from a stop until another answer."""
        return self._closed

    @property
    def probing(self) -> bool:
        """True while a probe is under way."""
        return self._probing

    def stopped(self, now: float) -> bool:
        """True if no order may go now, not even to probe."""
        return self._closed and (self._probing or now < self._probe_at)

    def probe_in(self, now: float) -> float:
        """Seconds until the closed line lets a probe through, if none is under way."""
        return max(0.0, self._probe_at - now)

    def admit(self, now: float) -> Pass | None:
        """Leave to call, or None: wait."""
        if not self._closed:
            return Pass(self._epoch)
        if self.stopped(now):
            return None
        self._probing = True
        return Pass(self._epoch, probe=True)

    def holds(self, leave: Pass) -> bool:
        """True while the line stands as it stood when this leave was given."""
        return leave.epoch == self._epoch

    def stop(self, leave: Pass, now: float) -> bool:
        """A call came back with a `stop`. True if that closed the line.

        A call sent before the line last moved says nothing about how things stand now.
        """
        if not self.holds(leave):
            return False
        if self._closed:
            self._interval = min(self._interval * 2, self._longest_interval)
        else:
            self._closed, self._interval = True, self._first_interval
            self._epoch += 1
        self._wait_for_probe(now)
        return not leave.probe

    def answer(self) -> bool:
        """A call came back with any other answer. True if that opened the line."""
        opened, self._closed, self._probing = self._closed, False, False
        self._epoch += opened
        return opened

    def lost(self, leave: Pass, now: float) -> None:
        """A call ended without an answer: if it was the probe, the next one waits as long again."""
        if leave.probe and self.holds(leave):
            self._wait_for_probe(now)

    def _wait_for_probe(self, now: float) -> None:
        self._probing = False
        self._probe_at = now + self._interval
