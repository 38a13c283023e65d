"""The status page: a `Status` as HTML for people. Performs no I/O.

No script, and nothing loaded from anywhere. Whatever is not built by `_element` here is text
and is escaped, so that nothing from outside can become markup.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from html import escape
from urllib.parse import quote

from consumer.core.breakers import State as BreakerState
from consumer.core.offsets import MAX_MAP_BYTES
from consumer.core.replies import ReplyTable
from consumer.core.status import (
    AccountStatus,
    Counted,
    Counts,
    PartitionStatus,
    Recent,
    State,
    Status,
    clock,
    sentences,
)

REFRESH_SECONDS = 5

MIB = 1 << 20

MOST_ROWS = 60
"""Partitions, or accounts, on the page; the JSON has all of them."""

_STYLE = """
:root{color-scheme:light dark;--ink:#18222d;--dim:#5a6b7c;--line:#e2e8ee;--card:#fff;--back:#f3f5f8;
--good:#1a7f4b;--warn:#a05a00;--bad:#b3261e;--calm:#3b5f8a;--tint:8%}
@media(prefers-color-scheme:dark){:root{--ink:#e3e9f0;--dim:#94a3b4;--line:#2b3642;--card:#1a222b;--back:#11171d;
--good:#4cc38a;--warn:#e9a23b;--bad:#ff7b72;--calm:#7fb0e6;--tint:14%}}
*{box-sizing:border-box}
body{font:14px/1.45 system-ui,-apple-system,"Segoe UI","Noto Sans","Noto Sans CJK SC",sans-serif;margin:0;color:var(--ink);
background:var(--back)}
main,header,footer{max-width:1280px;margin:0 auto;padding:0 20px}
header{display:flex;flex-wrap:wrap;gap:4px 20px;align-items:baseline;padding-top:18px}
header b{font-size:16px}header span,footer{color:var(--dim)}header .right{margin-left:auto}
.now{--tone:var(--calm);margin:14px 0;padding:16px 20px;border-radius:10px;border-left:6px solid var(--tone);
background:color-mix(in srgb,var(--tone) var(--tint),var(--card))}
.now h1{font-size:21px;line-height:1.3;margin:0;font-weight:600}.now ul{margin:8px 0 0;padding-left:20px}
.good{--tone:var(--good)}.warn{--tone:var(--warn)}.bad{--tone:var(--bad)}
td.good,td.warn,td.bad,dd.good,dd.warn,dd.bad{color:var(--tone);font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(6,1fr);gap:12px;margin:0 0 14px}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.tiles dt{color:var(--dim)}.tiles dd{margin:0;font-size:24px;font-weight:600;font-variant-numeric:tabular-nums}
.tiles small{display:block;color:var(--dim);font-size:12px;font-weight:400}
.grid{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:14px;align-items:start}
.grid>div{display:grid;gap:14px;align-items:start}.most{grid-column:span 2;grid-template-columns:repeat(2,minmax(0,1fr))}
.grid>section,.most>section.all{grid-column:1/-1}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
h2{font-size:14px;margin:0 0 6px}h2 small{color:var(--dim);font-weight:400}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}th{color:var(--dim);font-weight:500;white-space:nowrap}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th:last-child,td:last-child{padding-right:0}
td.id{white-space:nowrap}td.wrap{min-width:9em}td.long{overflow-wrap:anywhere;color:var(--dim)}
progress{display:block;width:100%;height:5px;margin:4px 0 3px;border:0;border-radius:3px;overflow:hidden;appearance:none;
background:var(--line)}progress::-webkit-progress-bar{background:var(--line)}
progress::-webkit-progress-value{background:var(--calm)}progress::-moz-progress-bar{background:var(--calm)}
section dl{display:grid;grid-template-columns:auto 1fr;gap:4px 14px;margin:0}section dt{color:var(--dim)}
section dd{margin:0;text-align:right;overflow-wrap:anywhere}
.none{color:var(--dim);margin:4px 0}section ul{margin:8px 0 0;padding-left:18px;overflow-wrap:anywhere}
footer{padding:14px 20px 28px}a{color:var(--calm)}
@media(max-width:900px){.tiles{grid-template-columns:repeat(3,1fr)}.grid{grid-template-columns:minmax(0,1fr)}
.most{grid-column:auto}}
@media(max-width:560px){main,header,footer{padding-left:12px;padding-right:12px}.tiles{grid-template-columns:1fr 1fr;gap:8px}
.most{grid-template-columns:minmax(0,1fr)}.tiles dd{font-size:20px}.now h1{font-size:18px}.now{padding:12px 14px}.wide{display:none}header .right{margin-left:0}
section{padding:10px 12px}th,td{padding-right:6px}td.wrap{min-width:7.5em}}
"""

POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy."""

_TONES = {
    State.GRANTING: "good",
    State.WORKING: "good",
    State.IDLE: "good",
    State.PARTLY_HELD_UP: "warn",
    State.HELD_UP: "bad",
    State.STUCK: "bad",
    State.STARTING: "",
    State.STOPPING: "",
}
_DOTS = {"good": "#2f9e62", "warn": "#d98a1f", "bad": "#d9362b", "": "#4a7ab0"}
_MEANINGS = {code: row.outcome.value.replace("_", " ") for code, row in ReplyTable.defaults().rows.items()}


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def page(status: Status, zone: tzinfo, *, refresh: bool = True) -> str:
    """The whole page; times of day are those of the zone. With `refresh` it loads itself again."""
    told = sentences(status, zone)
    tone = _TONES[told[0][0]]
    dot = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="4" fill="{_DOTS[tone]}"/></svg>'
    head = _Markup(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        + (f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if refresh else "")
        + f'<link rel="icon" href="data:image/svg+xml,{quote(dot)}"><style>{_STYLE}</style>'
    )
    body = _element(
        "body",
        _header(status, zone, refresh=refresh),
        _element(
            "main",
            _now(told, tone),
            _tiles(status),
            _element("div", *_sections(status, zone), class_="grid"),
        ),
        _footer(),
    )
    title = _element("title", f"{told[0][1].split(':')[0]} · {status.host}")
    return "<!doctype html>" + _element("html", _element("head", head, title), body, lang="en")


def _header(status: Status, zone: tzinfo, *, refresh: bool) -> _Markup:
    at = status.at.astimezone(zone)
    uptime = _duration((status.at - status.started_at).total_seconds())
    again = (
        ("refreshes itself", "?refresh=off", "stop") if refresh else ("does not refresh itself", "?", "start")
    )
    return _element(
        "header",
        _element("b", "charging-coupon"),
        _element("span", f"{status.version} on {status.host}, group {status.group}, up for {uptime}"),
        _element(
            "span",
            f"{at:%Y-%m-%d %H:%M:%S} {at:%Z}, {again[0]} (",
            _element("a", again[2], href=again[1]),
            ")",
            class_="right",
        ),
    )


def _now(told: Sequence[tuple[State, str]], tone: str) -> _Markup:
    (_, first), *others = told
    further = _element("ul", *(_element("li", text) for _, text in others)) if others else ""
    return _element("div", _element("h1", first), further, class_=f"now {tone}", role="status")


def _tiles(status: Status) -> _Markup:
    counts, limits = status.counts, status.limits
    to_do = sum(each.lag or 0 for each in status.partitions if not each.waits)
    waiting = sum(each.waiting for each in status.tiers)
    when = _window(counts)
    figures = [
        ("Coupons", counts.coupons, when),
        ("Orders ended", counts.ended, when),
        ("Calls", sum(each.last_minute for each in counts.replies), when),
        ("Calls under way", limits.in_flight, f"of {limits.max_in_flight:,}"),
        ("Records to go", to_do, f"in {_partitions(sum(not each.waits for each in status.partitions))}"),
        ("Waiting to be retried", waiting, f"in {len(status.tiers)} retry topics"),
    ]
    tiles = (
        _element("div", _element("dt", name), _element("dd", f"{number:,}", _element("small", of)))
        for name, number, of in figures
    )
    return _element("dl", *tiles, class_="tiles")


def _sections(status: Status, zone: tzinfo) -> Iterable[_Markup]:
    counts = status.counts
    records = [
        *(replace(each, name=f"taken in from {each.name}") for each in counts.records),
        *(replace(each, name=f"to {each.name}") for each in counts.retries),
        *(replace(each, name=f"dead letters: {each.name}") for each in counts.dead_letters),
        *(replace(each, name=f"transactions: {each.name}") for each in counts.transactions),
    ]
    outcomes = [replace(each, name=_words(each.name)) for each in counts.outcomes]
    yield _section("Accounts", _accounts(status, zone))
    yield _element(
        "div",
        _section("Replies of the platform", _counted(counts.replies, counts, _MEANINGS)),
        _section("Outcomes", _counted(outcomes, counts)),
        _section("Partitions", _partition_table(status, zone), "all"),
        _section("Waiting in retry topics", _tier_table(status, zone), "all"),
        class_="most",
    )
    yield _element(
        "div",
        _section("Rules", _rules(status, zone)),
        _section("Ledger, limits, memory", _machine(status, zone)),
        _section("Records", _counted(records, counts)),
    )
    yield _section("The latest orders", _latest(status.recent, zone))


def _section(title: str, content: _Markup, class_: str | None = None) -> _Markup:
    return _element("section", _element("h2", title), content, class_=class_)


# -- What is in the sections ------------------------------------------------------------------------


def _accounts(status: Status, zone: tzinfo) -> _Markup:
    rows = [
        [
            _cell(each.name, "id"),
            _cell(each.state, "" if each.state == "on" else "warn"),
            _breaker(each, status, zone),
            _cell(f"{each.in_flight} of {each.limit}", "n"),
            _cell("none" if each.rate is None else f"{each.rate:,.3g}/s", "n wide"),
            _cell(each.waiting, "n"),
            _cell(_words(each.held_by), "wide"),
            _cell(each.endpoint, "long wide"),
        ]
        for each in status.accounts[:MOST_ROWS]
    ]
    columns = (
        "account",
        "state",
        "breaker",
        "#in flight",
        "#~rate",
        "#waiting",
        "~held by",
        "~endpoint",
    )
    return _table(columns, rows, len(status.accounts) - len(rows))


def _breaker(account: AccountStatus, status: Status, zone: tzinfo) -> _Markup:
    tone = {BreakerState.CLOSED: "", BreakerState.CLOSING: "warn"}.get(account.breaker, "bad")
    words = _words(account.breaker)
    if account.since is not None:
        words += f" since {clock(account.since, status.at, zone)} ({account.code})"
    if account.probe_in_seconds is not None:
        words += f", next try in {account.probe_in_seconds:.0f} s"
    return _cell(words, f"wrap {tone}")


def _counted(lines: Sequence[Counted], counts: Counts, meanings: dict[str, str] | None = None) -> _Markup:
    rows = [
        [
            _cell(each.name, "" if meanings is None else "id"),
            *([_cell(meanings.get(each.name, ""))] if meanings is not None else []),
            _cell(f"{each.last_minute:,}", "n"),
            _cell(f"{each.total:,}", "n"),
        ]
        for each in lines
    ]
    meaning = ["meaning"] if meanings is not None else []
    return _table(["", *meaning, f"#{_window(counts)}", "#total"], rows)


def _rules(status: Status, zone: tzinfo) -> _Markup:
    rules = status.rules
    facts: list[tuple[str, object, str]] = [
        ("in force", rules.hash, ""),
        ("since", _moment(rules.loaded_at, status.at, zone), ""),
        ("rules, stations", f"{rules.rules:,}, {rules.stations:,}", ""),
    ]
    if rules.refused_at is None:
        facts.append(("files as they are now", "in force", "good"))
        return _facts(facts)
    facts.append(("files as they are now", f"refused {_moment(rules.refused_at, status.at, zone)}", "bad"))
    more = [f"and {rules.more_problems} more, in the log"] if rules.more_problems else []
    problems = _element("ul", *(_element("li", each) for each in (*rules.problems, *more)))
    return _Markup(_facts(facts) + problems)


def _partition_table(status: Status, zone: tzinfo) -> _Markup:
    shown: Sequence[PartitionStatus] = status.partitions
    if len(shown) > MOST_ROWS:
        shown = sorted(shown, key=lambda each: (each.paused in (None, "not_due"), -(each.lag or 0)))[
            :MOST_ROWS
        ]
    tiers = {tier.topic: number for number, tier in enumerate(status.tiers)}
    shown = sorted(shown, key=lambda each: (each.waits, tiers.get(each.topic, 0), each.topic, each.partition))
    rows = [
        [
            _cell(f"{each.topic}-{each.partition}", "long"),
            _cell("?" if each.lag is None else f"{each.lag:,}", "n"),
            _cell(f"{each.frontier:,}", "n"),
            _cell(f"{each.position - each.frontier:,}", "n"),
            _cell(f"{each.under_way:,}", "n wide"),
            _cell(f"{each.map_bytes / MAX_MAP_BYTES:.0%}", "n wide"),
            _paused(each, status, zone),
        ]
        for each in shown
    ]
    columns = ("partition", "#to go", "#frontier", "#held", "#~under way", "#~map", "")
    return _table(columns, rows, len(status.partitions) - len(rows))


def _paused(partition: PartitionStatus, status: Status, zone: tzinfo) -> _Markup:
    if partition.due_at is not None:
        return _cell(f"due {_moment(partition.due_at, status.at, zone)}")
    if partition.paused is None:
        return _cell("")
    return _cell(f"paused: {_words(partition.paused)}", "" if partition.paused == "full" else "warn")


def _machine(status: Status, zone: tzinfo) -> _Markup:
    ledger, limits, memory = status.ledger, status.limits, status.memory
    if ledger.trouble:
        wrote = (ledger.trouble, "bad" if ledger.stuck else "warn")
    else:
        wrote = ("writes", "good") if ledger.open else ("no partitions", "")
    committed = "never" if ledger.committed_at is None else _moment(ledger.committed_at, status.at, zone)
    return _facts(
        [
            ("ready", "yes" if status.ready else "no", "good" if status.ready else "warn"),
            ("alive", "yes" if status.alive else "no", "good" if status.alive else "bad"),
            ("ledger", *wrote),
            ("guarantee", _words(status.guarantee), ""),
            ("last commit of orders", committed, ""),
            ("ended, not yet committed", f"{ledger.pending:,}", ""),
            ("records in memory", _of(memory.records, memory.max_records), ""),
            ("their size in MiB", _of(memory.bytes / MIB, memory.max_bytes / MIB), ""),
            ("calls under way", _of(limits.in_flight, limits.max_in_flight), ""),
            ("share of the fleet", f"{limits.share:.0%}", ""),
            ("its rate", "no bound" if limits.rate is None else f"{limits.rate:,.3g}/s", ""),
            ("its cap", "no bound" if limits.fleet_in_flight is None else f"{limits.fleet_in_flight:,}", ""),
            ("Python", status.python, ""),
        ]
    )


def _tier_table(status: Status, zone: tzinfo) -> _Markup:
    rows = [
        [
            _cell(each.topic, "long"),
            _cell(_duration(each.delay_seconds), "n"),
            _cell(each.partitions, "n"),
            _cell(f"{each.waiting:,}", "n"),
            _cell("" if each.next_due_at is None else _moment(each.next_due_at, status.at, zone), "n"),
        ]
        for each in status.tiers
    ]
    return _table(("topic", "#delay", "#partitions here", "#waiting", "#next due"), rows)


def _latest(recent: Sequence[Recent], zone: tzinfo) -> _Markup:
    rows = [
        [
            _cell(f"{each.at.astimezone(zone):%H:%M:%S}", "id"),
            _cell(
                _words(each.outcome) or f"waits for {_words(each.waits_for)}",
                "good" if each.outcome == "granted" else "",
            ),
            _cell(_words(each.reason) or each.code),
            _cell(each.plate or "", "id"),
            _cell(each.order_id or "", "long wide"),
            _cell(each.account or "", "wide"),
            _cell(each.rule or "", "wide"),
            _cell(each.attempts, "n wide"),
            _cell(
                each.message
                if each.due_at is None
                else f"until {each.due_at.astimezone(zone):%H:%M:%S}; {each.message}",
                "long wide",
            ),
        ]
        for each in recent
    ]
    columns = (
        "at",
        "became",
        "code, reason",
        "plate",
        "~order",
        "~account",
        "~rule",
        "#~calls",
        "~words",
    )
    return _table(columns, rows)


def _footer() -> _Markup:
    links = [
        ("status.json", "this as JSON"),
        ("metrics", "metrics"),
        ("readyz", "readyz"),
        ("healthz", "healthz"),
    ]
    return _element("footer", *(_Markup(_element("a", text, href=to) + " · ") for to, text in links))


# -- Building ---------------------------------------------------------------------------------------


def _element(name: str, *children: object, class_: str | None = None, **attributes: str | None) -> _Markup:
    """An element; children that are not markup are text."""
    given = {"class": class_ or None, **attributes}
    written = "".join(f' {key}="{escape(text)}"' for key, text in given.items() if text is not None)
    inner = "".join(child if isinstance(child, _Markup) else escape(str(child)) for child in children)
    return _Markup(f"<{name}{written}>{inner}</{name}>")


def _table(columns: Sequence[str], rows: Sequence[Sequence[_Markup]], more: int = 0) -> _Markup:
    """Of a column's name `#` says that it holds numbers, `~` that there is no room for it on a phone."""
    if not rows:
        return _element("p", "none", class_="none")
    heads = [
        _element(
            "th",
            name.lstrip("#~"),
            class_=("n" if "#" in name[:2] else "") + (" wide" if "~" in name[:2] else ""),
        )
        for name in columns
    ]
    table = _element(
        "table",
        _element("thead", _element("tr", *heads)),
        _element("tbody", *(_element("tr", *row) for row in rows)),
    )
    rest = _element("p", f"and {more:,} more, in the JSON", class_="none") if more else _Markup()
    return _Markup(_element("div", table, class_="scroll") + rest)


def _cell(text: object, class_: str = "") -> _Markup:
    return _element("td", text, class_=class_)


def _facts(facts: Iterable[tuple[str, object, str]]) -> _Markup:
    return _element(
        "dl",
        *(
            _Markup(_element("dt", name) + _element("dd", value, class_=tone or None))
            for name, value, tone in facts
        ),
    )


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ")


def _window(counts: Counts) -> str:
    return "last minute" if counts.window_seconds >= 55 else f"last {counts.window_seconds:.0f} s"


def _partitions(number: int) -> str:
    return f"{number:,} partition{'' if number == 1 else 's'}"


def _of(number: float, most: float) -> _Markup:
    bar = _element("progress", value=f"{min(number, most):g}", max=f"{max(most, 1):g}")
    return _Markup(escape(f"{number:,.0f} of {most:,.0f}") + bar)


def _moment(at: datetime, now: datetime, zone: tzinfo) -> str:
    """As `clock`, with seconds where it is today."""
    local = at.astimezone(zone)
    return f"{local:%H:%M:%S}" if local.date() == now.astimezone(zone).date() else clock(at, now, zone)


def _duration(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    told = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(told) or "0 s"
