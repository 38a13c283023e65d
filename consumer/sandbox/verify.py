"""A posted form -> its parameters, checked as the endpoint's document says. Performs no I/O.

Written from the document alone and sharing no code with the consumer's own signing,
so that a mistake there is found here. Stricter than the platform may be: what the
documents word in several ways is refused, since the consumer has to avoid it.
"""

import hashlib
import hmac
import json
import re
from binascii import a2b_qp
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

REQUIRED = ("app_id", "api_store_code", "api_type", "event_id", "plate", "subject", "sign")
"""Fields that the endpoint's document marks as required (1.4)."""

_FORM = "application/x-www-form-urlencoded"
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w-]+)", re.IGNORECASE)
_FLAT_METADATA = re.compile(r"metadata(?:\[(?P<bracket>[^\[\]]+)\]\.|\.(?P<dot>.+)\.)(?P<part>name|value)")
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_INT32 = 1 << 31


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the platform would not take the request.

    Attributes:
        code: `400` for what is wrong with the form, `401` for an unknown app or a bad signature.
        hint: what is wrong, in the platform's manner.

    """

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Form:
    """What was posted.

    Attributes:
        parameters: every field but `sign`, decoded, in the order in which they came.
        refused: None if everything was found in order, the signature included.

    """

    parameters: Mapping[str, str]
    refused: Refused | None


def read_form(
    content_type: str, body: bytes, secrets: Mapping[str, str], metadata_form: str | None = None
) -> Form:
    """Decodes and checks one request. `secrets` holds the app secrets by app id.

    With a `metadata_form` (`json`: one text; `dotted`: `metadata.minutes.value`; `bracketed`:
    `metadata[minutes].value`) metadata in any other is refused.
    """
    refused = _check_content_type(content_type)
    if refused is not None:
        return Form({}, refused)
    fields: dict[str, str] = {}
    for pair in body.split(b"&"):
        left, equals, right = pair.partition(b"=")
        try:
            name, value = _decode_name(left), _decode(right)
        except ValueError:
            equals = b""
        if not equals:
            return Form(fields, _bad_request(f"`{ascii(pair)[:40]}` Malformed!"))
        if name in fields:
            return Form(fields, _bad_request(f"`{name}` Repeated!"))
        fields[name] = value
    parameters = {name: value for name, value in fields.items() if name != "sign"}
    return Form(
        parameters,
        _check_presence(fields)
        or _check_signature(parameters, fields["sign"], secrets)
        or _check_metadata_form(parameters, metadata_form)
        or _check_metadata(parameters),
    )


def signed_text(parameters: Mapping[str, str]) -> str:
    """The document's text to sign, as far as it may be shown: without the secret."""
    return "&".join(f"{name}={parameters[name]}" for name in sorted(parameters) if parameters[name])


def expected_sign(parameters: Mapping[str, str], secret: str) -> str:
    """The signature that these parameters should carry."""
    text = signed_text(parameters) + "&app_secret=" + secret
    return hashlib.md5(text.encode("utf-8"), usedforsecurity=False).hexdigest().upper()


def _check_content_type(content_type: str) -> Refused | None:
    kind, _, options = content_type.partition(";")
    if kind.strip().lower() != _FORM:
        return _bad_request(f"Content-Type must be {_FORM}!")
    charset = _CHARSET.search(options)
    if charset and charset[1].lower() not in {"utf-8", "utf8"}:
        return _bad_request("charset must be utf-8!")
    return None


def _decode(part: bytes) -> str:
    """Strict where web frameworks are lenient: a lone percent sign or a byte outside UTF-8 is a bug."""
    if b"+" in part:
        part = part.replace(b"+", b" ")
    if b"%" not in part:
        return part.decode("utf-8")
    # Quoted-printable is the same with another sign, and the one of the two that Python decodes in C.
    part = part.replace(b"=", b"%3D")
    decoded = a2b_qp(part.replace(b"%", b"="))
    if len(decoded) != len(part) - 2 * part.count(b"%") or b"%\n" in part or b"%\r" in part:
        raise ValueError("a percent sign that encodes nothing")
    return decoded.decode("utf-8")


_decode_name = lru_cache(maxsize=64)(_decode)


def _check_presence(fields: Mapping[str, str]) -> Refused | None:
    for name in REQUIRED:
        if not fields.get(name):
            return _bad_request(f"`{name}` Required!")
    for name, value in fields.items():
        if not value:  # the documents disagree whether an empty value is signed
            return _bad_request(f"`{name}` Empty! leave it out")
    if "app_secret" in fields:
        return _bad_request("`app_secret` must not be sent!")
    return None


def _check_signature(parameters: Mapping[str, str], sign: str, secrets: Mapping[str, str]) -> Refused | None:
    secret = secrets.get(parameters["app_id"])
    if secret is None:
        return Refused("401", "未知应用", f"app_id {parameters['app_id']} unknown")
    if hmac.compare_digest(sign.upper().encode(), expected_sign(parameters, secret).encode()):
        return None
    return Refused("401", "签名验证不通过", f"签名验证不通过[{signed_text(parameters)}]")


def _check_metadata_form(parameters: Mapping[str, str], only: str | None) -> Refused | None:
    """The document leaves it open; a platform has one."""
    for name in parameters if only is not None else ():
        match = _FLAT_METADATA.fullmatch(name)
        if name == "metadata":
            form = "json"
        elif match:
            form = "bracketed" if match["bracket"] else "dotted"
        else:
            continue
        if form != only:
            return _bad_request("`metadata` Malformed!")
    return None


def _check_metadata(parameters: Mapping[str, str]) -> Refused | None:
    """`metadata` is a map of {name, value: int32}: one compact JSON text, or flattened into fields."""
    flat: dict[str, dict[str, object]] = {}
    for name, text in parameters.items():
        match = _FLAT_METADATA.fullmatch(name) if name.startswith("metadata") else None
        if match:
            number = re.fullmatch(r"-?\d{1,10}", text)
            value = int(text) if match["part"] == "value" and number else text
            flat.setdefault(match["bracket"] or match["dot"], {})[match["part"]] = value
    whole = parameters.get("metadata")
    if whole is None:
        return _check_entries(flat)
    if flat:
        return _bad_request("`metadata` sent in two forms!")
    try:
        entries = json.loads(whole)
    except ValueError:
        return _bad_request("`metadata` Malformed! not JSON")
    if not isinstance(entries, dict):
        return _bad_request("`metadata` Malformed! not a map")
    if _COMPACT.encode(entries) != whole:
        return _bad_request("`metadata` Malformed! not compact JSON")
    return _check_entries(entries)


def _check_entries(entries: Mapping[str, object]) -> Refused | None:
    for key, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"name", "value"}:
            return _bad_request(f"`metadata` Malformed! {key} needs name and value")
        name, value = entry["name"], entry["value"]
        if not isinstance(name, str) or not name:
            return _bad_request(f"`metadata` Malformed! name of {key}")
        if isinstance(value, bool) or not isinstance(value, int) or not -_INT32 <= value < _INT32:
            return _bad_request(f"`metadata` Malformed! value of {key} is no int32")
    return None


def _bad_request(hint: str) -> Refused:
    return Refused("400", "请求参数错误", hint)
