"""What became of an order, and how it is written to Kafka. Performs no I/O.

An outcome's fields are described in `schemas/coupon-outcome.v1.schema.json`.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from consumer.core.events import (
    NO_ATTEMPTS,
    NO_WORDS,
    Attempts,
    Coordinates,
    GatewayWords,
    Record,
    RetryContext,
    Value,
    Wait,
)
from consumer.core.headers import Header, event_headers, own_headers, retry_headers
from consumer.core.plates import DOTS, mask
from consumer.core.values import value

CE_TYPE = "charging-coupon.outcome.v1"
TRACE_HEADERS = ("traceparent", "tracestate")

LONGEST_TEXT = 2000
"""Characters of the platform's `message` and `hint` that an outcome keeps."""

LONGEST_WORD = 200
"""Characters of the platform's other words, of a dead letter's header, of any text in a reduced outcome."""

_HIDDEN = "***"
_DIGITS = frozenset("0123456789")
LIKE_A_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领学警港澳挂无]"
    rf"(?:[\s\-{DOTS}]*[A-Za-z0-9挂学警港澳使领]){{5,7}}"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = 1 << 63


class Outcome(StrEnum):
    """The final word on an order. The platform's answers first, then our own words."""

    GRANTED = "granted"
    ALREADY_GRANTED = "already_granted"
    NOT_ENTERED = "not_entered"
    LIMITED = "limited"
    NOT_CONFIGURED = "not_configured"
    LOT_FAILED = "lot_failed"
    PLATFORM_FAILED = "platform_failed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    UNMATCHED = "unmatched"
    SKIPPED = "skipped"
    INVALID = "invalid"
    SUSPECT = "suspect"
    EXPIRED = "expired"
    SHADOW = "shadow"


class Reason(StrEnum):
    """Why an order got an outcome of ours. A closed set: it is also a metric label."""

    PLATE_MISSING = "plate_missing"
    ID_MISSING = "id_missing"
    FIELD_MISSING = "field_missing"
    ZONE_MISSING = "zone_missing"
    BELOW_THRESHOLD = "below_threshold"
    NOT_A_CHARGE = "not_a_charge"
    NOT_FINISHED = "not_finished"
    REVERSAL = "reversal"
    DELETE = "delete"
    TOMBSTONE = "tombstone"
    STOP_REASON = "stop_reason"
    POLICY = "policy"
    NO_RULE = "no_rule"
    NOT_JSON = "not_json"
    NOT_FINITE = "not_finite"
    ENCRYPTED = "encrypted"
    NOT_TEXT = "not_text"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    SCHEMA = "schema"
    RULE_ERROR = "rule_error"
    OVERFLOW = "overflow"
    PLATE_DOUBTFUL = "plate_doubtful"
    END_BEFORE_START = "end_before_start"
    IN_FUTURE = "in_future"
    BEFORE_2000 = "before_2000"
    TOO_MUCH_ENERGY = "too_much_energy"
    DURATIONS_DISAGREE = "durations_disagree"
    DEADLINE = "deadline"
    HOLD = "hold"


@value
class Finding:
    """An order, or a whole record, that ends without a request: what reading or the rules found.

    Attributes:
        index: the order's place in the record; 0 where the record holds none.
        outcome: one of ours (`unmatched` and after).
        detail: one sentence for the person who looks into it; never a plate or a secret.
        dead_letter: the original goes to the dead-letter topic too.
        values: what could be read all the same (order_id, plate, station_id, ...).
        reverses: the order that a reversal takes back.
        rule: the rule that decided, where one did.

    """

    index: int
    outcome: Outcome
    reason: Reason
    detail: str = ""
    dead_letter: bool = False
    values: Mapping[str, Value] | None = None
    reverses: str | None = None
    rule: str | None = None
    account: str | None = None
    source: str | None = None


@value
class Later:
    """An order goes to a retry topic instead of ending. The outcome beside it is what it would end as now.

    Attributes:
        topic: the retry topic's place among all of them, shortest delay first.
        due_at: when it is taken in again.
        tier, waits, excused_seconds: as in `RetryContext`, this wait counted.

    """

    wait: Wait
    topic: int
    due_at: datetime
    tier: int
    waits: int
    excused_seconds: float


@value
class Resolution:
    """What becomes of one order: an outcome, with a dead letter where asked for; or a retry. The ledger writes it.

    Attributes:
        record: the record that held the order.
        index: the order's place in it.
        parameters: the request's fields as sent, without `sign`; None if none was built.
        metadata: the values computed by the rule, by metadata key.
        decided_at: when this was decided, aware.
        label: the last reply's metric label (`Reply.label`); empty where no call was made.
        later: it waits in a retry topic, and has no outcome yet.
        traceparent: of the span that tells of it, where it is traced.

    """

    record: Record
    index: int
    outcome: Outcome
    decided_at: datetime
    reason: Reason | None = None
    detail: str = ""
    dead_letter: bool = False
    source: str | None = None
    rule: str | None = None
    account: str | None = None
    rules_hash: str = ""
    values: Mapping[str, Value] | None = None
    suspicions: tuple[str, ...] = ()
    reverses: str | None = None
    parameters: Mapping[str, str] | None = None
    metadata: Mapping[str, int] | None = None
    attempts: Attempts = NO_ATTEMPTS
    words: GatewayWords = NO_WORDS
    label: str = ""
    later: Later | None = None
    traceparent: str | None = None

    @property
    def readable(self) -> bool:
        """The order could be read, whatever became of it."""
        return self.outcome is not Outcome.INVALID or self.rule is not None


class PlateMode(StrEnum):
    """What of a plate the outcome topic holds."""

    CLEAR = "clear"
    HASH = "hash"
    BOTH = "both"
    NONE = "none"

    @property
    def clear(self) -> bool:
        """Plates may be read in the outcome topic."""
        return self in (PlateMode.CLEAR, PlateMode.BOTH)

    @property
    def hashed(self) -> bool:
        """Plates can be compared in the outcome topic, by whoever has the key."""
        return self in (PlateMode.HASH, PlateMode.BOTH)


@dataclass(frozen=True, slots=True)
class Privacy:
    """How plates appear in outcomes.

    Attributes:
        plates: the mode; it governs the record key, `subject` and free text too.
        hash_key: the key of the plates' HMAC-SHA256; needed for `hash` and `both`.

    """

    plates: PlateMode = PlateMode.CLEAR
    hash_key: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if self.plates.hashed and not self.hash_key:
            raise ValueError("plates cannot be hashed without a key: anyone could list all plates")


@dataclass(frozen=True, slots=True)
class OutcomeContext:
    """What all outcomes of a service share.

    Attributes:
        cluster_id: the Kafka cluster of the events, as it names itself.

    """

    cluster_id: str
    privacy: Privacy = Privacy()


@value
class Message:
    """A Kafka record to be written. Only a tombstone's dead letter has no value."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    @property
    def size(self) -> int:
        """Bytes in Kafka, at most: each length takes up to 5 bytes, a batch's head 61, a record's 20."""
        size = 81 + 10 + len(self.key or b"") + len(self.value or b"")
        for name, text in self.headers:
            size += 10 + (len(name) if name.isascii() else len(_utf8(name))) + len(text or b"")
        return size


def outcome_id(cluster_id: str, coordinates: Coordinates, index: int) -> str:
    """The same for every repetition of the same order of the same record, and for no other."""
    return f"{cluster_id}/{coordinates.topic}/{coordinates.partition}/{coordinates.offset}/{index}"


# -- An outcome -------------------------------------------------------------------------------------


def encode_outcome(resolution: Resolution, context: OutcomeContext) -> Message:
    """The outcome as it is written, whatever the resolution holds: this never raises.

    Fields without a value are null, never absent, so that every reader sees one shape.
    """
    record, privacy, words = resolution.record, context.privacy, resolution.words
    values, parameters = resolution.values or {}, resolution.parameters or {}
    plate = _text(values.get("plate")) or parameters.get("plate")
    order_id = _text(values.get("order_id"))
    identity = outcome_id(context.cluster_id, record.origin, resolution.index)
    hidden = not privacy.plates.clear

    def said(text: str | None, longest: int) -> str | None:
        return text and _cut(_hide(text, plate, privacy) if hidden else text, longest)

    body: dict[str, Any] = {
        "outcome_id": identity,
        "outcome": resolution.outcome,
        "reason": resolution.reason,
        "detail": said(resolution.detail, LONGEST_TEXT),
        "code": said(words.code, LONGEST_WORD),
        "http_status": _integer(words.http_status),
        "message": said(words.message, LONGEST_TEXT),
        "hint": said(words.hint, LONGEST_TEXT),
        "order_id": order_id,
        "event_id": _text(values.get("event_id")) or parameters.get("event_id"),
        "order_index": resolution.index,
        "plate": plate if privacy.plates.clear else None,
        "plate_hash": plate_hash(plate, privacy),
        "station_id": _text(values.get("station_id")),
        "api_store_code": parameters.get("api_store_code"),
        "account": resolution.account,
        "source": resolution.source,
        "rule": resolution.rule,
        "rules_hash": resolution.rules_hash,
        "seqno": said(words.seqno, LONGEST_WORD),
        "grant_serial": said(words.grant_serial, LONGEST_WORD),
        "enter_time": said(words.enter_time, LONGEST_WORD),
        "data_node": said(words.data_node, LONGEST_WORD),
        "time_cost_ms": _integer(words.time_cost_ms),
        "started_at": _instant(values.get("started_at")),
        "ended_at": _instant(values.get("ended_at")),
        "energy_wh": _integer(values.get("energy_wh")),
        "seconds": _integer(values.get("seconds")),
        "fee_fen": _integer(values.get("fee_fen")),
        "metadata": None if resolution.metadata is None else dict(resolution.metadata),
        "request": _shadow_request(resolution, plate, privacy),
        "attempts": _attempts(resolution.attempts),
        "suspicions": list(resolution.suspicions),
        "reverses": resolution.reverses,
        "payload_hash": None if record.value is None else payload_hash(record.value),
        "record": _place(record),
        "decided_at": _instant(resolution.decided_at),
        "reduced": False,
    }
    headers: list[tuple[str, bytes | None]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", _utf8(identity)),
        ("ce_type", CE_TYPE.encode()),
        ("ce_source", _utf8(f"/{context.cluster_id}/{record.origin.topic}")),
        ("ce_time", _utf8(body["decided_at"] or "")),
        ("content-type", b"application/json"),
    ]
    headers += _trace_headers(resolution)
    return Message(_outcome_key(record, order_id, privacy), _json(body), headers)


def _trace_headers(resolution: Resolution) -> Iterable[Header]:
    """The outcome belongs to the span that tells of its order; without one, to whatever the event belongs to."""
    ours = resolution.traceparent
    for name, theirs in resolution.record.headers:
        if name in TRACE_HEADERS and theirs is not None and (ours is None or name != "traceparent"):
            yield name, theirs
    if ours is not None:
        yield "traceparent", ours.encode()


def reduced(message: Message) -> Message:
    """The outcome again, for a broker that finds it too large: long texts cut, the platform's `hint` left out.

    It keeps every field that says what became of the order. A key that is long itself is
    replaced by its hash, so that repetitions still meet in one partition.
    """
    body: dict[str, Any] = orjson.loads(message.value or b"{}")
    body |= {"hint": None, "request": None, "reduced": True}
    if len(_json(body.get("metadata"))) > LONGEST_TEXT:
        body["metadata"] = None
    body = {
        name: _cut(value, LONGEST_WORD) if isinstance(value, str) else value for name, value in body.items()
    }
    headers = [header for header in message.headers if header[0] not in TRACE_HEADERS]
    return Message(_short_key(message.key), _json(body), headers)


def payload_hash(value: bytes) -> str:
    """Tells two pushes of one order apart, and finds a payload again that was not kept."""
    return _sha256(value)


@lru_cache(maxsize=4)
def _sha256(value: bytes) -> str:
    """A record's many orders ask for the same hash, one after the other."""
    return f"sha256:{hashlib.sha256(value).hexdigest()}"


def _outcome_key(record: Record, order_id: str | None, privacy: Privacy) -> bytes | None:
    """The source's key, and so its order; an order's own number where that key may hold a plate."""
    if privacy.plates.clear and record.key is not None:
        return record.key
    return None if order_id is None else _utf8(order_id)


def _shadow_request(resolution: Resolution, plate: str | None, privacy: Privacy) -> dict[str, str] | None:
    """A shadow outcome shows what would have been asked for; the others need not repeat it."""
    if resolution.outcome is not Outcome.SHADOW or resolution.parameters is None:
        return None
    if privacy.plates.clear:
        return dict(resolution.parameters)
    return {
        name: _hide(text, plate, privacy) or ""
        for name, text in resolution.parameters.items()
        if name != "plate"
    }


def _attempts(attempts: Attempts) -> dict[str, Any]:
    return {
        "count": attempts.count,
        "first_at": _instant(attempts.first_at),
        "last_at": _instant(attempts.last_at),
        "seconds": None if attempts.seconds is None else round(attempts.seconds, 6),
        "ambiguous": attempts.ambiguous,
    }


def _place(record: Record) -> dict[str, Any]:
    topic, partition, offset = record.origin
    return {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": _instant_of_ms(record.event_timestamp_ms),
    }


# -- A dead letter ----------------------------------------------------------------------------------


def encode_dead_letter(resolution: Resolution, context: OutcomeContext, max_bytes: int) -> Message:
    """The original key, value and headers, and beside them why it is here. Never raises.

    What does not fit into `max_bytes` is replaced by its hash and coordinates.
    """
    record = resolution.record
    ours = _dead_letter_headers(resolution, context)
    theirs = event_headers(record.headers)
    whole = Message(record.key, record.value, [*theirs, *ours, *own_headers({"payload": "original"})])
    if whole.size <= max_bytes:
        return whole
    stand_in = {
        "payload_hash": None if record.value is None else payload_hash(record.value),
        "payload_bytes": len(record.value or b""),
        "headers_left_out": len(theirs),
        "record": _place(record),
    }
    headers = [*ours, *own_headers({"payload": "replaced"}), ("content-type", b"application/json")]
    return Message(_short_key(record.key), _json(stand_in), headers)


def _dead_letter_headers(resolution: Resolution, context: OutcomeContext) -> list[Header]:
    record, values, parameters = resolution.record, resolution.values or {}, resolution.parameters or {}
    plate = _text(values.get("plate")) or parameters.get("plate")
    topic, partition, offset = record.origin
    texts = {
        "outcome": resolution.outcome.value,
        "reason": None if resolution.reason is None else resolution.reason.value,
        "detail": _hide(resolution.detail, plate, context.privacy) or None,
        "code": _hide(resolution.words.code, plate, context.privacy),
        "order_id": _text(values.get("order_id")),
        "event_id": _text(values.get("event_id")) or parameters.get("event_id"),
        "order_index": str(resolution.index),
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "timestamp": str(record.event_timestamp_ms),
        "account": resolution.account,
        "rule": resolution.rule,
        "rules_hash": resolution.rules_hash or None,
        "attempts": str(resolution.attempts.count),
        "decided_at": _instant(resolution.decided_at),
        "traceparent": resolution.traceparent,
    }
    identity = outcome_id(context.cluster_id, record.origin, resolution.index)
    return own_headers(
        {"outcome_id": identity} | {name: _cut(text, LONGEST_WORD) for name, text in texts.items()}
    )


# -- A retry ----------------------------------------------------------------------------------------


def encode_retry(resolution: Resolution, later: Later, context: OutcomeContext) -> Message:
    """The original key, value and headers, and beside them what the next attempt has to know. Never raises."""
    record, values = resolution.record, resolution.values or {}
    plate = _text(values.get("plate"))
    words = resolution.words
    known = RetryContext(
        origin=record.origin,
        timestamp_ms=record.event_timestamp_ms,
        index=resolution.index,
        wait=later.wait,
        written_at=resolution.decided_at,
        due_at=later.due_at,
        tier=later.tier,
        waits=later.waits,
        excused_seconds=later.excused_seconds,
        attempts=resolution.attempts,
        label=resolution.label,
        words=GatewayWords(
            code=_cut(_hide(words.code, plate, context.privacy), LONGEST_WORD),
            http_status=words.http_status,
            message=_cut(_hide(words.message, plate, context.privacy), LONGEST_WORD),
            seqno=_cut(_hide(words.seqno, plate, context.privacy), LONGEST_WORD),
            enter_time=_cut(_hide(words.enter_time, plate, context.privacy), LONGEST_WORD),
        ),
        event_id=_text(values.get("event_id")),
        order_id=_text(values.get("order_id")),
    )
    texts = retry_headers(known) | {
        "outcome_id": outcome_id(context.cluster_id, record.origin, resolution.index),
        "account": resolution.account,
        "rule": resolution.rule,
        "rules_hash": resolution.rules_hash or None,
        "traceparent": resolution.traceparent,
    }
    return Message(record.key, record.value, [*event_headers(record.headers), *own_headers(texts)])


# -- Both -------------------------------------------------------------------------------------------


def _short_key(key: bytes | None) -> bytes | None:
    return key if key is None or len(key) <= LONGEST_WORD else _sha256(key).encode()


def plate_hash(plate: str | None, privacy: Privacy) -> str | None:
    """As the outcome topic holds it; None where it holds none."""
    if plate is None or not privacy.plates.hashed:
        return None
    return hmac.digest(privacy.hash_key, _utf8(plate), "sha256").hex()


def _hide(text: str | None, plate: str | None, privacy: Privacy) -> str | None:
    return text if privacy.plates.clear else hide_plate(text, plate)


def hide_plate(text: str | None, plate: str | None) -> str | None:
    """Free text without plates: the platform's hint may echo the whole string that was signed."""
    if not text:
        return text
    if plate and _may_hold(text, plate):
        spellings = [plate, quote(plate, errors="replace"), *([plate[1:]] if len(plate) > 5 else [])]
        text = re.sub(
            "|".join(re.escape(spelling) for spelling in spellings), _HIDDEN, text, flags=re.IGNORECASE
        )
    return without_plates(text)


def _may_hold(text: str, plate: str) -> bool:
    """False for nearly every text, without an expression compiled for the plate: it holds no such digits, or no such end."""
    end = plate[1:]
    if text.isascii() and end.isascii() and end.isalnum():
        return end.lower() in text.lower()
    return all(sign in text for sign in end if sign in _DIGITS)


def without_plates(text: str) -> str:
    """The text with all that looks like a plate taken out, rather too much than too little."""
    return LIKE_A_PLATE.sub(_HIDDEN, text)


def with_plates_masked(text: str, known: Iterable[str] = ()) -> str:
    """For who may know a plate's ends: these ones, and whatever looks like one. A plate comes before what it holds."""
    for plate in known:
        text = text.replace(plate, mask(plate)) if plate else text
    return LIKE_A_PLATE.sub(lambda match: mask(match[0]), text)


def _cut(text: str | None, length: int) -> str | None:
    return text if text is None or len(text) <= length else f"{text[: length - 1]}…"


def _text(value: Value | None) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Value | None) -> int | None:
    """JSON readers, and orjson, know integers of 64 bits; a longer one cannot be a charge's."""
    if isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64:
        return value
    return None


def _instant(value: Value | None) -> str | None:
    """UTC, RFC 3339, milliseconds. The calendar's two ends have no UTC."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    try:
        seconds = value.timestamp()
        if 0 < seconds < _YEAR_2242:  # where a float has room for microseconds
            return _whole_second(int(seconds)) + _FRACTIONS[value.microsecond // 1000]
        return plain_instant(value)
    except OverflowError:
        return None


_YEAR_2242 = 1 << 33
_FRACTIONS = tuple(f".{milliseconds:03}Z" for milliseconds in range(1000))


@lru_cache(maxsize=256)
def _whole_second(seconds: int) -> str:
    """What an outcome tells of itself happened within a second or two, like what the others tell."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def plain_instant(value: datetime) -> str:
    """An aware time in UTC, RFC 3339, milliseconds. May raise OverflowError."""
    return f"{value.astimezone(UTC).isoformat(timespec='milliseconds')[:-6]}Z"


def _instant_of_ms(milliseconds: int) -> str | None:
    """Kafka writes -1 where a record has no timestamp."""
    if milliseconds < 0:
        return None
    try:
        return _instant(_EPOCH + timedelta(milliseconds=milliseconds))
    except OverflowError:
        return None


def _json(body: object) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits: rare, so it is looked for only now
        return orjson.dumps(_plain(body))


def _plain(value: object) -> object:
    match value:
        case str():
            return _utf8(value).decode()
        case dict():
            return {_utf8(str(name)).decode(): _plain(inner) for name, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case bool() | float() | None:
            return value
        case int():
            return _integer(value)
        case _:
            return None


def _utf8(text: str | None) -> bytes:
    return (text or "").encode("utf-8", "replace")
