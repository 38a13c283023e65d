"""A record's bytes -> the event in them: frame, charset and wrappings taken off, each as configured. Performs no I/O."""

import binascii
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from urllib.parse import unquote_to_bytes

from consumer.core.events import Record
from consumer.core.formats import UNDECODABLE, Event, Path, Refusal, decode, decoder, found_at
from consumer.core.outcomes import Reason

CHARSETS = (
    *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk", "gb2312", "gb18030", "big5", "big5hkscs"),
    *("latin-1", "ascii", "cp1251", "cp1252", "shift_jis", "euc-jp", "euc-kr"),
)
"""Charsets that an envelope can name; UTF-8 needs no name."""

_FRAME = 5
_MAX_TEXTS = 8
_MAX_DECIMAL_BYTES = 32
_DECIMAL = "org.apache.kafka.connect.data.Decimal"
_VARIABLE_DECIMAL = "io.debezium.data.VariableScaleDecimal"
_NOTHING_IN_IT = Refusal(Reason.TOMBSTONE, "an envelope around nothing")

Step = Callable[[Event], object]
"""One wrapping taken off: what is in it, or a Refusal."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is taken off a record before its event is read.

    Attributes:
        skip: bytes before the text; `FRAME` bytes of a schema registry where there are some.
        gzip: the bytes are unpacked, where they are packed.
        charset: None means UTF-8.
        lines: each line is a text of JSON, and the event is the list of them.
        text: the value may be text that is no JSON yet: base64, a form.
        steps: wrappings, the outermost first.
        words: how each of these is called.

    """

    skip: int = 0
    registry: bool = False
    gzip: bool = False
    charset: str | None = None
    lines: bool = False
    text: bool = False
    steps: tuple[Step, ...] = ()
    words: tuple[str, ...] = ()

    _plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        taken = self.skip or self.registry or self.gzip or self.charset or self.lines or self.text
        plain = not (taken or self.steps)
        object.__setattr__(self, "_plain", plain)

    def open(self, record: Record) -> Event | Refusal:
        """The event. The record has a value."""
        value = record.value or b""
        if self._plain:  # nothing is taken off what nearly all producers write
            try:
                body = decoder.decode(value)
            except UNDECODABLE:
                pass  # it is told why below
            else:
                return Event(body, body, record.key, record.headers)
        body = self._decoded(value)
        if isinstance(body, Refusal):
            return body
        event = Event(body, body, record.key, record.headers)
        for step in self.steps:
            body = step(event)
            if isinstance(body, Refusal):
                return body
            event = Event(body, event.message, record.key, record.headers)
        return event

    def _decoded(self, value: bytes) -> object | Refusal:
        if self.skip:
            value = value[self.skip :]
        # JSON cannot begin with a zero byte: on a mixed topic each record is told from its first.
        if self.registry and value[:1] == b"\0":
            value = value[_FRAME:]
            if not value.lstrip()[:1] or value.lstrip()[:1] not in b'{["':
                detail = "behind the schema registry's frame stands no JSON but Avro or Protobuf; let the producer write JSON"
                return Refusal(Reason.NOT_JSON, detail)
        if self.gzip:
            unpacked = _unpacked(value)
            if isinstance(unpacked, Refusal):
                return unpacked
            value = unpacked
        if self.text and value.strip()[:1] not in (b'"', b"{", b"["):
            return value.decode("utf-8", "surrogateescape")  # a form may be of another charset
        if self.charset is None and not self.lines:
            return decode(value)
        try:
            text = value.decode(self.charset or "utf-8")
        except UnicodeDecodeError as error:
            return Refusal(Reason.NOT_TEXT, f"not {self.charset or 'UTF-8'} at byte {error.start}")
        text = text.removeprefix("\ufeff")
        return _each_line(text) if self.lines else decode(text)


_PACKED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
"""What gzip and zlib begin with; JSON cannot."""

_MOST_UNPACKED = 16_000_000


def _unpacked(value: bytes) -> bytes | Refusal:
    """What is not packed stays as it is: on a mixed topic each record is told from its first bytes."""
    if not value.startswith(_PACKED):
        return value
    unpacking = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        plain = unpacking.decompress(value, _MOST_UNPACKED)
    except zlib.error:
        return Refusal(Reason.NOT_JSON, "it begins like gzip, and cannot be unpacked")
    if unpacking.unconsumed_tail:
        return Refusal(Reason.TOO_LARGE, f"more than {_MOST_UNPACKED} bytes once it is unpacked")
    return plain if unpacking.eof else Refusal(Reason.NOT_JSON, "gzip that was cut")


def _each_line(text: str) -> object:
    """The JSON of each line; a broken line stays text, so that the others are read all the same."""
    lines = [line for line in text.split("\n") if line.strip()]
    found = [decode(line) for line in lines]
    if not found:
        return Refusal(Reason.NOT_JSON, "empty")
    return [line if isinstance(each, Refusal) else each for line, each in zip(lines, found, strict=True)]


def unwrap(paths: tuple[Path, ...], *, base64: bool = False, charset: str | None = None) -> Step:
    """The event is what stands there; text there is JSON, as often as it is text again. `charset` is that of its bytes.

    Where one path leads to several, the event is the list of them.
    """

    def taken(found: object) -> object:
        content = _bytes_in(found)
        if content is not None:
            return _inner(_text_of(content, charset))
        return _inner(_from_base64(found, charset) if base64 else found)

    def step(event: Event) -> object:
        found = _all_at(paths, event)
        if isinstance(found, Refusal):
            return found
        inner = taken(found[0]) if len(found) == 1 else _together(map(taken, found))
        if isinstance(inner, Refusal) and is_encrypted(event.body):
            return ENCRYPTED
        return inner

    return step


def form(paths: tuple[Path, ...], charset: str | None = None) -> Step:
    """The event is the form's fields that stand there as text, `a=1&b=%E7%B2%A4`, or the list of several; of repeated names the last wins."""

    def taken(found: object) -> object:
        pairs = found.strip().split("&") if isinstance(found, str) else []
        if not pairs or not all("=" in pair for pair in pairs if pair):
            return Refusal(Reason.SCHEMA, "text in the envelope that is no form")
        try:
            return dict(_decoded_pair(pair, charset or "utf-8") for pair in pairs if pair)
        except UnicodeDecodeError as error:
            return Refusal(Reason.NOT_TEXT, f"not {charset or 'UTF-8'} at byte {error.start}")

    def step(event: Event) -> object:
        found = _all_at(paths, event)
        if isinstance(found, Refusal):
            return found
        return taken(found[0]) if len(found) == 1 else _together(map(taken, found))

    return step


def _decoded_pair(pair: str, charset: str) -> tuple[str, str]:
    plain = pair.replace("+", " ").encode("utf-8", "surrogateescape")
    name, _, value = (unquote_to_bytes(part).decode(charset) for part in plain.partition(b"="))
    return name, value


ENCRYPTED = Refusal(Reason.ENCRYPTED, "an encrypted envelope, not an order; decrypt it upstream")


SEALS = frozenset({"Sig", "sig", "SIG"})
"""A name that an encrypted envelope has."""


def is_encrypted(body: object) -> bool:
    """True for CEC's envelope as it came."""
    if not isinstance(body, dict) or body.keys().isdisjoint(SEALS):
        return False
    names = {str(name).lower(): name for name in body}
    if not {"operatorid", "data", "sig"} <= names.keys():
        return False
    data = body[names["data"]]
    return isinstance(data, str) and not data.lstrip().startswith(("{", "["))


def _all_at(paths: tuple[Path, ...], event: Event) -> list[object] | Refusal:
    """All that the first of these paths leads to that leads anywhere."""
    for path in paths:
        if found := list(found_at((path,), event.body, event)):
            return found
    return Refusal(Reason.SCHEMA, f"the envelope has nothing at `{paths[0].text}`")


def _together(found: Iterable[object]) -> list[object]:
    """One list of all of them; of those that are lists themselves, their items."""
    return [item for each in found for item in (each if isinstance(each, list) else [each])]


def _bytes_in(found: object) -> bytes | None:
    """Bytes as Node's buffers and Java's arrays become JSON; None for whatever else."""
    if isinstance(found, dict) and found.get("type") == "Buffer":
        found = found.get("data")
    if not isinstance(found, list) or not found:
        return None
    if not all(type(each) is int and -128 <= each < 256 for each in found):
        return None
    return bytes(each % 256 for each in found)


def _inner(found: object) -> object:
    if isinstance(found, list):
        return [_inner(item) if isinstance(item, str) else item for item in found]
    for _ in range(_MAX_TEXTS):
        if not isinstance(found, str):
            return found
        found = decode(found.removeprefix("\ufeff"))
    return Refusal(Reason.TOO_DEEP, "text in text in text, without end")


def _from_base64(found: object, charset: str | None = None) -> object:
    """In either alphabet, in lines or in one, padded or not, packed or not: none of these can be taken for another."""
    if not isinstance(found, str):
        return found
    text = "".join(found.split()).translate(_ALPHABET).rstrip("=")
    try:
        content = _unpacked(b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (binascii.Error, ValueError):
        return Refusal(Reason.SCHEMA, "text in the envelope that is no base64")
    return content if isinstance(content, Refusal) else _text_of(content, charset)


def _text_of(content: bytes, charset: str | None) -> object:
    try:
        return decode(content if charset is None else content.decode(charset))
    except UnicodeDecodeError as error:
        return Refusal(Reason.NOT_TEXT, f"not {charset} at byte {error.start}")


_ALPHABET = str.maketrans("-_", "+/")


def cloudevents(event: Event) -> object:
    """A structured CloudEvent's data, a batch's; what comes in binary mode has nothing around it."""
    body = event.body
    if isinstance(body, list):
        return _together(map(_data, body))
    return _data(body)


def _data(body: object) -> object:
    if not isinstance(body, dict) or "specversion" not in body:
        return body
    encoded, data = body.get("data_base64"), body.get("data")
    if encoded is not None:
        return _inner(_from_base64(encoded))
    if data is None:
        return Refusal(Reason.SCHEMA, "a CloudEvent without data")
    if body.get("datacontentencoding") == "base64":  # before their version 1.0
        return _inner(_from_base64(data))
    return _inner(data)


def connect(event: Event) -> object:
    """What Kafka Connect's JSON converter wrote beside its schema, decimals as numbers."""
    body = event.body
    if not (isinstance(body, dict) and "payload" in body and "schema" in body):
        return body  # with `schemas.enable=false` it writes the payload alone
    payload, schema = body["payload"], body["schema"]
    if payload is None:
        return _NOTHING_IN_IT
    return _converted(payload, schema) if isinstance(schema, dict) else payload


def _converted(value: object, schema: Mapping[str, object]) -> object:
    name, kind = schema.get("name"), schema.get("type")
    if name == _DECIMAL:
        parameters = schema.get("parameters")
        scale = parameters.get("scale") if isinstance(parameters, dict) else None
        return _or_as_it_is(connect_decimal(value, scale), value)
    if name == _VARIABLE_DECIMAL and isinstance(value, dict):
        return _or_as_it_is(connect_decimal(value.get("value"), value.get("scale")), value)
    if kind == "struct" and isinstance(value, dict):
        fields = schema.get("fields")
        for each in fields if isinstance(fields, list) else []:
            if isinstance(each, dict) and value.get(str(each.get("field"))) is not None:
                place = str(each["field"])
                value[place] = _converted(value[place], each)
    items = schema.get("items" if kind == "array" else "values")
    if isinstance(items, dict):
        if kind == "array" and isinstance(value, list):
            return [_converted(item, items) for item in value]
        if kind == "map" and isinstance(value, dict):
            return {key: _converted(item, items) for key, item in value.items()}
    return value


def _or_as_it_is(number: Decimal | None, value: object) -> object:
    return value if number is None else number


def connect_decimal(value: object, scale: object) -> Decimal | None:
    """Base64 of a big-endian two's complement integer, and how many of its digits are decimals; None if it is not that."""
    try:
        places = int(scale) if isinstance(scale, str | int) else None
        if not isinstance(value, str) or places is None or not -40 <= places <= 40:
            return None
        raw = b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not 0 < len(raw) <= _MAX_DECIMAL_BYTES:
        return None
    unscaled = int.from_bytes(raw, "big", signed=True)
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -places))
