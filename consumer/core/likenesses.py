"""Bytes that are no JSON -> what they are rather, and what to do about it, for people. Performs no I/O.

Nothing is read by it: what it says is said of records that are refused anyway.
"""

import re
from collections.abc import Iterable
from typing import AnyStr

BINARY = "a binary form; only JSON is read"
"""Of bytes that are like nothing that is known."""

_KAFKAS_OWN = "let the producer use Kafka's own compression"
_MAGIC = {
    b"\x00\x00\x00": "it begins like a schema registry's frame: see `schema_registry` of `envelope`",
    b"\x1f\x8b": f"gzip; see `gzip` of `envelope`, or {_KAFKAS_OWN}",
    **dict.fromkeys((b"x\x01", b"x\x9c", b"x\xda"), f"zlib; see `gzip` of `envelope`, or {_KAFKAS_OWN}"),
    b"\x04\x22\x4d\x18": f"an LZ4 frame; {_KAFKAS_OWN}",
    b"\x28\xb5\x2f\xfd": f"zstd; {_KAFKAS_OWN}",
    b"\xff\x06\x00\x00sNaPpY": f"snappy; {_KAFKAS_OWN}",
    b"\x82SNAPPY\x00": f"snappy; {_KAFKAS_OWN}",
    **dict.fromkeys((b"BZh", b"PK\x03\x04", b"\xfd7zXZ"), f"a packed file; {_KAFKAS_OWN}"),
    b"Obj\x01": "an Avro file; only JSON is read",
    b"\xac\xed\x00\x05": "an object as Java serialises it; only JSON is read",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "Python's pickle; only JSON is read"
    ),
    b"\xff\xfe": "UTF-16; see `charset` of `envelope`",
    b"\xfe\xff": "UTF-16; see `charset` of `envelope`",
    b"<": "XML; only JSON is read",
    b"\0": "a frame or Avro or Protobuf; only JSON is read",
}
_BINARIES = (
    (
        re.compile(rb"(?:[\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9]", re.DOTALL),
        "perhaps MessagePack; only JSON is read",
    ),
    (re.compile(rb"(?:[\xa1-\xb7]|\xb8.|\xbf)[\x61-\x78]", re.DOTALL), "perhaps CBOR; only JSON is read"),
)
_TEXTS = (
    (re.compile(r"[\w+/\s-]{16,}={0,2}$", re.ASCII), "perhaps base64; see `base64: $` of `envelope`"),
    (re.compile(r"[{\[]\s*'"), "single quotes, as Python shows objects; only JSON is read"),
    (re.compile(r"[\w.%-]+=[^&]*(?:&[\w.%-]+=[^&]*)*$"), "a form; see `form: $` of `envelope`"),
    (
        re.compile(r"[{\[]\s*(?:[A-Za-z_]\w*\s*:|//|/\*|#)|//|/\*"),
        "comments or names without quotes; only JSON is read",
    ),
    (
        re.compile(r"\{[^\n]*\}\s*\{"),
        "several JSON texts; where each is a line, see `lines` of `envelope`; else let the producer send one in each record, or a list",
    ),
    (
        re.compile(r"[{\[]\s*\\+\""),
        "JSON that was escaped and has lost the quotes around it; let the producer send it as it was",
    ),
    (re.compile(r"[{\[]\s*[“”‘’＂]|[｛［]"), "brackets or quotes that are not those of JSON"),
    (re.compile(r"%(?:7B|5B|22)", re.IGNORECASE), "percent-encoded JSON; let the producer send it as it was"),
    (re.compile(r"[bB]['\"]\s*[{\[]"), "bytes as Python shows them; let the producer send the bytes"),
    (
        re.compile(r"[^{\[\"]{1,500}[{\[]\s*[\"{\[]"),
        "JSON behind other text, as in a log or a callback; let the producer send the JSON alone",
    ),
    (re.compile(r"[^\0-\x08\x0e-\x1f{\[]*[\0-\x08\x0e-\x1f]"), BINARY),
    (re.compile(r"[\w.-]+:\s"), "perhaps YAML; only JSON is read"),
    (re.compile(r"[^\n{}\[\]\",;|\t]*[,;|\t]"), "perhaps separated values, such as CSV; only JSON is read"),
)
_SLIPS = (
    (
        re.compile(r"(?:True|False|None|NULL|TRUE|FALSE|nan|undefined)\b"),
        "a word that JSON does not know, where it has true, false and null",
    ),
    (re.compile(r"[\0-\x1f]"), "a line's end or a tab within a text, which the producer has to escape"),
)
"""What is often found where something ceases to be JSON."""


def of_bytes(value: bytes) -> str:
    """Of what is no text, or may be none: `a zstd frame; ...`, or empty."""
    if value[:2] in _WIDE:
        return "UTF-16; see `charset` of `envelope`"
    known = next((words for magic, words in _MAGIC.items() if value.startswith(magic)), "")
    known = known or _first_of(_BINARIES, value)
    return known or ("perhaps Protobuf; only JSON is read" if _may_be_protobuf(value) else "")


_WIDE = frozenset({b"{\0", b"[\0", b'"\0', b"\0{", b"\0[", b'\0"'})
"""What JSON begins with in two bytes for each character, without a mark."""


def of_text(text: str, place: int = 0) -> str:
    """Of text that is no JSON from this place on; empty where it is like nothing that is known."""
    plain = text.strip()
    slip = text[place : place + 20] if plain[:1] in ("{", "[", '"') else ""
    return _first_of(_TEXTS, plain) or _first_of(_SLIPS, slip)


def _first_of(known: Iterable[tuple[re.Pattern[AnyStr], str]], content: AnyStr) -> str:
    return next((words for pattern, words in known if pattern.match(content)), "")


_MOST_FIELDS = 1000


def _may_be_protobuf(value: bytes) -> bool:
    """Whether it can be fields from its first byte to its last; a message begins with one of the first numbers."""
    if not 8 <= (value or b"\0")[0] < 32:
        return False
    place = fields = 0
    while place < len(value) and fields < _MOST_FIELDS:
        tag, place = _varint(value, place)
        fields += 1
        match tag & 7:
            case 0:
                _, place = _varint(value, place)
            case 1 | 5:
                place += 8 if tag & 7 == 1 else 4
            case 2:
                length, place = _varint(value, place)
                place += length
            case _:
                return False
        if tag < 8 or place > len(value):
            return False
    return True


def _varint(value: bytes, place: int) -> tuple[int, int]:
    """The number there, and where it ends: behind everything where it does not."""
    number = 0
    for count, byte in enumerate(value[place : place + 10]):
        number |= (byte & 127) << 7 * count
        if byte < 128:
            return number, place + count + 1
    return 0, len(value) + 1
