"""Every metric, declared once, on an injected registry. Performs no I/O; `web` exposes them.

Prefix `coupon_`. Labels are closed sets or names from the loaded configuration,
capped, then `other`; never a plate, an order or a message.
"""

from bisect import bisect_left, bisect_right
from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.samples import Sample

from consumer.core.outcomes import Outcome, Reason
from consumer.core.replies import ReplyRow

NAMES = 100
"""Accounts, rules and lots that have a label value of their own: the first of each, as the rules have them."""

OTHER = "other"
"""Of all others."""

LATENCY_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
"""Seconds; the platform's published answers lie between 18 ms and 2.9 s."""

AGE_BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 7200, 21600, 86400)
"""Seconds from the end of charging to the outcome; the deadline is a day."""


DELAY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
"""Seconds."""


EndedOrder = tuple[Outcome, Reason | None, str, bool, str | None, str | None, str | None]
"""Its outcome and the reason, the last reply's label, whether it has a dead letter; its account, rule and lot."""


class Histogram(prometheus_client.Histogram):
    """One that only the event loop's thread observes, and so without locks."""

    _counts: list[int]
    _total: float

    def _metric_init(self) -> None:
        super()._metric_init()
        self._counts = [0] * len(self._buckets)
        self._total = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """One amount; exemplars are not kept."""
        assert exemplar is None, "there is no room for it"
        self._counts[bisect_left(self._upper_bounds, amount)] += 1
        self._total += amount

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Many of them: in order, so that each bound is looked for among them, and not each of them among the bounds."""
        ordered, counts, below = sorted(amounts), self._counts, 0
        for place, bound in enumerate(self._upper_bounds):
            if below == len(ordered):
                break
            upto = bisect_right(ordered, bound, below)
            counts[place] += upto - below
            below = upto
        self._total += sum(amounts)

    def _child_samples(self) -> Iterable[Sample]:
        for bucket, count in zip(self._buckets, self._counts, strict=True):
            bucket.set(count)
        self._sum.set(self._total)
        return super()._child_samples()


class Metrics:
    """All metrics of one service instance.

    Attributes are named like the metrics, without prefix and suffix. `labels()` is
    called by the rooms, which keep the children of hot paths.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        self.build = Gauge(
            "coupon_build_info",
            "Always 1; the labels say what runs.",
            ["version", "python"],
            registry=registry,
        )
        self.rules = Gauge(
            "coupon_rules_info", "1 for the rules in force, by hash.", ["hash"], registry=registry
        )

        self.rules_reloads = Counter(
            "coupon_rules_reloads",
            "Changed rules files by what came of them: loaded or refused.",
            ["result"],
            registry=registry,
        )
        self.rules_refused = Gauge(
            "coupon_rules_refused",
            "1 while the rules files as they are now were refused, and older rules are in force.",
            registry=registry,
        )

        self.secrets_reloads = Counter(
            "coupon_secrets_reloads",
            "Secrets whose file changed, by what came of it: loaded, or kept as it was. Certificates that are kept count, too.",
            ["result"],
            registry=registry,
        )
        self.credentials_kept = Gauge(
            "coupon_credentials_kept",
            "Secrets, and ways to Kafka or the platform, whose files now are of no use: those of before are kept.",
            registry=registry,
        )

        self.records = Counter(
            "coupon_records", "Records taken in from the events topics.", ["topic"], registry=registry
        )
        self.requests = Counter(
            "coupon_requests",
            "HTTP calls to the platform by response code; unlisted codes are `other`.",
            ["account", "code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "coupon_request_duration_seconds",
            "Duration of one HTTP call.",
            ["account"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge("coupon_requests_in_flight", "HTTP calls under way.", registry=registry)
        self.flow_waiting = Gauge(
            "coupon_flow_waiting",
            "Orders that wait to call the platform, by what holds them back.",
            ["reason"],
            registry=registry,
        )
        self.breaker_state = Gauge(
            "coupon_breaker_state",
            "The account's circuit breaker: 0 closed, 1 closing, 2 a probe is under way, 3 open.",
            ["account"],
            registry=registry,
        )
        self.breaker_opened = Counter(
            "coupon_breaker_opened",
            "Times that the account's circuit breaker opened, by why: `stop` or `failures`.",
            ["account", "why"],
            registry=registry,
        )
        self.concurrency_limit = Gauge(
            "coupon_concurrency_limit",
            "Calls under way at once that the platform seems to take without a queue.",
            ["account"],
            registry=registry,
        )
        self.fleet_share = Gauge(
            "coupon_fleet_share",
            "This member's part of the fleet's rate and cap in flight, from 0 to 1.",
            registry=registry,
        )
        self.retries = Counter(
            "coupon_retries",
            "Calls made again within seconds, by the code of the call before.",
            ["code"],
            registry=registry,
        )
        self.retry_budget_used_up = Counter(
            "coupon_retry_budget_used_up",
            "Failed calls that found the budget of calls made again within seconds used up.",
            registry=registry,
        )
        self.retries_later = Counter(
            "coupon_retries_later",
            "Orders written to a retry topic, by what they wait for and the code of the last call, once committed.",
            ["topic", "waits_for", "code"],
            registry=registry,
        )
        self.outcomes = Counter(
            "coupon_outcomes",
            "Orders by outcome, reason and last response code, counted once committed.",
            ["outcome", "reason", "code"],
            registry=registry,
        )
        self.orders_by_rule = Counter(
            "coupon_orders_by_rule",
            "Orders that a rule decided on, once committed; accounts and rules after the first 100 are `other`.",
            ["account", "rule", "outcome"],
            registry=registry,
        )
        self.orders_by_lot = Counter(
            "coupon_orders_by_lot",
            "Orders with a request, by its `api_store_code`, once committed; lots after the first 100 are `other`.",
            ["lot", "outcome"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "coupon_dead_letters",
            "Dead letters by outcome and reason, counted once committed.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.record_seconds = Histogram(
            "coupon_record_duration_seconds",
            "From taking a record in to its committed outcome.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.event_age_seconds = Histogram(
            "coupon_event_age_seconds",
            "From the end of charging to the committed outcome.",
            buckets=AGE_BUCKETS,
            registry=registry,
        )
        self.config_alarm = Gauge(
            "coupon_config_alarm",
            "1 while the platform refuses an account (401, 403, redirect, bad signature).",
            ["account"],
            registry=registry,
        )

        self.unreadable_alarm = Gauge(
            "coupon_unreadable_alarm",
            "1 while a topic is paused because nothing in it can be read.",
            ["topic"],
            registry=registry,
        )

        self.lag = Gauge(
            "coupon_partition_lag",
            "Records between the committed offset and the log's end, per owned partition.",
            ["topic", "partition"],
            registry=registry,
        )
        self.admissible = Gauge(
            "coupon_partition_admissible_records",
            "Records of an events topic that more members could help with: none while the platform, Kafka or the "
            "rules are what holds them up.",
            ["topic", "partition"],
            registry=registry,
        )
        self.frontier = Gauge(
            "coupon_partition_frontier_offset",
            "Lowest offset not done: the one committed, per owned partition.",
            ["topic", "partition"],
            registry=registry,
        )
        self.commit_gap = Gauge(
            "coupon_partition_commit_gap",
            "Offsets from the lowest not done to the furthest taken in, per owned partition.",
            ["topic", "partition"],
            registry=registry,
        )
        self.map_bytes = Gauge(
            "coupon_partition_offset_map_bytes",
            "Size of the committed offset map, at most 4096, per owned partition.",
            ["topic", "partition"],
            registry=registry,
        )
        self.retry_overdue = Gauge(
            "coupon_retry_overdue_seconds",
            "How long ago the oldest order known of in a retry topic's partition was due, while it is not done.",
            ["topic", "partition"],
            registry=registry,
        )
        self.assigned = Gauge("coupon_assigned_partitions", "Partitions owned.", registry=registry)
        self.assignments = Counter(
            "coupon_assignments", "Assignments received from the group.", registry=registry
        )
        self.maps_ignored = Counter(
            "coupon_offset_maps_ignored",
            "Offset maps found and not used, by why.",
            ["why"],
            registry=registry,
        )
        self.offsets_gone = Counter(
            "coupon_offsets_gone",
            "Partitions taken over without an offset though a member was there before: deleted, or expired.",
            registry=registry,
        )
        self.log_losses = Counter(
            "coupon_log_losses",
            "Times that a partition's log had lost what was or was to be read: its end was cut off, or records deleted before they were read.",
            ["why"],
            registry=registry,
        )
        self.late_completions = Counter(
            "coupon_late_completions",
            "Records that ended after their assignment had, and were dropped; their next owner does them.",
            registry=registry,
        )
        self.last_poll = Gauge(
            "coupon_last_poll_timestamp_seconds",
            "When Kafka was last polled, seconds since the epoch.",
            registry=registry,
        )

        self.loop_delay = Histogram(
            "coupon_event_loop_delay_seconds",
            "How late the event loop came back to a timer: for so long everything stood still.",
            buckets=DELAY_BUCKETS,
            registry=registry,
        )

        self.waiting = Gauge(
            "coupon_records_waiting", "Records taken in and not yet committed.", registry=registry
        )
        self.waiting_bytes = Gauge("coupon_records_waiting_bytes", "Their bytes.", registry=registry)
        self.paused = Gauge(
            "coupon_intake_paused", "1 while intake is paused, by reason.", ["reason"], registry=registry
        )
        self.backpressure_seconds = Counter(
            "coupon_backpressure_seconds",
            "Seconds for which intake was paused, by reason.",
            ["reason"],
            registry=registry,
        )

        self.spans = Counter(
            "coupon_spans",
            "Spans of traces by what became of them: sent to the collector, or dropped.",
            ["result"],
            registry=registry,
        )

        self.transactions = Counter(
            "coupon_transactions", "Kafka transactions by how they ended.", ["result"], registry=registry
        )
        self.transaction_seconds = Histogram(
            "coupon_transaction_duration_seconds",
            "Duration of one Kafka transaction.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._names: tuple[frozenset[str], ...] = (frozenset(),) * 3
        self._by_kind, self._by_rule, self._by_lot = (
            cache(each.labels) for each in (self.outcomes, self.orders_by_rule, self.orders_by_lot)
        )

    def use_rules(
        self,
        rules_hash: str,
        *,
        accounts: Iterable[str],
        rules: Iterable[str],
        lots: Iterable[str],
        replies: Mapping[str, ReplyRow],
    ) -> None:
        """The rules in force, with the names that may be label values.

        What can be counted under them begins at 0: of a counter that begins at 1, nobody sees the increase.
        """
        self.rules.clear()
        self.rules.labels(rules_hash).set(1)
        names = tuple(frozenset(islice(dict.fromkeys(each), NAMES)) for each in (accounts, rules, lots))
        if names != self._names:
            self._names = names
            self.orders_by_rule.clear()
            self.orders_by_lot.clear()
            self._by_rule.cache_clear()
            self._by_lot.cache_clear()
        for result in ("sent", "dropped"):
            self.spans.labels(result)
        for code, row in replies.items():
            self.outcomes.labels(row.outcome, "", code)
            if row.dead_letter:
                self.dead_letters.labels(row.outcome, "")
        for reason in Reason:
            self.dead_letters.labels(Outcome.INVALID, reason)

    def totals(self) -> dict[str, Counts[str]]:
        """Counted so far, for people: by the one label that says most, under the names that the status page has."""
        return {
            "records": _summed(self.records, "topic"),
            "replies": _summed(self.requests, "code"),
            "outcomes": _summed(self.outcomes, "outcome"),
            "retries": _summed(self.retries_later, "topic"),
            "dead_letters": _summed(self.dead_letters, "outcome"),
            "transactions": _summed(self.transactions, "result"),
        }

    def count_orders(self, orders: Iterable[EndedOrder]) -> None:
        """Orders that ended, once that is committed. Of many, most are alike, and each counter is moved once."""
        accounts, rules, lots = self._names
        alike = Counts(
            [
                (outcome, reason, code, dead, account, rule, lot if lot in lots or lot is None else OTHER)
                for outcome, reason, code, dead, account, rule, lot in orders
            ]
        )
        kinds, by_rule, by_lot = (Counts[tuple[str, ...]]() for _ in range(3))
        for (outcome, reason, code, dead, account, rule, lot), count in alike.items():
            kinds[outcome, reason or "", code] += count
            if dead:
                self.dead_letters.labels(outcome, reason or "").inc(count)
            if rule is not None:
                payer = "" if account is None else account if account in accounts else OTHER
                by_rule[payer, rule if rule in rules else OTHER, outcome] += count
            if lot is not None:
                by_lot[lot, outcome] += count
        for counts, child in (kinds, self._by_kind), (by_rule, self._by_rule), (by_lot, self._by_lot):
            for labels, count in counts.items():
                child(*labels).inc(count)


def _summed(counter: Counter, label: str) -> Counts[str]:
    sums: Counts[str] = Counts()
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                sums[sample.labels[label]] += int(sample.value)
    return sums
