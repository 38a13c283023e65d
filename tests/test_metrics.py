"""What the metrics count, and under which names."""

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry

from consumer.core.outcomes import Outcome
from consumer.core.replies import ReplyTable
from consumer.metrics import Metrics


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


def test_orders_are_counted_by_rule_account_and_lot(metrics: Metrics) -> None:
    use(metrics)
    metrics.count_order(Outcome.GRANTED, account="main", rule="night", lot="62626601")
    metrics.count_order(Outcome.SKIPPED, account=None, rule="night", lot=None)
    metrics.count_order(Outcome.UNMATCHED, account=None, rule=None, lot=None)

    by_rule, by_lot = "coupon_orders_by_rule_total", "coupon_orders_by_lot_total"
    assert value(metrics, by_rule, account="main", rule="night", outcome="granted") == 1
    assert value(metrics, by_rule, account="", rule="night", outcome="skipped") == 1
    assert value(metrics, by_lot, lot="62626601", outcome="granted") == 1
    assert (series(metrics, by_rule), series(metrics, by_lot)) == (2, 1)


def test_rules_and_lots_beyond_the_first_hundred_and_unknown_ones_share_a_name(metrics: Metrics) -> None:
    use(metrics, rules=(f"rule-{number}" for number in range(5000)), lots=(str(n) for n in range(20_000)))
    for number in range(5000):
        metrics.count_order(Outcome.GRANTED, account="main", rule=f"rule-{number}", lot=str(number))
    metrics.count_order(Outcome.GRANTED, account="gone", rule="gone", lot="of the event's own")

    by_rule, by_lot = "coupon_orders_by_rule_total", "coupon_orders_by_lot_total"
    assert value(metrics, by_rule, account="main", rule="rule-99", outcome="granted") == 1
    assert value(metrics, by_rule, account="main", rule="other", outcome="granted") == 4900
    assert value(metrics, by_rule, account="other", rule="other", outcome="granted") == 1
    assert value(metrics, by_lot, lot="other", outcome="granted") == 4901
    assert (series(metrics, by_rule), series(metrics, by_lot)) == (102, 101)


def test_names_of_rules_that_are_no_more_are_forgotten_and_others_go_on(metrics: Metrics) -> None:
    use(metrics)
    metrics.count_order(Outcome.GRANTED, account="main", rule="night", lot="62626601")
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
