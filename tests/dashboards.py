"""Grafana's dashboards as typed code; `python -m tests.dashboards` writes their JSON into the chart. Writes files.

They want nothing of a Grafana but a Prometheus to choose, and of a Prometheus nothing but the service's metrics
under the label `job`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models.common import BigValueColorMode, DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parents[1] / "helm/charging-coupon-consumer/dashboards"

NOT_SHOWN: dict[str, str] = {}
"""Metrics that are on no panel and in no alert, each with the reason."""

JOB = 'job=~"$job"'
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GRANTED = "granted|already_granted"
FAILED = "lot_failed|platform_failed|not_configured|rejected|unknown|expired"
OBJECTIVE = 0.99
WIDE, HALF, THIRD = 24, 12, 8


class Shown(Protocol):
    """What all kinds of panels have."""

    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: DataSourceRef) -> Self: ...
    def height(self, h: int) -> Self: ...
    def span(self, w: int) -> Self: ...
    def unit(self, unit: str) -> Self: ...


P = TypeVar("P", bound=Shown)


# -- Kinds of panels --------------------------------------------------------------------------------


def over_time(
    title: str, tells: str, unit: str, *queries: tuple[str, str], span: int = HALF
) -> timeseries.Panel:
    """Lines; of each query its legend."""
    panel = (
        _common(timeseries.Panel(), title, tells, unit, span)
        .min(0)
        .fill_opacity(8)
        .line_width(1)
        .show_points(shapes.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(shapes.LegendDisplayMode.LIST)
            .placement(shapes.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
        )
    )
    for number, (expression, legend) in enumerate(queries):
        panel.with_target(_query(expression, number).legend_format(legend).range())
    return panel


def stacked(
    title: str, tells: str, unit: str, *queries: tuple[str, str], span: int = HALF
) -> timeseries.Panel:
    """Areas that add up."""
    stacking = common.StackingConfig().mode(shapes.StackingMode.NORMAL)
    return over_time(title, tells, unit, *queries, span=span).stacking(stacking).fill_opacity(40)


def bounded(panel: timeseries.Panel, *steps: tuple[float, str]) -> timeseries.Panel:
    """With lines where it becomes serious."""
    style = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
    return panel.thresholds(_thresholds(*steps)).thresholds_style(style)


def number(title: str, tells: str, unit: str, expression: str, *steps: tuple[float, str]) -> stat.Panel:
    """One number for the time that is looked at."""
    return (
        _common(stat.Panel(), title, tells, unit, THIRD)
        .thresholds(_thresholds(*steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.VALUE if steps else BigValueColorMode.NONE)
        .with_target(_query(expression, 0).instant())
    )


def ranked(title: str, tells: str, expression: str, legend: str) -> bargauge.Panel:
    """Bars, the longest first."""
    return (
        _common(bargauge.Panel(), title, tells, "short", HALF)
        .min(0)
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .thresholds(_thresholds())
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(f"sort_desc(topk(20, {expression}))", 0).legend_format(legend).instant())
    )


def heat(title: str, tells: str, metric: str) -> heatmap.Panel:
    """How many took how long, from a histogram in seconds."""
    expression = f"sum by (le) (increase({metric}_bucket{{{JOB}}}[$__rate_interval]))"
    target = _query(expression, 0).legend_format("{{le}}").range().format(PromQueryFormat.HEATMAP)
    panel = _common(heatmap.Panel(), title, tells, "short", HALF).calculate(False)
    return panel.y_axis(heatmap.YAxisConfig().unit("s")).with_target(target)


def listed(title: str, tells: str, *expressions: str) -> tables.Panel:
    """Labels of what is there."""
    panel = _common(tables.Panel(), title, tells, "short", WIDE - 2 * THIRD)
    for place, expression in enumerate(expressions):
        panel.with_target(_query(expression, place).instant().format(PromQueryFormat.TABLE))
    return panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))


def _common(panel: P, title: str, tells: str, unit: str, span: int) -> P:
    return panel.title(title).description(tells).unit(unit).datasource(SOURCE).height(8).span(span)


def _query(expression: str, place: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + place)).datasource(SOURCE)


def _thresholds(*steps: tuple[float, str]) -> dashboard.ThresholdsConfig:
    marks = [Threshold(value=value, color=color) for value, color in steps]
    first = Threshold(value=None, color="green")
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([first, *marks])


# -- What is asked ----------------------------------------------------------------------------------


def rate(metric: str, by: str, labels: str = "") -> str:
    """A second."""
    return f"sum by ({by}) (rate({metric}{{{JOB}{labels and ', ' + labels}}}[$__rate_interval]))"


def within(metric: str, by: str, labels: str = "") -> str:
    """In the time that is looked at."""
    return f"sum by ({by}) (increase({metric}{{{JOB}{labels and ', ' + labels}}}[$__range]))"


def quantile(share: float, metric: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{JOB}}}[$__rate_interval])))"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """Half, 90 % and 99 % took so long at most."""
    return tuple((quantile(share, metric), f"{share:.0%}") for share in (0.5, 0.9, 0.99))


def per_partition(metric: str) -> str:
    """Once, where two members tell of a partition that moves."""
    return f"max by (topic, partition) ({metric}{{{JOB}}})"


def lost(window: str) -> str:
    """Share of the orders that should have been granted and were not."""
    failed = f'sum(rate(coupon_outcomes_total{{{JOB}, outcome=~"{FAILED}"}}[{window}]))'
    return f'{failed} / sum(rate(coupon_outcomes_total{{{JOB}, outcome=~"{GRANTED}|{FAILED}"}}[{window}]))'


# -- The dashboards ---------------------------------------------------------------------------------


def service() -> dashboard.Dashboard:
    """Whether drivers get their coupons, and how fast."""
    burn = f") / {1 - OBJECTIVE:.2f}"
    return (
        _dashboard("service", "Whether drivers get their coupons in time, and what the platform says")
        .with_row(dashboard.Row("Objective: 99 of 100 orders are granted within their deadline"))
        .with_panel(
            number(
                "Granted within their deadline",
                "Of the orders that ended, and that the platform should have granted: without cars that are not in the "
                "lot or have had their coupons, and without what the rules leave out.",
                "percentunit",
                f"1 - {lost('$__range')}",
            )
        )
        .with_panel(
            number(
                "Budget used",
                "Of the orders that may be lost, in the time that is looked at. 100 %: all of them.",
                "percentunit",
                f"({lost('$__range')}{burn}",
                (0.5, "orange"),
                (1, "red"),
            )
        )
        .with_panel(
            listed(
                "What runs",
                "Version and rules; two hashes for longer than a minute: a member has older rules.",
                f"count by (version, python) (coupon_build_info{{{JOB}}})",
                f"count by (hash) (coupon_rules_info{{{JOB}}})",
            )
        )
        .with_panel(
            bounded(
                over_time(
                    "Burn",
                    "How many times as fast as allowed the budget is used. Alerts: 14.4 in an hour, 3 in a day.",
                    "short",
                    *((f"({lost(window)}{burn}", window) for window in ("5m", "1h", "1d")),
                ),
                (3, "orange"),
                (14.4, "red"),
            )
        )
        .with_panel(
            stacked(
                "Orders by outcome",
                "A second, once committed.",
                "ops",
                (rate("coupon_outcomes_total", "outcome") + " > 0", "{{outcome}}"),
            )
        )
        .with_row(dashboard.Row("The platform"))
        .with_panel(
            stacked(
                "Calls by response code",
                "A second.",
                "reqps",
                (rate("coupon_requests_total", "code"), "{{code}}"),
            )
        )
        .with_panel(
            heat("Duration of calls", "How many calls took how long.", "coupon_request_duration_seconds")
        )
        .with_panel(
            over_time(
                "Duration of calls, half to 99 %",
                "So long at most.",
                "s",
                *quantiles("coupon_request_duration_seconds"),
            )
        )
        .with_panel(
            over_time(
                "Alarms",
                "1 while an account is refused, a topic cannot be read, or the rules' files were refused; and secrets and ways that are kept.",
                "short",
                (f"max by (account) (coupon_config_alarm{{{JOB}}})", "{{account}} is refused"),
                (f"max by (topic) (coupon_unreadable_alarm{{{JOB}}})", "{{topic}} cannot be read"),
                (f"max(coupon_rules_refused{{{JOB}}})", "rules are refused"),
                (f"max(coupon_credentials_kept{{{JOB}}})", "secrets and ways are kept"),
            )
        )
        .with_row(dashboard.Row("Time"))
        .with_panel(
            heat("Age of events", "From the end of charging to the outcome.", "coupon_event_age_seconds")
        )
        .with_panel(
            over_time(
                "Age of events, half to 99 %",
                "From the end of charging to the outcome, so long at most.",
                "s",
                *quantiles("coupon_event_age_seconds"),
            )
        )
        .with_panel(
            over_time(
                "From taking in to the outcome, half to 99 %",
                "What of it is ours and the platform's.",
                "s",
                *quantiles("coupon_record_duration_seconds"),
            )
        )
        .with_panel(
            over_time(
                "Kafka's part and ours",
                "99 % took so long at most.",
                "s",
                (quantile(0.99, "coupon_transaction_duration_seconds"), "a transaction"),
                (quantile(0.99, "coupon_event_loop_delay_seconds"), "everything stands still"),
            )
        )
        .with_panel(
            over_time(
                "Spans",
                "Of traces, where tracing.endpoint is set: what the collector took, and what was dropped.",
                "ops",
                (f"sum by (result) (rate(coupon_spans_total{{{JOB}}}[$__rate_interval]))", "{{result}}"),
            )
        )
        .with_panel(
            over_time(
                "Files read again",
                "Rules and secrets, in an hour.",
                "short",
                (f"sum by (result) (increase(coupon_rules_reloads_total{{{JOB}}}[1h]))", "rules {{result}}"),
                (
                    f"sum by (result) (increase(coupon_secrets_reloads_total{{{JOB}}}[1h]))",
                    "secrets {{result}}",
                ),
            )
        )
    )


def kafka_and_flow() -> dashboard.Dashboard:
    """How far behind, and what holds it up."""
    return (
        _dashboard("kafka-and-flow", "How far behind the service is, and what holds it up")
        .with_row(dashboard.Row("Behind"))
        .with_panel(
            over_time(
                "Lag",
                "Records between what is committed and the log's end; a retry topic's wait for their time.",
                "short",
                (f"sum by (topic) ({per_partition('coupon_partition_lag')})", "{{topic}}"),
            )
        )
        .with_panel(
            over_time(
                "What members could work on",
                "The chart scales on it: none while the platform, Kafka or the rules hold it up.",
                "short",
                (f"sum by (topic) ({per_partition('coupon_partition_admissible_records')})", "{{topic}}"),
            )
        )
        .with_panel(
            over_time(
                "Frontier",
                "The offset that is committed moves by so many a second.",
                "short",
                (
                    f"sum by (topic) (clamp_min(deriv(coupon_partition_frontier_offset{{{JOB}}}[$__rate_interval]), 0))",
                    "{{topic}}",
                ),
            )
        )
        .with_panel(
            over_time(
                "Commit gap",
                "Offsets from the lowest that is not done to the furthest taken in; the widest of each "
                "topic.",
                "short",
                (f"max by (topic) (coupon_partition_commit_gap{{{JOB}}})", "{{topic}}"),
            )
        )
        .with_panel(
            bounded(
                over_time(
                    "Offset map",
                    "The largest of each topic. From 3072 on, a partition takes no new records.",
                    "bytes",
                    (f"max by (topic) (coupon_partition_offset_map_bytes{{{JOB}}})", "{{topic}}"),
                ),
                (3072, "red"),
            )
        )
        .with_panel(
            over_time(
                "In memory",
                "Records taken in and not yet committed, of each member.",
                "short",
                (f"coupon_records_waiting{{{JOB}}}", "{{instance}}"),
            )
        )
        .with_panel(
            over_time(
                "In memory, bytes",
                "Of each member.",
                "bytes",
                (f"coupon_records_waiting_bytes{{{JOB}}}", "{{instance}}"),
            )
        )
        .with_panel(
            over_time(
                "Taken in",
                "Records a second, by topic.",
                "ops",
                (rate("coupon_records_total", "topic"), "{{topic}}"),
            )
        )
        .with_row(dashboard.Row("Flow"))
        .with_panel(
            over_time(
                "In flight and its limits",
                "Calls at once; how many the platform seems to take, of all members.",
                "short",
                (f"sum(coupon_requests_in_flight{{{JOB}}})", "in flight"),
                (f"sum by (account) (coupon_concurrency_limit{{{JOB}}})", "limit of {{account}}"),
            )
        )
        .with_panel(
            stacked(
                "What orders wait for",
                "Orders that wait for their call, by what holds them back.",
                "short",
                (f"sum by (reason) (coupon_flow_waiting{{{JOB}}})", "{{reason}}"),
            )
        )
        .with_panel(
            over_time(
                "Breaker",
                "0 closed, 1 closing, 2 a probe is under way, 3 open; the worst of all members.",
                "short",
                (f"max by (account) (coupon_breaker_state{{{JOB}}})", "{{account}}"),
                (
                    f"sum by (account, why) (increase(coupon_breaker_opened_total{{{JOB}}}[$__rate_interval]))",
                    "{{account}} opened: {{why}}",
                ),
            )
        )
        .with_panel(
            stacked(
                "Intake paused",
                "Share of the time, by reason, of all members. `not_due` is a retry topic's.",
                "percentunit",
                (rate("coupon_backpressure_seconds_total", "reason"), "{{reason}}"),
            )
        )
        .with_panel(
            over_time(
                "Share of the fleet's bounds",
                "Of each member, by its partitions.",
                "percentunit",
                (f"coupon_fleet_share{{{JOB}}}", "{{instance}}"),
            )
        )
        .with_row(dashboard.Row("Again, later, and never"))
        .with_panel(
            over_time(
                "Again within seconds",
                "Calls a second, by the code of the call before.",
                "reqps",
                (rate("coupon_retries_total", "code"), "{{code}}"),
                (
                    f"sum(rate(coupon_retry_budget_used_up_total{{{JOB}}}[$__rate_interval]))",
                    "no budget left",
                ),
            )
        )
        .with_panel(
            over_time(
                "Later, by tier",
                "Orders a second that are written to a retry topic, by what they wait for.",
                "ops",
                (rate("coupon_retries_later_total", "topic, waits_for"), "{{topic}} {{waits_for}}"),
            )
        )
        .with_panel(
            over_time(
                "Retries overdue",
                "For how long the oldest known order of a retry topic has been due.",
                "s",
                (f"max by (topic) (coupon_retry_overdue_seconds{{{JOB}}})", "{{topic}}"),
            )
        )
        .with_panel(
            stacked(
                "Dead letters",
                "By outcome and reason, within the time that is looked at so far.",
                "short",
                (
                    f"sum by (outcome, reason) (coupon_dead_letters_total{{{JOB}}}) > 0",
                    "{{outcome}} {{reason}}",
                ),
            )
        )
        .with_row(dashboard.Row("Group"))
        .with_panel(
            over_time(
                "Partitions",
                "Owned, of each member.",
                "short",
                (f"coupon_assigned_partitions{{{JOB}}}", "{{instance}}"),
            )
        )
        .with_panel(
            over_time(
                "Rebalances",
                "In an hour, and what they may have cost.",
                "short",
                (f"sum(increase(coupon_assignments_total{{{JOB}}}[1h]))", "assignments"),
                (f"sum(increase(coupon_late_completions_total{{{JOB}}}[1h]))", "ended too late"),
                (
                    f"sum by (why) (increase(coupon_offset_maps_ignored_total{{{JOB}}}[1h]))",
                    "map ignored: {{why}}",
                ),
                (f"sum(increase(coupon_offsets_gone_total{{{JOB}}}[1h]))", "offsets gone"),
                (f"sum by (why) (increase(coupon_log_losses_total{{{JOB}}}[1h]))", "log lost: {{why}}"),
            )
        )
        .with_panel(
            over_time(
                "Since Kafka was polled",
                "Of each member; restarted after a minute and a half.",
                "s",
                (f"time() - (coupon_last_poll_timestamp_seconds{{{JOB}}} > 0)", "{{instance}}"),
            )
        )
        .with_panel(
            over_time(
                "Transactions",
                "A second, by how they ended.",
                "ops",
                (rate("coupon_transactions_total", "result"), "{{result}}"),
            )
        )
    )


def business() -> dashboard.Dashboard:
    """Who gets coupons where, and who does not."""
    lots, rules = "coupon_orders_by_lot_total", "coupon_orders_by_rule_total"
    granted = f'outcome=~"{GRANTED}"'
    return (
        _dashboard("business", "Coupons by lot, account and rule; `other`: those after the first hundred")
        .with_row(dashboard.Row("Granted"))
        .with_panel(
            ranked(
                "Granted by lot",
                "In the time that is looked at; the twenty with the most.",
                within(lots, "lot", granted),
                "{{lot}}",
            )
        )
        .with_panel(
            ranked("Granted by rule", "Likewise.", within(rules, "rule", granted), "{{rule}}"),
        )
        .with_panel(
            stacked(
                "Granted by account", "A second.", "ops", (rate(rules, "account", granted), "{{account}}")
            )
        )
        .with_panel(
            stacked(
                "Granted over time, by rule", "A second.", "ops", (rate(rules, "rule", granted), "{{rule}}")
            )
        )
        .with_row(dashboard.Row("Not granted"))
        .with_panel(
            ranked(
                "Not entered, by lot",
                "The platform knows of no such car in the lot. Many of one lot: see whether `stations` names the right one.",
                within(lots, "lot", 'outcome="not_entered"'),
                "{{lot}}",
            )
        )
        .with_panel(
            ranked(
                "Limited, by lot",
                "The car has had all the coupons that it may have.",
                within(lots, "lot", 'outcome="limited"'),
                "{{lot}}",
            )
        )
        .with_panel(
            ranked(
                "Failed, by lot and outcome",
                "The drivers went without, and should not have. `not_configured`: nobody has set up a coupon for the lot.",
                within(lots, "lot, outcome", f'outcome=~"{FAILED}"') + " > 0",
                "{{lot}} {{outcome}}",
            )
        )
        .with_panel(
            stacked(
                "Share of orders by outcome",
                "Of those that a rule decided on.",
                "percentunit",
                (f"{rate(rules, 'outcome')} / on () group_left () {rate(rules, '')}", "{{outcome}}"),
            )
        )
        .with_panel(
            ranked(
                "Not asked for, by reason",
                "What the rules leave out, and what cannot be read.",
                within("coupon_outcomes_total", "outcome, reason", 'reason!=""'),
                "{{outcome}} {{reason}}",
            )
        )
    )


def _dashboard(name: str, tells: str) -> dashboard.Dashboard:
    return (
        dashboard.Dashboard(f"Charging coupons: {name.replace('-', ' ')}")
        .description(tells)
        .tags(["charging-coupon"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .label("Job")
            .query("label_values(coupon_build_info, job)")
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )


DASHBOARDS = {"service": service, "kafka-and-flow": kafka_and_flow, "business": business}


def built() -> Iterator[tuple[Path, str]]:
    """Each file with its text."""
    for name, build in DASHBOARDS.items():
        whole: Dashboard = build().build()
        for place, panel in enumerate(whole.panels or [], 1):
            panel.id_val = place
        yield (
            FOLDER / f"{name}.json",
            JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(whole) + "\n",
        )


def main() -> None:
    """Write them anew."""
    FOLDER.mkdir(exist_ok=True)
    for file, text in built():
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
