"""The service's own metrics -> figures for people: rate, latency, what was replied. Reads a registry, performs no I/O."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.samples import Sample

from consumer.metrics import Metrics

WINDOW_SECONDS = 5.0
"""What "now" means for a rate or a latency."""

Buckets = tuple[tuple[float, float], ...]
"""A histogram: upper bound and how many were below it, ascending."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics at one moment.

    Attributes:
        at: seconds on a clock that only goes on.
        orders: with a committed outcome.
        replies: calls by the code of their reply.
        calls: durations of calls.
        repeated: calls after the first for the same order.

    """

    at: float
    orders: int
    replies: Mapping[str, int]
    calls: Buckets
    repeated: int
    dead_letters: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it went, where nothing held it up on purpose.

    Attributes:
        orders: that were worked off in so many seconds, from the first call to the last outcome.
        cpu_us: microseconds of CPU time that the service itself took for each of them.
        p50, p99: seconds that half, and 99 of 100, of the calls took at most, as the service saw it.
        platform: mean seconds of these that were the platform's own.

    """

    orders: int
    seconds: float
    cpu_us: float
    p50: float
    p99: float
    platform: float


def read(metrics: Metrics, at: float) -> Reading:
    """What they say now."""
    return Reading(
        at=at,
        orders=int(_sum(metrics.outcomes)),
        replies=_by(metrics.requests, "code"),
        calls=_buckets(metrics.request_seconds),
        repeated=int(_sum(metrics.retries)),
        dead_letters=int(_sum(metrics.dead_letters)),
        in_flight=int(_sum(metrics.in_flight)),
    )


class Window:
    """The readings of the last seconds."""

    def __init__(self, first: Reading) -> None:
        self._readings = deque([first])

    def add(self, reading: Reading) -> None:
        """Goes on to this one; what is too old is forgotten."""
        self._readings.append(reading)
        while len(self._readings) > 2 and reading.at - self._readings[1].at >= WINDOW_SECONDS:
            self._readings.popleft()

    @property
    def last(self) -> Reading:
        """The latest of them."""
        return self._readings[-1]

    @property
    def rate(self) -> float:
        """Orders a second."""
        first, last = self._readings[0], self._readings[-1]
        return (last.orders - first.orders) / (last.at - first.at) if last.at > first.at else 0.0

    def latency(self, share: float) -> float | None:
        """Seconds that this share of the calls took at most."""
        return quantile(self._readings[0].calls, self._readings[-1].calls, share)


def quantile(before: Buckets, after: Buckets, share: float) -> float | None:
    """As Prometheus does it: linear within the bucket. None without calls in between."""
    earlier = dict(before)
    counts = [(bound, count - earlier.get(bound, 0.0)) for bound, count in after]
    if not counts or counts[-1][1] <= 0:
        return None
    rank = share * counts[-1][1]
    below, lower = 0.0, 0.0
    for bound, count in counts:
        if count >= rank and count > below:
            # Beyond the last bound nothing is known but that.
            return (
                lower
                if bound == float("inf")
                else lower + (bound - lower) * max(0.0, rank - below) / (count - below)
            )
        below, lower = count, bound
    return lower


def _samples(metric: Counter | Gauge | Histogram) -> Sequence[Sample]:
    return [
        sample
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


def _sum(metric: Counter | Gauge) -> float:
    return sum(sample.value for sample in _samples(metric))


def _by(metric: Counter, label: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for sample in _samples(metric):
        name = sample.labels[label]
        counts[name] = counts.get(name, 0) + int(sample.value)
    return counts


def _buckets(metric: Histogram) -> Buckets:
    """Over all labels."""
    counts: dict[float, float] = {}
    for sample in _samples(metric):
        if sample.name.endswith("_bucket"):
            bound = float(sample.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + sample.value
    return tuple(sorted(counts.items()))
