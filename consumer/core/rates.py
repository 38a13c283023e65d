"""How many calls a second, and which share of them is this member's. Performs no I/O; the caller passes the time.

The fleet's rate and cap in flight need no shared store: each partition of the events
topics carries its part of both, and a member has those of the partitions that it owns.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BURST_SECONDS = 0.25
"""What a bucket holds at most, in seconds of its rate: late timers are made up for, and no storm is saved up."""

WAITING_ONLY = 0.01
"""Share of a member that owns partitions of retry topics only: what waits there has to end, and is little."""


@dataclass(frozen=True, slots=True)
class Share:
    """A member's part of what the fleet may do.

    Attributes:
        of_rate: from 0 to 1.
        places: the partitions that it owns, counted from 0 through all the topics.
        total: partitions of all the topics; 0 where nothing is divided: all is this member's.

    """

    of_rate: float = 1.0
    places: tuple[int, ...] = ()
    total: int = 0

    @classmethod
    def of(
        cls, owned: Iterable[tuple[str, int]], partitions: Mapping[str, int], *, waiting: bool = False
    ) -> "Share":
        """By partitions owned (topic, partition) and how many each events topic has.

        `waiting` says that partitions of retry topics are owned, too.
        """
        first, places = 0, []
        mine = set(owned)
        for topic in sorted(partitions):
            places += [first + number for number in range(partitions[topic]) if (topic, number) in mine]
            first += partitions[topic]
        if not places:
            return cls(WAITING_ONLY if waiting else 0.0, (), max(first, 1))
        return cls(len(places) / first, tuple(places), first)

    def rate(self, fleet: float) -> float:
        """Calls a second."""
        return fleet * self.of_rate

    def in_flight(self, fleet: int) -> int:
        """Calls at once: whole ones, and all members' together are the fleet's.

        One at least for whoever may call at all, so that no partition stands still: a cap
        below the number of partitions can therefore be exceeded.
        """
        if not self.total:
            return fleet
        parts = sum((place + 1) * fleet // self.total - place * fleet // self.total for place in self.places)
        return max(parts, 1) if self.of_rate else 0


class TokenBucket:
    """So many a second, evenly. A rate of 0 lets nothing through."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = 0.0
        self._at = now

    def set_rate(self, rate: float, now: float) -> None:
        """Another rate from now on. Nothing saved up is taken along: another member may have used it."""
        if rate != self.rate:
            self.rate, self._tokens, self._at = rate, 0.0, now

    def wait(self, now: float) -> float:
        """Seconds until `take` may be called; 0: at once."""
        self._tokens = min(max(1.0, self.rate * BURST_SECONDS), self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens >= _ALMOST_ONE:
            return 0.0
        return (1.0 - self._tokens) / self.rate if self.rate else float("inf")

    def take(self) -> None:
        """Use one."""
        self._tokens -= 1.0


_ALMOST_ONE = 1.0 - 1e-9
"""Else a caller who comes back exactly on time would find a rounding error's worth too little."""
