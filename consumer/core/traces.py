"""What a trace tells of an order: where it goes on from, the calls within it, all as plain values. Performs no I/O.

W3C Trace Context: https://www.w3.org/TR/trace-context/. Names of attributes are those of OpenTelemetry's
semantic conventions for messaging and HTTP; ours begin with `charging_coupon.`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from consumer.core.events import Record
from consumer.core.headers import PREFIX
from consumer.core.outcomes import TRACE_HEADERS, Outcome, Resolution, hide_plate
from consumer.core.replies import Reply

Attributes = dict[str, str | int]

_FAILED = frozenset(
    {
        Outcome.LOT_FAILED,
        Outcome.PLATFORM_FAILED,
        Outcome.NOT_CONFIGURED,
        Outcome.REJECTED,
        Outcome.UNKNOWN,
        Outcome.INVALID,
    }
)
"""Outcomes that somebody has to see to."""


@dataclass(frozen=True, slots=True)
class TracedCall:
    """One call for one order of a record.

    Attributes:
        index: the order's place in the record.

    """

    index: int
    url: str
    began_at: datetime
    ended_at: datetime
    reply: Reply


def parent_of(record: Record) -> dict[str, str]:
    """The headers that the order's trace goes on from: of an order that waited, those of its last span.

    The event's own `traceparent` stays with it untouched, wherever it goes.
    """
    ours = dict(_texts(record.headers, (f"{PREFIX}traceparent",)))
    found = dict(_texts(record.headers, TRACE_HEADERS))
    if ours:
        found["traceparent"] = ours[f"{PREFIX}traceparent"]
    return found


def _texts(headers: Iterable[tuple[str, bytes | None]], names: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    return (
        (name, value.decode("ascii", "replace"))
        for name, value in headers
        if name in names and value is not None
    )


def of_order(record: Record, resolution: Resolution, group: str) -> Attributes:
    """Of the order's span; nothing in it is a plate."""
    topic, partition, offset = record.coordinates
    values = resolution.values or {}
    plate, order_id = values.get("plate"), values.get("order_id")
    found: dict[str, str | int | None] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
        "messaging.kafka.offset": offset,
        "messaging.consumer.group.name": group,
        "charging_coupon.order_index": resolution.index,
        "charging_coupon.order_id": hide_plate(
            order_id if isinstance(order_id, str) else None, plate if isinstance(plate, str) else None
        ),
        "charging_coupon.account": resolution.account,
        "charging_coupon.rule": resolution.rule,
        "charging_coupon.attempts": resolution.attempts.count,
        "charging_coupon.code": resolution.label or None,
        "charging_coupon.reason": resolution.reason and resolution.reason.value,
        "charging_coupon.outcome": None if resolution.later else resolution.outcome.value,
        "charging_coupon.waits_for": None if resolution.later is None else resolution.later.wait.value,
        "error.type": error_of(resolution),
    }
    return {name: value for name, value in found.items() if value is not None}


def error_of(resolution: Resolution) -> str | None:
    """Why an order failed; None where it did not, or waits."""
    failed = resolution.later is None and resolution.outcome in _FAILED
    return resolution.outcome.value if failed else None


def of_call(call: TracedCall, number: int) -> Attributes:
    """Of a call's span, `number` counted from 0. The form holds plate and signature: nothing of it is told."""
    parts, status = urlsplit(call.url), call.reply.words.http_status
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found: dict[str, str | int | None] = {
        "http.request.method": "POST",
        "url.full": call.url.split("?")[0],
        "server.address": parts.hostname,
        "server.port": port,
        "http.response.status_code": status,
        "http.request.resend_count": number or None,
        "charging_coupon.code": call.reply.label,
        "error.type": error_of_call(call),
    }
    return {name: value for name, value in found.items() if value is not None}


def error_of_call(call: TracedCall) -> str | None:
    """The status that says so, or what the call met instead of one."""
    status = call.reply.words.http_status
    if status is None:
        return call.reply.label
    return str(status) if status >= 400 else None
