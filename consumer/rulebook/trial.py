"""What another integration sent, beside what the service would send for the same orders. Performs no I/O.

The one comes as JSON lines, the other from the outcome topic of a service in state `shadow`, or from
rules and events.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from consumer.core.coupons import OWN_PARAMETERS, CouponRequest, is_metadata
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.events import Order
from consumer.core.outcomes import Finding, Outcome
from consumer.core.templates import text_of
from consumer.rulebook.comparison import REQUEST, Comparison, Decision, Pair, decision_of, place_of

NOT_SENT = Decision("not sent")
NOT_THERE = Decision("no such order")
_ASKED = frozenset(list(Outcome)[: list(Outcome).index(Outcome.UNMATCHED)]) | {Outcome.SHADOW}
"""Outcomes of orders for which a coupon was asked for, or would have been."""

REQUIRED = OWN_PARAMETERS - {"metadata", "timestamp", "sign", "app_secret"}
_IGNORED = frozenset({"order_id", "sign", "sign_type", "timestamp", "app_secret"})
_FLAT = re.compile(r"metadata(?:\[(?P<bracket>[^\[\]]+)\]|\.(?P<dot>.+))\.(?P<part>name|value)")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_REMEDY = (
    'write a line like {"order_id": "A1", "plate": "粤BD12345", "metadata": {"minutes": 90}}, '
    "or the fields as they were posted"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One order on one side.

    Attributes:
        order_id: empty where only its event_id is known.

    """

    order_id: str
    event_id: str
    place: str
    plate: str
    decision: Decision


# -- What another integration sent ----------------------------------------------------------------------


def sent_rows(text: str, name: str) -> list[Row]:
    """A file's lines, an object each. Raises ConfigurationError with all that is wrong."""
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(_sent(line))
        except ValueError as error:
            problems.append(Problem(f"{name}:{number}", str(error), _REMEDY))
    if problems:
        raise ConfigurationError(problems)
    return rows


def _sent(line: str) -> Row:
    """Raises ValueError, in words."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("no object")  # noqa: TRY004  # said of a file, and not of our code
    texts = {name: _text(value) for name, value in found.items() if not isinstance(value, dict | list | None)}
    order_id, event_id = texts.get("order_id", ""), texts.get("event_id", "")
    if not (order_id or event_id):
        raise ValueError("neither order_id nor event_id")
    fields = {name: text for name, text in texts.items() if name not in _IGNORED and not is_metadata(name)}
    return Row(
        order_id, event_id, "", fields.get("plate", ""), Decision(REQUEST, None, fields, _metadata(found))
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _metadata(found: Mapping[str, Any]) -> dict[str, int]:
    """Its values: of numbers by key, of the platform's objects, of their JSON text, or of flat fields."""
    whole = found.get("metadata") or {}
    if isinstance(whole, str):
        try:
            whole = json.loads(whole)
        except ValueError:
            raise ValueError("metadata is no JSON") from None
    if not isinstance(whole, dict):
        raise ValueError("metadata is no object")  # noqa: TRY004  # as above
    values = {key: entry.get("value") if isinstance(entry, dict) else entry for key, entry in whole.items()}
    for name, value in found.items():
        match = _FLAT.fullmatch(name)
        if match and match["part"] == "value":
            values[match["bracket"] or match["dot"]] = value
    return {key: _integer(key, value) for key, value in values.items()}


def _integer(key: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise ValueError(f"metadata.{key} is no whole number")


# -- What the service would send -------------------------------------------------------------------------


def outcome_row(body: Mapping[str, Any]) -> Row:
    """One outcome. Of a call that was made it does not hold the whole request."""
    place = body["record"]
    event = place_of(f"{place['topic']}-{place['partition']}@{place['offset']}", body["order_index"])
    row = Row(body["order_id"] or "", body["event_id"] or "", event, body["plate"] or "", NOT_THERE)
    if body["outcome"] not in _ASKED:
        return replace(row, decision=Decision(f"{body['outcome']} ({body['reason']})", body["rule"]))
    request = body["request"]
    fields = request or {name: body[name] for name in ("plate", "event_id", "api_store_code") if body[name]}
    if request and "plate" not in request:  # as `privacy.plates` wants it; the subject is not whole either
        fields = {name: text for name, text in request.items() if name != "subject"}
    fields = {name: text for name, text in fields.items() if not is_metadata(name)}
    asked = Decision(REQUEST, body["rule"], fields, body["metadata"] or {}, whole=bool(request))
    return replace(row, decision=asked)


def planned_row(item: Order | Finding, plan: CouponRequest | Finding, place: str) -> Row:
    """An order of an event, by rules."""
    order_id, event_id, plate = (
        text_of(item.values or {}, name) or "" for name in ("order_id", "event_id", "plate")
    )
    return Row(order_id, event_id, place_of(place, item.index), plate, decision_of(plan, on_trial=True))


# -- Beside each other ------------------------------------------------------------------------------------


def compare(sent: Iterable[Row], ours: Iterable[Row], compared: Comparison) -> None:
    """Each order of either side once: of repetitions the first that was asked for, which the platform grants.

    Compared is what both sides know of a request.
    """
    theirs, repeated = _once(sent)
    own, again = _once(ours)
    known = {name for row in own for name in row.decision.fields}
    listed = {name: None for row in theirs for name in row.decision.fields}
    names = frozenset(name for name in listed if name in known)
    values = any(row.decision.metadata for row in theirs)
    for count, which in ((repeated, "sent"), (again, "pushed")):
        if count:
            compared.notes.append(f"{which} more than once: {count}; the first that asks counts")
    both = ", ".join([*(("metadata",) if values else ()), *filter(names.__contains__, listed)])
    compared.notes.append(f"compared: {both or 'only whether a coupon is asked for'}")
    if left := [name for name in listed if name not in names]:
        compared.notes.append(f"not compared, since no request of ours shows it: {', '.join(left)}")
    for pair in _pairs(theirs, own):
        compared.add(_limited(pair, names, values=values))


def _once(rows: Iterable[Row]) -> tuple[list[Row], int]:
    found: dict[str, Row] = {}
    count = 0
    for row in rows:
        count += 1
        key = row.order_id or row.event_id or row.place
        if key not in found or (row.decision.asks and not found[key].decision.asks):
            found[key] = row
    return list(found.values()), count - len(found)


def _pairs(theirs: list[Row], own: list[Row]) -> Iterator[Pair]:
    by_order = {row.order_id: row for row in own if row.order_id}
    by_event = {row.event_id: row for row in own if row.event_id}
    met: set[int] = set()
    for row in theirs:
        ours = by_order.get(row.order_id) or by_event.get(row.event_id or row.order_id)
        ours = ours or by_order.get(row.event_id)  # most use the order's number for both
        if ours is None:
            yield Pair(row.order_id or row.event_id, "", row.plate, row.decision, NOT_THERE)
            continue
        met.add(id(ours))
        yield Pair(
            row.order_id or row.event_id, ours.place, ours.plate or row.plate, row.decision, ours.decision
        )
    for row in own:
        if id(row) not in met:
            order = row.order_id or row.event_id
            yield Pair(order, row.place, row.plate, NOT_SENT, row.decision, alike=not row.decision.asks)


def _limited(pair: Pair, names: frozenset[str], *, values: bool) -> Pair:
    """To what is compared. No request goes without the required fields: where a line has none, it is not known."""
    old, new = pair.old, pair.new
    wanted = {
        name
        for name in names
        if (name in new.fields or new.whole) and (name in old.fields or name not in REQUIRED)
    }

    def limited(side: Decision) -> Decision:
        fields = {name: text for name, text in side.fields.items() if name in wanted}
        return replace(side, fields=fields, metadata=side.metadata if values else {}, wire=None)

    return pair._replace(old=limited(old), new=limited(new))
