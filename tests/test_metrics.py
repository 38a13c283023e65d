"""What the metrics count, and under which names."""

from collections.abc import Iterable

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from consumer.core.outcomes import Outcome, Reason
from consumer.core.replies import ReplyTable
from consumer.metrics import AGE_BUCKETS, EndedOrder, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def use(
    metrics: Metrics,
    *,
    rules: Iterable[str] = ("night",),
    lots: Iterable[str] = ("62626601",),
    text: str = "a",
) -> None:
    replies = ReplyTable.defaults().rows
    metrics.use_rules(text, accounts=["main"], rules=rules, lots=lots, replies=replies)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def series(metrics: Metrics, name: str) -> int:
    return sum(sample.name == name for family in metrics.registry.collect() for sample in family.samples)


def ended(outcome: Outcome, account: str | None, rule: str | None, lot: str | None) -> EndedOrder:
    return outcome, None, "1001" if lot else "", False, account, rule, lot


def test_orders_are_counted_by_outcome_reason_and_reply_and_with_a_dead_letter_once_more(
    metrics: Metrics,
) -> None:
    metrics.count_orders(
        [
            ended(Outcome.GRANTED, "main", "night", "62626601"),
            ended(Outcome.GRANTED, "main", "day", "62626602"),
            (Outcome.INVALID, Reason.SCHEMA, "", True, None, None, None),
        ]
    )

    assert value(metrics, "coupon_outcomes_total", outcome="granted", reason="", code="1001") == 2
    assert value(metrics, "coupon_outcomes_total", outcome="invalid", reason="schema", code="") == 1
    assert series(metrics, "coupon_outcomes_total") == 2
    assert value(metrics, "coupon_dead_letters_total", outcome="invalid", reason="schema") == 1
    assert series(metrics, "coupon_dead_letters_total") == 1


def test_orders_are_counted_by_rule_account_and_lot(metrics: Metrics) -> None:
    use(metrics)
    metrics.count_orders(
        [
            ended(Outcome.GRANTED, "main", "night", "62626601"),
            ended(Outcome.SKIPPED, None, "night", None),
            ended(Outcome.UNMATCHED, None, None, None),
            ended(Outcome.GRANTED, "main", "night", None),
        ]
    )

    by_rule, by_lot = "coupon_orders_by_rule_total", "coupon_orders_by_lot_total"
    assert value(metrics, by_rule, account="main", rule="night", outcome="granted") == 2
    assert value(metrics, by_rule, account="", rule="night", outcome="skipped") == 1
    assert value(metrics, by_lot, lot="62626601", outcome="granted") == 1
    assert (series(metrics, by_rule), series(metrics, by_lot)) == (2, 1)


def test_rules_and_lots_beyond_the_first_hundred_and_unknown_ones_share_a_name(metrics: Metrics) -> None:
    use(metrics, rules=(f"rule-{number}" for number in range(5000)), lots=(str(n) for n in range(20_000)))
    metrics.count_orders(
        ended(Outcome.GRANTED, "main", f"rule-{number}", str(number)) for number in range(5000)
    )
    metrics.count_orders([ended(Outcome.GRANTED, "gone", "gone", "of the event's own")])

    by_rule, by_lot = "coupon_orders_by_rule_total", "coupon_orders_by_lot_total"
    assert value(metrics, by_rule, account="main", rule="rule-99", outcome="granted") == 1
    assert value(metrics, by_rule, account="main", rule="other", outcome="granted") == 4900
    assert value(metrics, by_rule, account="other", rule="other", outcome="granted") == 1
    assert value(metrics, by_lot, lot="other", outcome="granted") == 4901
    assert (series(metrics, by_rule), series(metrics, by_lot)) == (102, 101)


def test_names_of_rules_that_are_no_more_are_forgotten_and_others_go_on(metrics: Metrics) -> None:
    use(metrics)
    metrics.count_orders([ended(Outcome.GRANTED, "main", "night", "62626601")])
    use(metrics, text="b")
    labels = {"account": "main", "rule": "night", "outcome": "granted"}
    assert value(metrics, "coupon_orders_by_rule_total", **labels) == 1

    use(metrics, rules=["day"], text="c")
    assert series(metrics, "coupon_orders_by_rule_total") == 0
    assert value(metrics, "coupon_rules_info", hash="c") == 1
    assert series(metrics, "coupon_rules_info") == 1


def test_what_alerts_ask_for_begins_at_0_so_that_the_first_one_is_an_increase(metrics: Metrics) -> None:
    use(metrics)

    for name, labels in [
        ("coupon_outcomes_total", {"outcome": "not_configured", "reason": "", "code": "1401"}),
        ("coupon_outcomes_total", {"outcome": "granted", "reason": "", "code": "1001"}),
        ("coupon_dead_letters_total", {"outcome": "platform_failed", "reason": ""}),
        ("coupon_dead_letters_total", {"outcome": "invalid", "reason": "not_json"}),
        ("coupon_offsets_gone_total", {}),
    ]:
        assert value(metrics, name, **labels) == 0


@given(st.lists(st.lists(st.sampled_from(AGE_BUCKETS) | st.floats(0, 100_000))))
def test_observations_alone_or_many_at_once_are_what_prometheus_own_histogram_makes_of_them(
    flushes: list[list[float]],
) -> None:
    metrics = Metrics(CollectorRegistry())
    ours = metrics.event_age_seconds
    theirs = prometheus_client.Histogram(
        "coupon_event_age_seconds", "", buckets=AGE_BUCKETS, registry=CollectorRegistry()
    )
    for seconds in flushes:
        if len(seconds) == 1:
            ours.observe(seconds[0])
        else:
            ours.observe_all(seconds)
        for each in seconds:
            theirs.observe(each)
        assert _samples(ours) == pytest.approx(_samples(theirs))


def _samples(histogram: prometheus_client.Histogram) -> dict[str, float]:
    (family,) = histogram.collect()
    return {
        f"{each.name} {each.labels}": each.value
        for each in family.samples
        if not each.name.endswith("_created")
    }
