"""The end of one HTTP call -> what the platform said and what follows from it. Performs no I/O."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from consumer.core.events import GatewayWords
from consumer.core.outcomes import Outcome
from consumer.core.plates import DOTS
from consumer.core.values import Frozen


class Answered(Frozen):
    """The whole reply arrived.

    Attributes:
        status: HTTP status.
        body: the reply's bytes, bounded by the settings.
        retry_after: the header as it came, or None.
        resent: it answers a second sending; the first went out on a kept connection
            that closed without a reply, so that nobody knows whether it was carried out.

    """

    status: int
    body: bytes
    retry_after: str | None = None
    resent: bool = False


class NotSent(Frozen):
    """The request certainly did not reach the platform (refused, no such name, connect timeout)."""

    error: str


class NoAnswer(Frozen):
    """The request may have been carried out: timeout, reset, or a truncated reply after sending began.

    Attributes:
        error: `timeout` or `reset`, and after a colon what is known of it.

    """

    error: str


AttemptEnd = Answered | NotSent | NoAnswer
"""How one call ended: a closed set."""


class Then(StrEnum):
    """What follows a reply."""

    FINAL = "final"
    NOW = "now"
    LATER = "later"
    NOW_THEN_LATER = "now_then_later"
    STOP = "stop"


class Reply(Frozen):
    """A classified attempt end.

    Attributes:
        label: the metric's label: the code where the table has it, `other` where not,
            `timeout`, `reset` ... where there is none.
        outcome: what the order becomes if this reply is the last word.
        then: whether and when to try again.
        dead_letter: the original goes to the dead-letter topic if this is the last word.
        words: what the platform said.
        ambiguous: the call may have granted the coupon.
        retry_after: seconds the platform asks us to wait, not yet capped; None if it does not.
        error: why there is no reply, where there is none.

    """

    label: str
    outcome: Outcome
    then: Then
    dead_letter: bool
    words: GatewayWords
    ambiguous: bool = False
    retry_after: float | None = None
    error: str = ""

    @property
    def in_trouble(self) -> bool:
        """The platform's trouble, and not something about the order or the account."""
        return self.outcome is Outcome.PLATFORM_FAILED and self.then is not Then.STOP

    @property
    def is_redirect(self) -> bool:
        """Another URL may answer."""
        return self.label.startswith("3")


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """One row of the reply table.

    Attributes:
        outcome: what the order becomes if this reply is the last word.
        then: whether and when to try again.
        dead_letter: the original goes to the dead-letter topic if this is the last word.
        messages: messages under which this code really means another code (1500
            "no parking record matched" means 1002), by a text that the message contains.
        hints: the same by a text that the hint contains (200 "signature refused" means 401).
        deadline_seconds: how long after the end of charging a later try still makes
            sense; None is the service's own deadline.

    """

    outcome: Outcome
    then: Then
    dead_letter: bool = False
    messages: Mapping[str, str] | None = None
    deadline_seconds: float | None = None
    hints: Mapping[str, str] | None = None


SIGNATURE_REFUSED = "签名验证不通过"
NO_PARKING_RECORD = "没有匹配到停车记录"

_TROUBLE = ReplyRow(Outcome.PLATFORM_FAILED, Then.NOW_THEN_LATER, dead_letter=True)
# A stop is never an order's last word (it waits); should it be forced to end, it can be replayed.
_REFUSED = ReplyRow(Outcome.PLATFORM_FAILED, Then.STOP, dead_letter=True)

_DEFAULTS: Mapping[str, ReplyRow] = {  # the codes of the platform's description of the endpoint
    "1001": ReplyRow(Outcome.GRANTED, Then.FINAL),
    "1002": ReplyRow(Outcome.NOT_ENTERED, Then.LATER, deadline_seconds=7200),
    "1003": ReplyRow(Outcome.LIMITED, Then.FINAL),
    "1401": ReplyRow(Outcome.NOT_CONFIGURED, Then.FINAL),
    "1402": _TROUBLE,
    "1403": ReplyRow(Outcome.ALREADY_GRANTED, Then.FINAL),
    "1405": ReplyRow(Outcome.LOT_FAILED, Then.NOW_THEN_LATER, dead_letter=True),
    "1500": replace(_TROUBLE, messages={NO_PARKING_RECORD: "1002"}),
    "200": ReplyRow(Outcome.UNKNOWN, Then.FINAL, dead_letter=True, hints={SIGNATURE_REFUSED: "401"}),
    "400": ReplyRow(Outcome.REJECTED, Then.FINAL, dead_letter=True),
    "401": _REFUSED,
    "403": _REFUSED,
    "429": _TROUBLE,
    "500": _TROUBLE,
    "503": _TROUBLE,
    "3xx": _REFUSED,
    "5xx": _TROUBLE,
    "no_json": _TROUBLE,
    "connect": _TROUBLE,
    "timeout": _TROUBLE,
    "reset": _TROUBLE,
    "other": ReplyRow(Outcome.UNKNOWN, Then.FINAL, dead_letter=True),
}

_ROW_NAME = re.compile(r"[0-9A-Za-z_-]{1,16}", re.ASCII)


def is_row_name(name: str) -> bool:
    """True for what can name a row: a code, a class of HTTP statuses (`5xx`) or one of our own words."""
    return _ROW_NAME.fullmatch(name) is not None


class ReplyTable:
    """The table of replies: what each code, status and missing answer means.

    Rows are named by the code; `3xx` stands for all three-digit codes and HTTP
    statuses from 300 that have no row of their own; `no_json`, `connect`, `timeout`
    and `reset` stand for the ends without a code, `other` for every other code.
    """

    def __init__(self, rows: Mapping[str, ReplyRow]) -> None:
        self.rows = dict(rows)
        for name, row in self.rows.items():
            if not is_row_name(name):
                raise ValueError(
                    f"replies.{name!r}: not a code; name the row by the reply's code or like `5xx`"
                )
            for target in [*(row.messages or {}).values(), *(row.hints or {}).values()]:
                if target not in self.rows:
                    raise ValueError(
                        f"replies.{name}: means {target!r}, which has no row; add replies.{target}"
                    )
        self._by_code_alone = {
            name: row for name, row in self.rows.items() if row.messages is None and row.hints is None
        }

    @classmethod
    def defaults(cls) -> "ReplyTable":
        """The table as documented."""
        return cls(_DEFAULTS)

    def with_rows(self, rows: Mapping[str, ReplyRow]) -> "ReplyTable":
        """A table in which these rows replace or join the present ones."""
        return ReplyTable({**self.rows, **rows})

    def classify(self, end: AttemptEnd, now: datetime) -> Reply:
        """What the end of a call means. `now` resolves a Retry-After that is a date.

        Nearly every call ends with a code of the table and words that can be taken as they are. Those are seen
        at a glance, and in one go; `classify_plainly` has the rest, and says the same of these.
        """
        if not isinstance(end, Answered) or end.retry_after is not None:
            return self.classify_plainly(end, now)
        try:
            said = _decode_ordinary(end.body)
        except (ValueError, RecursionError):
            return self.classify_plainly(end, now)
        code, message, payload = said.code, said.message, said.payload or _NOTHING_ORDINARY
        seqno, node = said.seqno or payload.seqno, said.data_node or payload.data_node
        serial, entered = said.grant_serial or payload.grant_serial, said.enter_time or payload.enter_time
        row = self._by_code_alone.get(code)
        if (
            row is None
            or said.hint
            or (seqno and seqno.strip() != seqno)
            or (node and node.strip() != node)
            or (serial and serial.strip() != serial)
            or (entered and entered.strip() != entered)
        ):
            return self.classify_plainly(end, now)
        if message and _HARMLESS(message) is None:
            message = redact(message.strip())
        words = GatewayWords(
            code,
            end.status,
            message or None,
            None,
            seqno or None,
            node or None,
            said.time_cost,
            serial or None,
            entered or None,
        )
        return Reply(code, row.outcome, row.then, row.dead_letter, words)

    def classify_plainly(self, end: AttemptEnd, now: datetime) -> Reply:
        """Likewise, whatever came."""
        if isinstance(end, NotSent):
            return self._reply("connect", GatewayWords(), error=end.error)
        if isinstance(end, NoAnswer):
            kind = end.error.partition(":")[0]
            label = kind if kind == "timeout" else "reset"
            return self._reply(label, GatewayWords(), ambiguous=True, error=end.error)
        envelope = _envelope(end.body)
        words = _words(envelope, end.status)
        retry_after = None if end.retry_after is None else _retry_after(end.retry_after, now)
        if words.code is not None:
            label = self._by_code(words.code, _text(envelope.message), _text(envelope.hint))
            return self._reply(label, words, retry_after=retry_after)
        # A status of no class that there is counts as a 5xx (RFC 9110, 15).
        label = self._by_status(end.status) or ("no_json" if 100 <= end.status < 600 else "5xx")
        # A success that cannot be read, or a proxy that lost the platform after passing the request on
        # (502, 504), is a reset or a timeout that someone else met.
        ambiguous = 200 <= end.status < 300 or end.status in {502, 504}
        return self._reply(label, words, ambiguous=ambiguous, retry_after=retry_after)

    def _by_code(self, code: str, message: str, hint: str) -> str:
        """The name of the row that the body's code leads to; it decides, whatever the HTTP status."""
        row = self.rows.get(code)
        if row is None:
            # Three-digit codes come from the gateway and mean what they mean in HTTP.
            return (len(code) == 3 and code.isdecimal() and self._by_status(int(code))) or "other"
        if row.messages is not None or row.hints is not None:
            told = (((row.messages or {}), message), ((row.hints or {}), hint))
            meanings = (meant for texts, words in told for text, meant in texts.items() if text in words)
            return next(meanings, code)
        return code

    def _by_status(self, status: int) -> str | None:
        if status < 300:  # HTTP success is no success: only a code can say so
            return None
        return next((name for name in (str(status), f"{status // 100}xx") if name in self.rows), None)

    def _reply(
        self,
        label: str,
        words: GatewayWords,
        *,
        ambiguous: bool = False,
        retry_after: float | None = None,
        error: str = "",
    ) -> Reply:
        row = self.rows[label]
        return Reply(label, row.outcome, row.then, row.dead_letter, words, ambiguous, retry_after, error)


_LONGEST = 128
"""Characters that are kept of a serial, a sequence number, a node or a time."""

_MOST_DIGITS = 15
"""Of milliseconds."""

_Short = Annotated[str, msgspec.Meta(max_length=_LONGEST)] | None


class _OrdinaryPayload(msgspec.Struct, gc=False):
    """What may stand in a reply's `payload` instead of beside it: the documents' table and examples disagree."""

    seqno: _Short = None
    data_node: _Short = None
    grant_serial: _Short = None
    enter_time: _Short = None


class _OrdinaryEnvelope(_OrdinaryPayload, gc=False):
    """A reply's JSON object as it nearly always is."""

    code: str = ""
    message: str | None = None
    hint: str | None = None
    time_cost: Annotated[int, msgspec.Meta(ge=0, lt=10**_MOST_DIGITS)] | None = None
    payload: _OrdinaryPayload | None = None


_decode_ordinary = msgspec.json.Decoder(_OrdinaryEnvelope).decode  # its errors are ValueErrors
_NOTHING_ORDINARY = _OrdinaryPayload()

_Scalar = str | int | None


class _Payload(msgspec.Struct):
    """The same, of whatever kind it is."""

    seqno: _Scalar = None
    data_node: _Scalar = None
    grant_serial: _Scalar = None
    enter_time: _Scalar = None


class _Envelope(_Payload):
    """A reply's JSON object, whatever kind of values it has."""

    code: _Scalar = None
    message: _Scalar = None
    hint: _Scalar = None
    time_cost: _Scalar = None
    payload: _Payload | None = None


_decoder = msgspec.json.Decoder(_Envelope)
_NOTHING = _Payload()


def _envelope(body: bytes) -> _Envelope:
    """Empty where there is no JSON object."""
    try:
        return _decoder.decode(body)
    except (ValueError, RecursionError):
        return plainly_read(body)


def plainly_read(body: bytes) -> _Envelope:
    """What the fast decoder is too strict for: bad bytes, halves of characters, NaN, other kinds of values.

    The code counts, so bad bytes in a message do not.
    """
    try:
        fields = json.loads(body.decode("utf-8-sig", "replace"), parse_float=_number)
    except (ValueError, RecursionError):
        return _Envelope()
    if not isinstance(fields, dict):
        return _Envelope()
    inner = fields.pop("payload", None)
    payload = _Payload(**_scalars(_Payload, inner)) if isinstance(inner, dict) else None
    return _Envelope(**_scalars(_Envelope, fields), payload=payload)


def _scalars(of: type[msgspec.Struct], fields: Mapping[str, object]) -> dict[str, Any]:
    found = {name: fields.get(name) for name in of.__struct_fields__ if name in fields}
    # A lone surrogate cannot be written to a topic.
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in found.items()
        if isinstance(value, str | int) and not isinstance(value, bool)
    }


def _number(text: str) -> str | int:
    """A number with a fraction or exponent, as it was written: serials are never rounded."""
    whole, _, fraction = text.partition(".")
    return int(whole) if fraction and not fraction.strip("0") and len(whole) < 20 else text


def _words(envelope: _Envelope, status: int) -> GatewayWords:
    payload = envelope.payload or _NOTHING
    return GatewayWords(
        _text(envelope.code)[:32] or None,
        status,
        redact(_text(envelope.message)) or None,
        redact(_text(envelope.hint)) or None,
        (_text(envelope.seqno) or _text(payload.seqno))[:_LONGEST] or None,
        (_text(envelope.data_node) or _text(payload.data_node))[:_LONGEST] or None,
        _milliseconds(_text(envelope.time_cost)),
        (_text(envelope.grant_serial) or _text(payload.grant_serial))[:_LONGEST] or None,
        (_text(envelope.enter_time) or _text(payload.enter_time))[:_LONGEST] or None,
    )


def _text(value: _Scalar) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else str(value)


def _milliseconds(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _retry_after(header: str, now: datetime) -> float | None:
    """Seconds to wait by the header: a number or an HTTP date; None where it says nothing usable."""
    text = header.strip()
    if not text:
        return None
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - now).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


_MAX_WORDS = 300
_SEPARATOR = rf"[\s{DOTS}\-]?"
_PLATE = re.compile(
    r"((?:[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领无]|(?:%[0-9A-F]{2}){3})"
    rf"{_SEPARATOR}[A-ZＡ-Ｚ])(?:{_SEPARATOR}[A-Z0-9Ａ-Ｚ０-９]){{3,7}}[挂学警港澳使领]?",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"((?:plate|app_secret|secret|sign)\w*[\"']?\s*[=:]\s*[\"']?)[^&\s\"'\],，】]+", re.IGNORECASE
)
_HEX = re.compile(r"[0-9a-f]{16,}", re.IGNORECASE)
_HARMLESS = re.compile(rf"[、。「」《》【】（），：；！？一-龥]{{1,{_MAX_WORDS}}}").fullmatch
"""Most messages."""

_LETTER_OR_DIGIT = re.compile(r"[A-Z0-9Ａ-Ｚ０-９]", re.IGNORECASE)


def redact(text: str) -> str:
    """What the platform says, safe to write down: bounded, without plates, secrets and signatures.

    A refused signature's hint echoes the whole string that was signed.
    """
    if not text:
        return text
    text = text[: 4 * _MAX_WORDS]
    if _LETTER_OR_DIGIT.search(text) is None:  # of which each of the patterns needs one
        return _bounded(text)
    text = _PLATE.sub(r"\1***", text)
    text = _NAMED.sub(r"\1***", text)
    return _bounded(_HEX.sub("***", text))


def _bounded(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[: _MAX_WORDS - 1]}…"
