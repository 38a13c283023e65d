"""What became of an order, and how it is written to Kafka. Performs no I/O.

An outcome's fields are described in `schemas/coupon-outcome.v1.schema.json`.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any
from unicodedata import category
from urllib.parse import quote

import msgspec
import orjson
from msgspec import Struct

from consumer.core.coupons import CouponRequest
from consumer.core.events import (
    NO_ATTEMPTS,
    NO_WORDS,
    Attempts,
    Coordinates,
    GatewayWords,
    Record,
    RetryContext,
    Span,
    Value,
    Wait,
)
from consumer.core.headers import Header, event_headers, own_headers, retry_headers
from consumer.core.plates import DOTS, mask
from consumer.core.values import Frozen, Memo

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


class Outcome(StrEnum):
    """The final word on an order. The platform's answers first, then our own words."""

    # As what it is equal to; an Enum's own is Python's to compute, and thrice as dear.
    __hash__ = str.__hash__

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

    __hash__ = str.__hash__

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


class Finding(Frozen):
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


class Later(Frozen):
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


class Resolution(Frozen):
    """What becomes of one order: an outcome, with a dead letter where asked for; or a retry. The ledger writes it.

    Attributes:
        record: the record that held the order.
        index: the order's place in it.
        request: what was asked for, or would have been; None if none was built.
        decided_at: when this was decided, by our own clock, in UTC.
        label: the last reply's metric label (`Reply.label`); empty where no call was made.
        later: it waits in a retry topic, and has no outcome yet.
        span: the order's (`Order.span`); None where only the values tell.
        traceparent: of the trace's span that tells of it, where it is traced.

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
    request: CouponRequest | None = None
    attempts: Attempts = NO_ATTEMPTS
    words: GatewayWords = NO_WORDS
    label: str = ""
    later: Later | None = None
    span: Span | None = None
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
        clear, hashed: as the mode says.
        keyed: both hashes of https://datatracker.ietf.org/doc/html/rfc2104 with the key in them: `hmac` begins anew
            each time.

    """

    plates: PlateMode = PlateMode.CLEAR
    hash_key: bytes = field(default=b"", repr=False)
    clear: bool = field(init=False)
    hashed: bool = field(init=False)
    keyed: tuple["hashlib._Hash", "hashlib._Hash"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.plates.hashed and not self.hash_key:
            raise ValueError("plates cannot be hashed without a key: anyone could list all plates")
        object.__setattr__(self, "clear", self.plates.clear)
        object.__setattr__(self, "hashed", self.plates.hashed)
        object.__setattr__(self, "keyed", _keyed(self.hash_key))


@dataclass(frozen=True, slots=True)
class OutcomeContext:
    """What all outcomes of a service share.

    Attributes:
        cluster_id: the Kafka cluster of the events, as it names itself.

    """

    cluster_id: str
    privacy: Privacy = field(default_factory=Privacy)


class Message(Frozen):
    """A Kafka record to be written. Only a tombstone's dead letter has no value."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]

    @property
    def size(self) -> int:
        """Bytes in Kafka, at most: each length takes up to 5 bytes, a batch's head 61, a record's 20."""
        size = 81 + 10 + len(self.key or b"") + len(self.value or b"")
        for name, text in self.headers:
            size += 10 + (len(name) if name.isascii() else len(_utf8(name))) + len(text or b"")
        return size


def outcome_id(cluster_id: str, coordinates: Coordinates, index: int) -> str:
    """The same for every repetition of the same order of the same record, and for no other."""
    topic, partition, offset = coordinates
    return f"{cluster_id}/{topic}/{partition}/{offset}/{index}"


_UNBOUNDED = 1 << 31
"""Bytes: Kafka takes none so large."""


# -- An outcome -------------------------------------------------------------------------------------


def encode_outcome(  # noqa: C901, PLR0912, PLR0915  # each order comes through here, and each call costs
    resolution: Resolution, context: OutcomeContext, max_bytes: int = _UNBOUNDED
) -> Message:
    """The outcome as it is written, whatever the resolution holds: this never raises.

    What does not fit into `max_bytes` is reduced. Written in one: what nearly every order has is looked at on the spot,
    and what is odd is left to others.
    """
    record, index, privacy = resolution.record, resolution.index, context.privacy
    values, request = resolution.values or _NOTHING, resolution.request
    retry, payload, detail = record.retry, record.value, resolution.detail
    origin, timestamp_ms = (
        (record.coordinates, record.timestamp_ms) if retry is None else (retry.origin, retry.timestamp_ms)
    )
    clear = privacy.clear
    order_id, event_id, plate = values.get("order_id"), values.get("event_id"), values.get("plate")
    station_id, energy_wh = values.get("station_id"), values.get("energy_wh")
    charged_seconds, fee_fen = values.get("seconds"), values.get("fee_fen")
    span = resolution.span
    started_at, ended_at = (
        (_instant(values.get("started_at")), _instant(values.get("ended_at")))
        if span is None
        else (_instant_at(span[0]), _instant_at(span[1]))
    )
    if type(order_id) is not str:
        order_id = _text(order_id)
    if type(event_id) is not str or not event_id:
        event_id = _text(event_id) or None
    if type(plate) is not str or not plate:
        plate = _text(plate) or None
    if detail:
        detail = _cut(detail if clear else hide_plate(detail, plate), LONGEST_TEXT) or ""
    words = resolution.words
    if not clear and words is not NO_WORDS:
        words = _without_plate(words, plate)
    said = (
        f"{words.code or ''}{words.message or ''}{words.hint or ''}{words.seqno or ''}{words.data_node or ''}"
    )
    if len(said) + len(words.grant_serial or "") + len(words.enter_time or "") > LONGEST_WORD:
        words = _reworded(words, _cut)  # else each of them is short, as they nearly always are
    status, time_cost_ms = words.http_status, words.time_cost_ms
    if type(status) is not int or not -_SHORT < status < _SHORT:
        status = _integer(status)
    if type(time_cost_ms) is not int or not -_SHORT < time_cost_ms < _SHORT:
        time_cost_ms = _integer(time_cost_ms)
    if type(energy_wh) is not int or not -_SHORT < energy_wh < _SHORT:
        energy_wh = _integer(energy_wh)
    if type(charged_seconds) is not int or not -_SHORT < charged_seconds < _SHORT:
        charged_seconds = _integer(charged_seconds)
    if type(fee_fen) is not int or not -_SHORT < fee_fen < _SHORT:
        fee_fen = _integer(fee_fen)
    topic, partition, offset = origin
    identity = outcome_id(context.cluster_id, origin, index)
    attempts, decided = resolution.attempts, resolution.decided_at
    decided_at, seconds = _MOMENTS[decided], attempts.seconds
    body = _Body(
        identity,
        resolution.outcome,
        resolution.reason,
        detail,
        words.code,
        status,
        words.message,
        words.hint,
        order_id,
        event_id,
        index,
        plate if clear else None,
        plate_hash(plate, privacy) if privacy.hashed else None,
        station_id if type(station_id) is str else None,
        None if request is None else request.api_store_code,
        resolution.account,
        resolution.source,
        resolution.rule,
        resolution.rules_hash,
        words.seqno,
        words.grant_serial,
        words.enter_time,
        words.data_node,
        time_cost_ms,
        started_at,
        ended_at,
        energy_wh,
        charged_seconds,
        fee_fen,
        None if request is None else request.metadata,
        _shadow_request(request, plate, privacy)
        if request is not None and resolution.outcome is _SHADOW
        else None,
        _Attempts(
            attempts.count,
            _MOMENTS[attempts.first_at],
            decided_at if attempts.last_at is decided else _MOMENTS[attempts.last_at],
            None if seconds is None else _to_microseconds(seconds),
            attempts.ambiguous,
        ),
        resolution.suspicions,
        resolution.reverses,
        None if payload is None else payload_hash(payload) if index == 0 else _payload_hash_again(payload),
        _Place(topic, partition, offset, _recorded_at(timestamp_ms)),
        decided_at,
    )
    try:
        value = _encode(body)
    except (TypeError, ValueError, OverflowError):
        value = _json(body)

    headers: list[Header] = [
        _SPECVERSION,
        ("ce_id", identity.encode("utf-8", "replace")),
        _TYPE,
        _SOURCES[context.cluster_id, topic],
        ("ce_time", b"" if decided_at is None else decided_at.encode()),
        _CONTENT_TYPE,
    ]
    if record.headers or resolution.traceparent is not None:
        headers += _trace_headers(resolution)
    key = record.key if clear else None
    if key is None and order_id is not None:
        key = _utf8(order_id)
    message = Message(key, value, headers)
    rest = max_bytes - len(value) - (0 if key is None else len(key))
    if (rest < _OWN_HEADERS or len(headers) > 6) and message.size > max_bytes:
        return reduced(message)
    return message


class _Attempts(Struct, gc=False):
    count: int
    first_at: str | None
    last_at: str | None
    seconds: float | None
    ambiguous: bool


class _Place(Struct, gc=False):
    topic: str
    partition: int
    offset: int
    timestamp: str | None


class _Body(Struct, gc=False):
    """An outcome's fields in their order. One without a value is null, never absent, so that every reader sees one shape.

    It takes a fifth of a dict's memory, and is made by position in half the instructions.
    """

    outcome_id: str
    outcome: Outcome
    reason: Reason | None
    detail: str
    code: str | None
    http_status: int | None
    message: str | None
    hint: str | None
    order_id: str | None
    event_id: str | None
    order_index: int
    plate: str | None
    plate_hash: str | None
    station_id: str | None
    api_store_code: str | None
    account: str | None
    source: str | None
    rule: str | None
    rules_hash: str
    seqno: str | None
    grant_serial: str | None
    enter_time: str | None
    data_node: str | None
    time_cost_ms: int | None
    started_at: str | None
    ended_at: str | None
    energy_wh: int | None
    seconds: int | None
    fee_fen: int | None
    metadata: Mapping[str, int] | None
    request: Mapping[str, str] | None
    attempts: _Attempts
    suspicions: tuple[str, ...]
    reverses: str | None
    payload_hash: str | None
    record: _Place
    decided_at: str | None
    reduced: bool = False


_encode = msgspec.json.Encoder().encode
_SHADOW = Outcome.SHADOW
_NOTHING: Mapping[str, Any] = {}
_SPECVERSION: Header = ("ce_specversion", b"1.0")
_TYPE: Header = ("ce_type", CE_TYPE.encode())
_CONTENT_TYPE: Header = ("content-type", b"application/json")
_OWN_HEADERS = 4096
"""Bytes: more than these take, with the longest name that a topic can have."""


_SOURCES = Memo[tuple[str, str], Header](lambda place: ("ce_source", _utf8(f"/{place[0]}/{place[1]}")), 64)


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
    return f"sha256:{hashlib.sha256(value).hexdigest()}"


_payload_hash_again = lru_cache(maxsize=4)(payload_hash)
"""For a record's other orders, which ask one after the other; most records have but one."""


def _shadow_request(request: CouponRequest, plate: str | None, privacy: Privacy) -> Mapping[str, str]:
    """A shadow outcome shows what would have been asked for; the others need not repeat it."""
    parameters = request.parameters
    if privacy.clear:
        return parameters
    return {name: hide_plate(text, plate) or "" for name, text in parameters.items() if name != "plate"}


def _place(record: Record) -> dict[str, Any]:
    topic, partition, offset = record.origin
    return {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": _recorded_at(record.event_timestamp_ms),
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
    record, values = resolution.record, resolution.values or {}
    plate = _text(values.get("plate")) or None
    topic, partition, offset = record.origin
    texts = {
        "outcome": resolution.outcome.value,
        "reason": None if resolution.reason is None else resolution.reason.value,
        "detail": _hide(resolution.detail, plate, context.privacy) or None,
        "code": _hide(resolution.words.code, plate, context.privacy),
        "order_id": _text(values.get("order_id")),
        "event_id": _text(values.get("event_id")) or None,
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
    return key if key is None or len(key) <= LONGEST_WORD else payload_hash(key).encode()


def plate_hash(plate: str | None, privacy: Privacy) -> str | None:
    """HMAC-SHA256, as the outcome topic holds it; None where it holds none."""
    if plate is None or not privacy.hashed:
        return None
    inner, outer = privacy.keyed
    inner, outer = inner.copy(), outer.copy()
    inner.update(plate.encode("utf-8", "replace"))
    outer.update(inner.digest())
    return outer.hexdigest()


def _keyed(key: bytes) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    """The inner and the outer one of HMAC-SHA256, up to the text."""
    block = (key if len(key) <= _BLOCK else hashlib.sha256(key).digest()).ljust(_BLOCK, b"\0")
    return hashlib.sha256(bytes(each ^ 0x36 for each in block)), hashlib.sha256(
        bytes(each ^ 0x5C for each in block)
    )


_BLOCK = 64
"""Bytes that SHA-256 takes at once."""


def _hide(text: str | None, plate: str | None, privacy: Privacy) -> str | None:
    return text if privacy.clear else hide_plate(text, plate)


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
    """For who may know a plate's ends: these ones, and whatever looks like one. A plate comes before what it holds.

    What stands beside one of these is no part of it, though it ends in a letter that begins others: `粤ZF023港 granted`.
    """
    plates = "|".join(re.escape(plate) for plate in known if plate)
    parts = re.split(f"({plates})", text) if plates else [text]
    return "".join(
        mask(part) if number % 2 else LIKE_A_PLATE.sub(lambda match: mask(match[0]), part)
        for number, part in enumerate(parts)
    )


def inert(text: str, keep: str = "") -> str:
    """What others wrote, to be shown: what a terminal would obey and what nobody sees is written as an escape.

    So it neither colours a terminal nor moves its cursor, nor turns what is read around. `keep` are such characters
    that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep or category(character) == "Zs"
        else ascii(character)[1:-1]
        for character in text
    )


def _without_plate(words: GatewayWords, plate: str | None) -> GatewayWords:
    """The platform may echo it wherever it speaks."""
    return _reworded(words, lambda text, _: hide_plate(text, plate))


def _reworded(words: GatewayWords, change: Callable[[str | None, int], str | None]) -> GatewayWords:
    """The same words with `change` applied to each text; `change` is told how long the text may be."""
    return GatewayWords(
        code=change(words.code, LONGEST_WORD),
        http_status=words.http_status,
        message=change(words.message, LONGEST_TEXT),
        hint=change(words.hint, LONGEST_TEXT),
        seqno=change(words.seqno, LONGEST_WORD),
        data_node=change(words.data_node, LONGEST_WORD),
        time_cost_ms=words.time_cost_ms,
        grant_serial=change(words.grant_serial, LONGEST_WORD),
        enter_time=change(words.enter_time, LONGEST_WORD),
    )


def _cut(text: str | None, length: int) -> str | None:
    return text if text is None or len(text) <= length else f"{text[: length - 1]}…"


def _text(value: Value | None) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    """JSON readers, and orjson, know integers of 64 bits; a longer one cannot be a charge's."""
    return value if type(value) is int and _LEAST <= value <= _LARGEST else None


_SHORT = 1 << 30
"""The least that Python no longer compares at a glance."""

_LARGEST = (1 << 63) - 1
_LEAST = -1 << 63


def _to_microseconds(seconds: float) -> float:
    """Exactly `round(seconds, 6)`, which goes by way of decimals: but where that makes a difference, four times as fast."""
    scaled = seconds * 1e6
    whole = (scaled + 0.5) // 1
    if 0.0 <= scaled < 1e12 and -0.499 < scaled - whole < 0.499:
        return whole / 1e6
    return round(seconds, 6)


def _instant(value: Any) -> str | None:
    """UTC, RFC 3339, milliseconds; None unless it is an aware datetime. The calendar's two ends have no UTC."""
    if value is None:
        return None
    try:
        since = value - _EPOCH
        seconds = since.seconds
        return f"{_DAYS[since.days]}{_MINUTES[seconds // 60]}{_SECONDS[seconds % 60]}{_FRACTIONS[since.microseconds // 1000]}"
    except (TypeError, ValueError, OverflowError):
        return None


_MOMENTS = Memo[datetime | None, str | None](_instant, 256)
"""Of our own clock, at which orders that go on in one turn of the event loop look together. In UTC: of a zone whose clock
is set back, two moments can be equal.
"""


def _instant_at(microseconds: int | None) -> str | None:
    """The same of a time since 1970."""
    if microseconds is None:
        return None
    minutes = microseconds // 60_000_000
    rest = microseconds - minutes * 60_000_000  # a small number: those are divided in no time
    try:
        return f"{_LOGGED[minutes]}{_SECONDS[rest // 1_000_000]}{_FRACTIONS[rest // 1000 % 1000]}"
    except (ValueError, OverflowError):
        return None


def _recorded_at(milliseconds: int) -> str | None:
    """Kafka writes -1 where a record has no timestamp."""
    return None if milliseconds < 0 else _instant_at(milliseconds * 1000)


_MINUTES = tuple(f"{minutes // 60:02}:{minutes % 60:02}" for minutes in range(24 * 60))
_SECONDS = tuple(f":{seconds:02}" for seconds in range(60))
_FRACTIONS = tuple(f".{milliseconds:03}Z" for milliseconds in range(1000))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_DAY = _EPOCH.toordinal()
_DAYS = Memo[int, str](lambda days: f"{date.fromordinal(_FIRST_DAY + days).isoformat()}T", 256)
"""Since 1970. Raises ValueError, OverflowError beyond the calendar's ends."""

_LOGGED = Memo[int, str](lambda minutes: f"{_DAYS[minutes // 1440]}{_MINUTES[minutes % 1440]}", 4096)
"""Minutes since 1970, likewise: a log's records, and the charges that they tell of, are within hours of each other."""


def _json(body: object) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits: rare, so it is looked for only now
        return orjson.dumps(_plain(body))


def _plain(value: object) -> object:
    match value:
        case str():
            return _utf8(value).decode()
        case Mapping():
            return {_utf8(str(name)).decode(): _plain(inner) for name, inner in value.items()}
        case Struct():
            return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case bool() | float() | None:
            return value
        case _:
            return _integer(value)


def _utf8(text: str | None) -> bytes:
    return (text or "").encode("utf-8", "replace")
