"""The service's metrics as figures for people: rates, latencies, sums over labels."""

import pytest
from prometheus_client import CollectorRegistry

from consumer.metrics import Metrics
from consumer.sandbox.figures import WINDOW_SECONDS, Reading, Window, quantile, read


def _metrics() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.outcomes.labels("granted", "", "1001").inc(3)
    metrics.outcomes.labels("skipped", "no_plate", "").inc()
    metrics.requests.labels("main", "1001").inc(2)
    metrics.requests.labels("other", "1001").inc(1)
    metrics.requests.labels("main", "503").inc(4)
    metrics.retries.labels("503").inc(4)
    metrics.dead_letters.labels("invalid", "not_json").inc()
    metrics.in_flight.set(5)
    return metrics


def test_metrics_are_summed_over_their_labels() -> None:
    reading = read(_metrics(), 10.0)

    assert (reading.at, reading.orders, reading.repeated, reading.dead_letters) == (10.0, 4, 4, 1)
    assert reading.in_flight == 5
    assert reading.replies == {"1001": 3, "503": 4}


def _reading(at: float, orders: int) -> Reading:
    return Reading(at, orders, {}, (), 0, 0, 0)


def test_the_rate_is_that_of_the_last_seconds_only() -> None:
    window = Window(_reading(0.0, 0))
    assert window.rate == 0

    for second in range(1, 21):
        window.add(_reading(float(second), 10 * second if second <= 10 else 100))

    assert window.last.at == 20.0
    assert window.rate == 0
    window.add(_reading(21.0, 100 + 5 * int(WINDOW_SECONDS)))
    assert window.rate == 5.0


def test_latency_is_that_of_the_calls_within_the_window() -> None:
    metrics = Metrics(CollectorRegistry())
    calls = metrics.request_seconds.labels("main")
    for _ in range(100):
        calls.observe(2.5)
    window = Window(read(metrics, 0.0))
    assert window.latency(0.5) is None

    for _ in range(100):
        calls.observe(0.06)
    window.add(read(metrics, 1.0))

    assert window.latency(0.5) == pytest.approx(0.075)
    assert window.latency(0.99) == pytest.approx(0.0995)


def test_calls_beyond_the_last_bound_count_as_that_bound() -> None:
    assert quantile((), ((1.0, 0.0), (float("inf"), 3.0)), 0.5) == 1.0
    assert quantile((), (), 0.5) is None
