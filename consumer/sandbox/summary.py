"""A report -> the lines that end a demo, for readers who know nothing of the service. Performs no I/O."""

from collections.abc import Iterator, Mapping
from textwrap import wrap

from rich.text import Text

from consumer.sandbox.figures import Pace
from consumer.sandbox.reconcile import Report

MOST_PROBLEMS = 20

_NO_COUPON: Mapping[str, str] = {
    "platform_failed": "The platform failed, or sent no reply, however often it was asked. The driver has no coupon.",
    "lot_failed": "The parking lot could not issue it, however often it was asked.",
    "not_entered": "The platform knows of no such car in the parking lot.",
    "limited": "The car has had all the coupons that it may have.",
    "not_configured": "No coupon is set up for the lot: tell who owns the platform's set-up.",
    "rejected": "The platform found fault with the request: see to the rules.",
    "unknown": "The platform replied with a code that its documents do not have.",
}
"""Why a charge that one was asked for has none, by its outcome."""

_TO_DO: Mapping[str, str] = {
    "not_entered": "nothing, for one car; where it is many of one station, see whether `stations` names its lot.",
    "limited": "nothing; the limit is the platform's own.",
    "unmatched": "add a rule if the charge should have had one; `charging-coupon explain` shows why none matched.",
    "not_configured": "tell who owns the platform's set-up which lot it is. There is no dead letter, so that "
    "`charging-coupon replay` does not apply: the charge has to be pushed again.",
}
"""What to do about an outcome whose events are not kept."""

_DEAD_LETTERS = ("platform_failed", "lot_failed", "rejected", "unknown", "invalid")
"""Outcomes whose events are kept for a person."""

_KIND, _ORDERS = 28, 6
_NUMBER, _NAME = 6, 17


def summarise(report: Report, dead_letters: str, width: int, pace: Pace | None = None) -> list[Text]:
    """What was sent and what became of it; who has a coupon, who has none, and why; or what disagrees, by name.

    `dead_letters` is the topic's name. The lines are broken to `width`, but for those that name a disagreement.
    With a `pace` it also says how fast that was.
    """
    lines = list(_table(report, width))
    if report.agrees:
        sections = [
            _verdict(report, width),
            _how_fast(pace, width) if pace else (),
            _scenario(report, width),
            _with_coupon(report, width),
            _without_coupon(report, width),
            _for_the_operator(report, dead_letters, width),
            _sum_of_orders(report, width),
        ]
    else:
        sections = [_disagreements(report)]
    for section in map(list, sections):
        lines += [Text(), *section] if section else []
    return lines


def _table(report: Report, width: int) -> Iterator[Text]:
    yield Text(f"{'what was sent':<{_KIND}}{'orders':>{_ORDERS}}  what became of them", "bold")
    for row in report.rows:
        yield from _hanging(f"{row.words:<{_KIND}}{row.orders:>{_ORDERS}}  ", _ranked(row.outcomes), width)


def _disagreements(report: Report) -> Iterator[Text]:
    yield Text(f"{_of(len(report.problems), 'disagreement')}:", "red")
    for problem in report.problems[:MOST_PROBLEMS]:
        yield Text(f"  {problem}")
    if len(report.problems) > MOST_PROBLEMS:
        yield Text(f"  and {len(report.problems) - MOST_PROBLEMS} more")


def _verdict(report: Report, width: int) -> Iterator[Text]:
    which = "one that the scenario allows" if report.troubled else "the expected one"
    yield from _paragraph(
        f"{report.records} records held {report.orders} orders. Every order has exactly one outcome, {which}. "
        "Every record's offset is committed, so that after a restart none would be read again.",
        width,
        "green",
    )


def _how_fast(pace: Pace, width: int) -> Iterator[Text]:
    yield from _paragraph(
        f"{pace.orders} orders took {pace.seconds:.1f} s: {pace.orders / pace.seconds:.0f} a second, on a machine that the "
        f"service shares with Kafka, the platform and this demo. The service itself used {pace.cpu_us:.0f} µs of CPU "
        f"time an order. Half of its calls were answered within {pace.p50 * 1000:.0f} ms (p50), 99 of 100 within "
        f"{pace.p99 * 1000:.0f} ms (p99). The platform itself took {pace.platform * 1000:.0f} ms for one, on average.",
        width,
    )


def _scenario(report: Report, width: int) -> Iterator[Text]:
    """What the platform's failing did to drivers, apart from samples that are meant to fail."""
    struck, lost = report.charges.struck, sum(report.charges.lost.values())
    if report.troubled and struck:
        yield from _paragraph(
            f"What the scenario did to drivers: {_of(struck, 'charge')} met a call that was refused or left "
            f"without an answer. Of these {struck - lost} got a coupon in the end, {lost} did not.",
            width,
            "yellow",
        )


def _with_coupon(report: Report, width: int) -> Iterator[Text]:
    """A sum that comes out as the platform's own."""
    charges = report.charges
    yield from _paragraph(
        f"{_of(report.grants, 'charge')} got a coupon. The platform's journal lists each coupon that it granted; "
        "it was compared with the outcomes, charge by charge:",
        width,
    )
    yield from _row("", charges.granted, "granted", "The platform's reply said so.", width)
    if charges.lost_reply:
        words = (
            'The first reply was lost; the repeated call was answered "already granted". '
            "The driver has his coupon."
        )
        yield from _row("+", charges.lost_reply, "already_granted", words, width)
    for name, count in charges.unheard.items():
        words = (
            "The platform granted, but no reply of it was ever heard. The driver has his coupon; "
            "the outcome can only say attempts.ambiguous: there may be one."
        )
        yield from _row("+", count, name, words, width)
    yield from _row("=", report.grants, "in the journal", "", width)


def _without_coupon(report: Report, width: int) -> Iterator[Text]:
    without = report.charges.without
    if not sum(without.values()):
        yield Text("No valid charge went without a coupon.")
        return
    lost = report.charges.lost if report.troubled else {}
    meant = {name: count - lost.get(name, 0) for name, count in without.items()}
    groups = (
        (lost, "got no coupon because of the scenario"),
        (meant, "got no coupon, as these samples were meant to"),
    )
    for counts, how in groups:
        if not (total := sum(counts.values())):
            continue
        yield from _paragraph(f"{_of(total, 'valid charge')} {how}, and why:", width, "yellow")
        for name, words in _NO_COUPON.items():
            if count := counts.get(name):
                yield from _row("", count, name, words, width)


def _for_the_operator(report: Report, dead_letters: str, width: int) -> Iterator[Text]:
    charges = report.charges
    kept = [name for name in _DEAD_LETTERS if charges.without.get(name) or report.unasked.get(name)]
    met = [name for name in _TO_DO if charges.without.get(name) or report.unasked.get(name)]
    if not kept and not met:
        return
    yield Text("What that means for the operator:")
    if "platform_failed" in kept:
        yield from _item(
            "The driver of a platform_failed has no coupon, or none that the service knows of. In a deployment "
            "such an order goes on waiting in retry topics (`retries.delays`: 1m, 5m, 30m) and is asked for again, "
            "up to 24 h from the end of charging (`deadline` in the rules file). The demo has no retry topics: in it "
            "an order ends after three calls, within seconds.",
            width,
        )
    if charges.unsure:
        yield from _item(
            f"{charges.unsure} of these charges have attempts.ambiguous in their outcome: a call went out and "
            "its reply did not come back, so that there may be a coupon. The journal says that "
            f"{sum(charges.unheard.values())} of them have one.",
            width,
        )
    for name in met:
        yield from _item(f"{name}: {_TO_DO[name]}", width)
    if not kept:
        return
    yield from _item(
        f"The events behind {_listed(kept)} are in the dead-letter topic {dead_letters}, each with its reason in "
        "its headers. When the cause is mended, `charging-coupon replay` sends them through the service again. "
        "That grants no coupon twice: the platform knows a charge again by its event_id.",
        width,
    )


def _sum_of_orders(report: Report, width: int) -> Iterator[Text]:
    charges = report.charges
    without, unasked = sum(charges.without.values()), sum(report.unasked.values())
    again = sum(charges.pushed_again.values())
    parts = [f"{report.grants} with a coupon", f"{without} without"]
    if unasked:
        parts.append(f"{unasked} that none was asked for ({_ranked(report.unasked)})")
    if again:
        parts.append(
            f"{again} pushed again, whose charge is counted already ({_ranked(charges.pushed_again)})"
        )
    yield from _paragraph(f"Orders: {' + '.join(parts)} = {report.orders}.", width)


def _row(sign: str, count: int, name: str, words: str, width: int) -> Iterator[Text]:
    yield from _hanging(f"{sign:>2}{count:>{_NUMBER}}  {name:<{_NAME}}", words, width)


def _hanging(head: str, words: str, width: int) -> Iterator[Text]:
    indent = " " * len(head)
    lines = wrap(words, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
    yield from (Text(line) for line in lines or [head.rstrip()])


def _item(words: str, width: int) -> Iterator[Text]:
    yield from _hanging("  - ", words, width)


def _paragraph(words: str, width: int, style: str = "") -> Iterator[Text]:
    for line in wrap(words, width, break_on_hyphens=False):
        yield Text(line, style)


def _ranked(counts: Mapping[str, int]) -> str:
    """The most frequent first."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{name} {count}" for name, count in ranked)


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _of(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
