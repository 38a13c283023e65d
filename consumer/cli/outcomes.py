"""`charging-coupon outcomes`: what became of orders, and why. Reads from Kafka, and changes nothing."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from consumer.cli.common import (
    ANY_OF_THEM,
    SINCE,
    AccountFilter,
    RevealOption,
    RuleFilter,
    SettingsFile,
    UntilOption,
    codes_that_are_none,
    known_names,
    print_table,
    quiet_settings,
    time_or_problem,
    told,
    until_before_since,
    without_the_empty,
    wrong,
)

if TYPE_CHECKING:
    from consumer.core.inquiry import Charge, Charges, Findings, Inquiry, OutcomeFields, WaitingOrder
    from consumer.core.rules import RuleBook
    from consumer.settings import Settings

DEPENDS_ON = ("kafka.bootstrap_servers", "kafka.security", "kafka.topics.outcomes", "retries.delays")
SPAN = timedelta(days=1)
"""How far back it looks, unless told."""

MARGIN = timedelta(hours=1)
"""For so long an order that waits may be overdue, and is found all the same."""

ROWS = 20
NOTHING_EXIT = 1


class Listing(StrEnum):
    """How they are told."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


def outcomes(
    *,
    settings: SettingsFile = None,
    order: Annotated[
        list[str] | None, typer.Option(help=f"Of this order number. {ANY_OF_THEM}", metavar="ORDER")
    ] = None,
    event_id: Annotated[
        list[str] | None, typer.Option(help="Of this event_id, as the platform knows it.", metavar="ID")
    ] = None,
    plate: Annotated[
        list[str] | None,
        typer.Option(help="Of this plate (whole), also where outcomes hold its hash.", metavar="PLATE"),
    ] = None,
    outcome: Annotated[
        list[str] | None, typer.Option(help="Only this outcome; `waiting` for none yet.", metavar="NAME")
    ] = None,
    reason: Annotated[
        list[str] | None, typer.Option(help="Only for this reason, such as no_rule.", metavar="NAME")
    ] = None,
    code: Annotated[
        list[str] | None, typer.Option(help="Only with this last code of the platform.", metavar="CODE")
    ] = None,
    lot: Annotated[
        list[str] | None, typer.Option(help="Only of this lot: its api_store_code.", metavar="CODE")
    ] = None,
    rule: RuleFilter = None,
    account: AccountFilter = None,
    since: Annotated[
        str | None,
        typer.Option(
            help=SINCE,
            metavar="TIME",
            show_default="1d",
        ),
    ] = None,
    until: UntilOption = None,
    rows: Annotated[
        int | None,
        typer.Option(min=0, help="Show the latest so many.", show_default=f"{ROWS}; all as JSON and CSV"),
    ] = None,
    by_charge: Annotated[
        bool,
        typer.Option(
            "--by-charge", help="One line for each charge, however often it was pushed, with its coupons."
        ),
    ] = False,
    reveal: RevealOption = False,
    format: Annotated[  # noqa: A002  # as the option is called
        Listing,
        typer.Option("--format", help="For people, for machines, or for spreadsheets (with --by-charge)."),
    ] = Listing.TEXT,
) -> None:
    """Tells what became of orders, and why: "why did this one get no coupon?"

    Filters of different kinds must all hold. It reads the outcome topic, and the retry topics for
    orders that wait for another attempt; nothing is changed in Kafka, and no group is joined. Of
    repetitions of one outcome the last one counts. JSON is a line for each order. With --by-charge all
    outcomes of the time are folded first, and filters ask what counts of a charge. Of the settings
    it reads kafka, for a plate also its hash's key and, like for a lot, the rules. Exits 1 when nothing is found.
    """
    import asyncio
    from dataclasses import replace

    from consumer.core.inquiry import WAITING, Charges, Findings

    if format is Listing.CSV and not by_charge:
        raise wrong("--format", "csv is one row for each charge", "add --by-charge, or take json")

    inquiry = _inquiry(
        outcomes=outcome, reasons=reason, codes=code, rules=rule, accounts=account, lots=lot, orders=order,
        event_ids=event_id, plates=plate, since=since, until=until,
    )  # fmt: skip  # option by option
    chosen = quiet_settings(settings, DEPENDS_ON)
    inquiry = replace(inquiry, plate_hashes=_hashes(chosen, inquiry.plates))
    limit = ROWS if rows is None and format is Listing.TEXT else rows
    search = _Search(chosen, settings, inquiry, datetime.now(UTC), by_charge)
    if by_charge:
        charges = Charges(inquiry)
        retries = asyncio.run(_read(search, charges))
        meant = charges.meant()
        _tell_charges(search, retries, charges.read, meant, limit=limit, listing=format, reveal=reveal)
        if not meant:
            _end_without(search, retries, format)
        return
    findings = Findings(inquiry, limit)
    retries = asyncio.run(_read(search, findings))
    waiting = findings.waiting
    if format is Listing.JSON:
        for line in _as_json(findings, waiting, reveal=reveal):
            print(line)
    else:
        _print_found(search, retries, findings, waiting, reveal=reveal)
    if not findings.counts and not waiting:
        _end_without(search, retries, format)
    if format is Listing.TEXT:
        print()
        counts = [*findings.counts.most_common(), *([(WAITING, len(waiting))] if waiting else [])]
        print_table(("ORDERS", "OUTCOME"), [(str(count), told(name)) for name, count in counts])


class _Search(NamedTuple):
    settings: "Settings"
    file: Path | None
    inquiry: "Inquiry"
    now: datetime
    by_charge: bool = False

    @property
    def rules(self) -> Path | None:
        """Where they are, if the settings say so."""
        from consumer.settings.loading import STAND_INS

        rules = self.settings.rules
        return None if rules == Path(STAND_INS["rules"]) else rules

    @property
    def of_waiting(self) -> bool:
        """Who waits is looked for, and can be known. What counts of a charge may be a push that waits, whatever is asked."""
        asked = self.inquiry.of_any() if self.by_charge else self.inquiry
        return asked.of_waiting and not (self.inquiry.needs_rules and self.rules is None)

    @property
    def start(self) -> datetime:
        """From when on topics are read: an order that waits was written before its turn came."""
        assert self.inquiry.since is not None
        if not self.of_waiting:
            return self.inquiry.since
        longest = timedelta(seconds=max(self.settings.retries.delays, default=0))
        return min(self.inquiry.since, self.now - longest - MARGIN)


# -- What is asked for ------------------------------------------------------------------------------


def _inquiry(**given: Any) -> "Inquiry":
    from consumer.core.errors import ConfigurationError, Problem
    from consumer.core.inquiry import WAITING, Inquiry
    from consumer.core.outcomes import Outcome, Reason
    from consumer.core.plates import normalise

    problems: list[Problem] = []
    without_the_empty(problems, given)
    names = ("outcomes", "reasons", "codes", "rules", "accounts", "lots", "orders", "event_ids")
    wanted: dict[str, Any] = {name: frozenset(given[name] or ()) for name in names}
    known_names(problems, "--outcome", wanted["outcomes"], (*Outcome, WAITING))
    known_names(problems, "--reason", wanted["reasons"], Reason)
    problems += codes_that_are_none(wanted["codes"])
    wanted["plates"] = frozenset(normalise(plate) for plate in given["plates"] or ())
    if "" in wanted["plates"]:
        problems.append(Problem("--plate", "nothing is left of it as a plate", "write it whole"))
    now = datetime.now(UTC)
    until = time_or_problem(problems, "--until", given["until"], now)
    since = time_or_problem(problems, "--since", given["since"], now)
    if given["since"] is None:
        since = (until or now) - SPAN
    problems += until_before_since(since, until)
    if problems:
        raise ConfigurationError(problems)
    return Inquiry(**wanted, since=since, until=until)


def _hashes(settings: "Settings", plates: Iterable[str]) -> frozenset[str]:
    """As the outcome topic has them. They are looked for in clear, too: `privacy.plates` may have been another setting then."""
    from consumer.core.outcomes import PlateMode, plate_hash

    if not plates:
        return frozenset()
    if settings.privacy.plates is PlateMode.NONE:
        problem = "outcomes hold no plates (privacy.plates: none in the settings)"
        raise wrong("--plate", problem, "ask by --order or --event-id")
    privacy = settings.plate_privacy()
    return frozenset(filter(None, (plate_hash(plate, privacy) for plate in plates)))


# -- Reading it -------------------------------------------------------------------------------------


async def _read(search: _Search, findings: "Findings | Charges") -> list[str]:
    """Reads the retry topics first: an order that gets its outcome meanwhile is found with it. Returns the topics that there were."""
    import asyncio

    import orjson
    from rich.console import Console

    from consumer import rulebook
    from consumer.core.inquiry import is_outcome, read_waiting
    from consumer.lookup import Reading

    settings, inquiry = search.settings, search.inquiry
    topic = settings.kafka.topics.outcomes
    book: RuleBook | None = None
    if search.of_waiting and inquiry.needs_rules and search.rules is not None:
        book = rulebook.load(search.rules)
    status = Console(stderr=True).status(f"Reading {topic}")  # on a terminal only
    slow = asyncio.get_running_loop().call_later(1, status.start)
    try:
        async with Reading.connect(settings, topic) as reading:
            if not await reading.has(topic):
                raise wrong(
                    "kafka.topics.outcomes",
                    f"there is no topic {topic}",
                    "name the one that the service writes to",
                )
            retries = [
                name for name in settings.retry_topics if search.of_waiting and await reading.has(name)
            ]
            for name in retries:
                async with aclosing(reading.since(name, search.start)) as records:
                    async for record in records:
                        waiting = read_waiting(record, book, search.now)
                        if waiting is not None:
                            findings.add_waiting(waiting)
            async with aclosing(reading.since(topic, search.start)) as records:
                async for record in records:
                    try:
                        found = orjson.loads(record.value or b"")
                    except orjson.JSONDecodeError:
                        continue
                    if is_outcome(found):
                        findings.add(found)
                        if findings.read % 1000 == 0:
                            status.update(f"Reading {topic}: {findings.read} outcomes")
    finally:
        slow.cancel()
        status.stop()
    return retries


# -- Telling it -------------------------------------------------------------------------------------


def _print_found(
    search: _Search, retries: list[str], findings: "Findings", waiting: "list[WaitingOrder]", *, reveal: bool
) -> None:
    print(_searched(search, retries, findings.read))
    shown = findings.outcomes
    total = findings.counts.total()
    if total > len(shown):
        print(f"The latest {len(shown)} of {total}; --rows shows more of them, filters fewer")
    sentences = _sentences()
    for outcome in shown:
        print()
        text = _clean(outcome.get("plate"), reveal=reveal)
        for line in _block(search, outcome, sentences):
            print(text(line))
    limit = ROWS if findings.rows is None else findings.rows
    for each in waiting[:limit]:
        print()
        text = _clean(each.plate, reveal=reveal)
        for line in _waiting_block(search, each):
            print(text(line))
    if len(waiting) > limit:
        print(f"\n... and {len(waiting) - limit} more that wait; --rows shows more of them")


def _searched(search: _Search, retries: list[str], read: int) -> str:
    inquiry, topics = search.inquiry, search.settings.kafka.topics
    until = "" if inquiry.until is None else f" until {_time(inquiry.until)}"
    words = f"Read {read} outcome{'s' * (read != 1)} in {topics.outcomes}; those decided since {_time(inquiry.since)}{until}"
    return words + (f", and who waits in {', '.join(retries)}" if retries else "")


def _block(search: _Search, outcome: "OutcomeFields", sentences: dict[str, str]) -> Iterator[str]:
    """One order's outcome, for people, with its plate."""
    attempts = outcome.get("attempts")
    attempts = attempts if isinstance(attempts, dict) else {}
    what = outcome["outcome"]
    reason = outcome.get("reason")
    plate, hashed = outcome.get("plate"), outcome.get("plate_hash")
    shown = "-"
    if isinstance(plate, str):
        shown = plate
    elif isinstance(hashed, str):
        shown = f"plate #{hashed[:12]}"
    yield "  ".join(
        [
            _time(outcome["decided_at"]),
            f"order {outcome.get('order_id') or '-'}",
            shown,
            f"{what}{f' ({reason})' if reason else ''}",
        ]
    )
    yield f"  {sentences.get(str(reason)) or sentences.get(what, '')}".rstrip()
    if outcome.get("detail"):
        yield f"  detail    {outcome['detail']}"
    said = _said(outcome.get("code") or outcome.get("http_status"), outcome.get("message"))
    if said:
        yield f"  platform  {said}" + (f" ({outcome['hint']})" if outcome.get("hint") else "")
    yield f"  calls     {_calls(attempts)}"
    if outcome.get("grant_serial"):
        yield f"  coupon    {outcome['grant_serial']}"
    if outcome.get("reverses"):
        yield f"  reverses  {outcome['reverses']}"
    yield from _decided_by(outcome.get("rule"), outcome.get("account"), outcome.get("api_store_code"))
    if outcome.get("event_id") not in (None, outcome.get("order_id")):
        yield f"  event_id  {outcome['event_id']}"
    place = outcome.get("record")
    if isinstance(place, dict):
        yield from _event(
            search,
            place.get("topic"),
            place.get("partition"),
            place.get("offset"),
            outcome.get("order_index"),
        )


def _waiting_block(search: _Search, waiting: "WaitingOrder") -> Iterator[str]:
    """One order that waits, for people, with its plate."""
    context = waiting.context
    yield f"{_time(context.written_at)}  order {context.order_id or '-'}  {waiting.plate or '-'}  waiting"
    due = "at" if context.due_at > search.now else "which was due at"
    last = _said(context.words.code or context.label, context.words.message)
    answer = f"; last answer {last}" if last else ""
    yield f"  {_WAITS[context.wait]}, {due} {_time(context.due_at)} ({context.attempts.count} so far{answer})"
    yield from _decided_by(waiting.rule, waiting.account, waiting.lot)
    if context.event_id not in (None, context.order_id):
        yield f"  event_id  {context.event_id}"
    yield f"  in        {waiting.topic}"
    yield from _event(search, *context.origin, context.index)


_WAITS = {
    "reply": "It waits for its next attempt",
    "stop": "The platform refuses its account: it waits for its next turn",
    "hold": "Its account or rule is on hold in the rules: it waits for its next turn",
    "breaker": "The platform fails for its account: it waits for its next turn",
}


def _said(code: object, message: object) -> str:
    return " ".join(str(each) for each in (code, message) if each)


def _calls(attempts: dict[str, Any]) -> str:
    count = attempts.get("count") or 0
    if not count:
        return "none"
    words = f"{count}, the last one ended {_time(attempts.get('last_at'))}"
    if attempts.get("ambiguous"):
        words += "; one without an answer may have granted the coupon"
    return words


def _decided_by(rule: object, account: object, lot: object) -> Iterator[str]:
    parts = [
        f"{name} {value}" for name, value in (("rule", rule), ("account", account), ("lot", lot)) if value
    ]
    if parts:
        yield f"  by        {', '.join(parts)}"


def _event(search: _Search, topic: object, partition: object, offset: object, index: object) -> Iterator[str]:
    """Where it stands, and how to look into it."""
    yield f"  event     {topic}-{partition}@{offset}" + (f", order {index} of it" if index else "")
    rules = "RULES" if search.rules is None else _short(search.rules)
    words = ["charging-coupon", "explain", rules]
    words += ["--settings", str(search.file)] if search.file is not None else []
    words += ["--topic", str(topic), "--partition", str(partition), "--offset", str(offset)]
    yield f"  explain   {shlex.join(words)}"


def _short(path: Path) -> str:
    """Relative to the working directory, where it lies within."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _clean(plate: object, *, reveal: bool) -> Callable[[str], str]:
    """What prints a line: no secret, no plate but where it is to be shown, nothing that a terminal obeys."""
    from consumer.core.inquiry import masked
    from consumer.core.outcomes import inert

    def clean(line: str) -> str:
        return inert(line) if reveal else told(str(masked(line, plate)))

    return clean


def _time(at: object) -> str:
    """By the clock here, with its offset."""
    try:
        moment = at if isinstance(at, datetime) else datetime.fromisoformat(str(at))
        return moment.astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError):
        return str(at or "-")


def _sentences() -> dict[str, str]:
    """What the schema says of each outcome and reason, in English."""
    import re

    from consumer.schemas import written

    properties = json.loads(written("outcomes"))["properties"]
    return {
        each["const"]: re.split(r" (?=[\u3400-\u9fff])", each["description"], maxsplit=1)[0]
        for name in ("outcome", "reason")
        for each in properties[name]["oneOf"]
        if isinstance(each.get("const"), str)
    }


def _as_json(findings: "Findings", waiting: "list[WaitingOrder]", *, reveal: bool) -> Iterator[str]:
    for body in (*findings.outcomes, *map(_waiting_body, waiting)):
        yield _json_line(body, reveal=reveal)


def _json_line(body: "OutcomeFields", *, reveal: bool) -> str:
    from consumer.core.inquiry import masked

    return json.dumps(body if reveal else masked(body, body.get("plate")), ensure_ascii=False)


def _waiting_body(waiting: "WaitingOrder") -> dict[str, Any]:
    """Like an outcome, as far as there is one."""
    from consumer.core.inquiry import WAITING

    context = waiting.context
    return {
        "outcome_id": waiting.outcome_id,
        "outcome": WAITING,
        "order_id": context.order_id,
        "event_id": context.event_id,
        "order_index": context.index,
        "plate": waiting.plate,
        "api_store_code": waiting.lot,
        "account": waiting.account,
        "rule": waiting.rule,
        "code": context.words.code,
        "http_status": context.words.http_status,
        "message": context.words.message,
        "attempts": {"count": context.attempts.count, "ambiguous": context.attempts.ambiguous},
        "waits_for": context.wait,
        "written_at": context.written_at.isoformat(),
        "due_at": context.due_at.isoformat(),
        "retry_topic": waiting.topic,
        "record": context.origin._asdict(),
    }


# -- Charges ----------------------------------------------------------------------------------------

_COLUMNS = (
    "order_id", "event_id", "outcome", "reason", "coupons", "ambiguous", "pushes", "reversals", "grant_serial", "code",
    "message", "decided_at", "due_at", "api_store_code", "account", "rule", "plate", "plate_hash", "station_id",
    "started_at", "ended_at", "energy_wh", "fee_fen",
)  # fmt: skip


def _tell_charges(
    search: _Search,
    retries: list[str],
    read: int,
    charges: "Sequence[Charge]",
    *,
    limit: int | None,
    listing: Listing,
    reveal: bool,
) -> None:
    shown = charges if limit is None else charges[len(charges) - min(limit, len(charges)) :]
    bodies = map(_charge_body, shown)
    if listing is Listing.JSON:
        for body in bodies:
            print(_json_line(body, reveal=reveal))
    elif listing is Listing.CSV:
        _print_csv(bodies, reveal=reveal)
    else:
        print(_searched(search, retries, read))
        if len(shown) < len(charges):
            print(
                f"The latest {len(shown)} of {len(charges)} charges; --rows shows more of them, filters fewer"
            )
        if charges:
            print()
            _print_charges(list(bodies), reveal=reveal)
            print()
            _print_sums(charges)


def _charge_body(charge: "Charge") -> dict[str, Any]:
    """What counts of it, and what its pushes came to."""
    from consumer.core.inquiry import WaitingOrder

    last = charge.last
    return {
        **(_waiting_body(last) if isinstance(last, WaitingOrder) else last),
        "order_id": charge.order_id,
        "coupons": charge.coupons,
        "ambiguous": charge.ambiguous,
        "pushes": charge.pushes,
        "reversals": len(charge.reversed_by),
        "reversed_by": sorted(charge.reversed_by),
    }


def _print_csv(bodies: "Iterable[OutcomeFields]", *, reveal: bool) -> None:
    """With a mark by which spreadsheets see that it is UTF-8, and no cell that they would take for a formula."""
    import csv
    import sys

    from consumer.core.inquiry import masked
    from consumer.core.outcomes import inert

    def cell(found: object) -> str:
        if isinstance(found, str):
            return inert(f"'{found}" if found.startswith(("=", "+", "-", "@")) else found)
        return "" if found is None else json.dumps(found)

    sys.stdout.write("\ufeff")
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for body in bodies:
        shown = body if reveal else masked(dict(body), body.get("plate"))
        rows.writerow([cell(shown.get(name)) for name in _COLUMNS])


def _print_charges(bodies: "Sequence[OutcomeFields]", *, reveal: bool) -> None:
    rows = []
    for body in bodies:
        text = _clean(body.get("plate"), reveal=reveal)
        reason, reversals = body.get("reason"), body["reversals"]
        notes = [
            str(body.get("grant_serial") or ""),
            "may have a coupon: ask the platform by event_id" if body["ambiguous"] else "",
            f"reversed {reversals} time{'s' * (reversals != 1)}" if reversals else "",
        ]
        cells = (
            _time(body.get("decided_at") or body.get("written_at")),
            body["order_id"] or "-",
            f"{body['outcome']}{f' ({reason})' if reason else ''}",
            str(body["coupons"]),
            str(body["pushes"]),
            "; ".join(filter(None, notes)),
        )
        rows.append([text(str(cell)) for cell in cells])
    print_table(("DECIDED", "ORDER", "OUTCOME", "COUPONS", "PUSHES", ""), rows)


def _print_sums(charges: "Sequence[Charge]") -> None:
    from collections import Counter

    counts = Counter(charge.outcome for charge in charges)
    coupons, doubtful = Counter[str](), Counter[str]()
    for charge in charges:
        coupons[charge.outcome] += charge.coupons
        doubtful[charge.outcome] += charge.ambiguous
    rows = [
        (str(count), told(name), str(coupons[name]), str(doubtful[name]))
        for name, count in counts.most_common()
    ]
    rows.append((str(len(charges)), "in all", str(coupons.total()), str(doubtful.total())))
    print_table(("CHARGES", "OUTCOME", "COUPONS", "MAY HAVE ONE"), rows)


# -- Where nothing is found -------------------------------------------------------------------------


def _end_without(search: _Search, retries: list[str], listing: Listing) -> None:
    for line in _nothing(search, retries):
        typer.echo(line, err=listing is not Listing.TEXT)
    raise typer.Exit(NOTHING_EXIT)


def _nothing(search: _Search, retries: list[str]) -> Iterator[str]:
    """Where else to look."""
    from consumer.core.inquiry import WAITING
    from consumer.settings.loading import STAND_INS

    inquiry, settings = search.inquiry, search.settings
    yield ""
    yield "Nothing was found. What it can be:"
    if inquiry.outcomes == {WAITING}:
        yield "  - It has its outcome by now: ask without --outcome waiting."
    else:
        yield "  - It was decided earlier: --since 7d looks further back, as far as the outcome topic is kept."
    if inquiry.of_waiting and not search.of_waiting:
        yield "  - It waits for another attempt: for a plate or a lot that is known only with `rules` in the settings."
    if not retries and search.of_waiting and settings.retry_topics:
        yield f"  - The retry topics ({', '.join(settings.retry_topics)}) are not there, so that nobody was seen to wait."
    if not inquiry.of_waiting:
        yield "  - It waits for another attempt, and has no outcome: --outcome waiting."
    yield "  - It is under way, or not read yet: /readyz and the status page of the service tell its lag."
    events = settings.kafka.topics.events
    where = "the events topics" if list(events) == [STAND_INS["events"]] else ", ".join(events)
    yield f"  - It never came: look for it in {where}."
    if inquiry.orders or inquiry.event_ids:
        yield "  - Its number could not be read from the event: --outcome invalid --since 1d lists such events."
    if inquiry.plates:
        yield "  - The plate is written otherwise in the event, or the key of hashes was another: ask by --order."
