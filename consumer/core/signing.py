"""Parameters and a secret -> the signature and the signed form. Performs no I/O."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any
from urllib.parse import quote_plus

from consumer.core.values import Frozen

_quote: Callable[[str], str]
try:
    from yarl._quoting import _Quoter
except ImportError:  # a name of its own, which it may give up
    _quote = quote_plus
else:
    _quote = _Quoter(qs=True, requote=False)  # written in C: in a seventh of the time
_md5: Callable[[bytes], Any]
try:
    from _md5 import md5 as _md5  # type: ignore[import-not-found,no-redef]  # typeshed leaves it out
except ImportError:  # likewise; it spares a way about OpenSSL, a fifth of the time
    _md5 = partial(hashlib.md5, usedforsecurity=False)


def signature_base(parameters: Mapping[str, str], app_secret: str) -> str:
    """The text that is hashed, as the platform's description of the endpoint says: raw values, sorted by name, the secret last."""
    pairs = [f"{name}={value}" for name, value in sorted(parameters.items()) if value and name != "sign"]
    pairs.append(f"app_secret={app_secret}")
    return "&".join(pairs)


def sign(parameters: Mapping[str, str], app_secret: str) -> str:
    """The value of `sign`: 32 hex digits, upper case."""
    return _hashed(signature_base(parameters, app_secret))


def _hashed(base: str) -> str:
    digits: str = _md5(base.encode()).hexdigest()
    return digits.upper()


def encode_form(parameters: Mapping[str, str], app_secret: str) -> bytes:
    """The body to post: the parameters in their order, then `sign`, percent-encoded once.

    Empty values are left out: that satisfies each of the three ways in which the platform's
    description of the endpoint words their treatment. Raises UnicodeEncodeError for half a surrogate pair.
    """
    if "app_secret" in parameters:
        raise ValueError("`app_secret` is never sent: take it out of the rules' extra parameters")
    values = [*parameters.values()]
    if "sign" in parameters or not all(values):
        parameters = {name: value for name, value in parameters.items() if value and name != "sign"}
        values = [*parameters.values()]
    names = _names(tuple(parameters))
    values.append(app_secret)
    signed = names.signed.copy()
    signed[1::2] = names.sorted(values)
    values[-1] = _hashed("".join(signed))
    parts = names.body.copy()
    parts[1::2] = map(_quote, values)
    return _escaped("".join(parts))


class _Names:
    """All of a form but its values, for the few sets of names that there are.

    Attributes:
        signed: what is hashed, with a gap behind each name.
        sorted: the values and the secret, put into the order of those gaps.
        body: what is posted, likewise, with the values in the form's order and the signature last.

    """

    def __init__(self, names: tuple[str, ...]) -> None:
        order = sorted(range(len(names)), key=names.__getitem__)
        self.signed = _with_gaps([*(names[place] for place in order), "app_secret"])
        # Of the secret alone: an itemgetter of one place makes no tuple.
        self.sorted: Any = itemgetter(*order, len(names)) if names else tuple
        self.body = _with_gaps([*map(quote_plus, names), "sign"])


def _with_gaps(names: list[str]) -> list[str]:
    return [part for number, name in enumerate(names) for part in (f"{'&' * bool(number)}{name}=", "")]


_names = lru_cache(maxsize=256)(_Names)


class LaidOut(Frozen):
    """A form of which all is laid out but what an order fills; its fields, as a whole, are few people's concern.

    Attributes:
        metadata: as it is signed.
        numbers: that are in it.

    """

    layout: "Layout"
    api_store_code: str
    event_id: str
    plate: str
    subject: str
    metadata: str
    numbers: Collection[int]

    def fields(self) -> dict[str, str]:
        """All of them, in the order in which they are sent."""
        form = self.layout.fields.copy()
        form["api_store_code"] = self.api_store_code
        form["event_id"] = self.event_id
        form["plate"] = self.plate
        form["subject"] = self.subject
        if self.metadata:
            form["metadata"] = self.metadata
        return form


def with_numbers(texts: list[str], numbers: Iterable[int]) -> str:
    """Texts of which each second one is a gap, with a number in each: in half the instructions that `format` takes, or `%` where signs are escaped."""
    found, place = texts.copy(), 1
    for number in numbers:
        found[place] = str(number)
        place += 2
    return "".join(found)


class Layout:
    """The form of a rule, signed and encoded but for the fields that each order fills.

    Attributes:
        fields: all that it has, in their order; what orders fill is empty.

    """

    __slots__ = ("_body", "_metadata", "_signed", "fields")

    def __init__(self, fields: Mapping[str, str | None], metadata: Sequence[str]) -> None:
        """`fields` are all, without a value where orders fill them; `metadata` its text in parts, with gaps for its numbers."""
        self.fields = {name: text or "" for name, text in fields.items()}
        signed = _before_gaps([*sorted(fields.items()), ("app_secret", None)])
        body = _before_gaps(
            [*((_quoted(name), text and _quoted(text)) for name, text in fields.items()), ("sign", None)]
        )
        if "metadata" not in fields:  # each order fills it with nothing
            signed.insert(2, "")
            body.insert(4, "")
        self._signed, self._body = tuple(signed), tuple(body)
        self._metadata = [*map(_quoted, metadata)]

    def encode(self, form: LaidOut, app_secret: str) -> bytes:
        """As `encode_form`, in a straight line: to put any values into any gaps takes twice as long."""
        store, event_id, plate, subject = form.api_store_code, form.event_id, form.plate, form.subject
        a, b, c, d, e, f = self._signed
        base = f"{a}{store}{b}{event_id}{c}{form.metadata}{d}{plate}{e}{subject}{f}{app_secret}"
        signature = _md5(base.encode()).hexdigest().upper()
        store, event_id, plate, subject = _quote(store), _quote(event_id), _quote(plate), _quote(subject)
        metadata = with_numbers(self._metadata, form.numbers)
        a, b, c, d, e, f = self._body
        body = f"{a}{store}{b}{event_id}{c}{plate}{d}{subject}{e}{metadata}{f}{signature}"
        # One look after the other: that is quicker than any for all of them.
        if (
            "(" in body
            or ")" in body
            or "," in body
            or "'" in body
            or "*" in body
            or "!" in body
            or "$" in body
        ):
            return _escaped(body)
        return body.encode("ascii")


def _before_gaps(fields: Iterable[tuple[str, str | None]]) -> list[str]:
    """The text before each value that is not known, of which one stands at the end."""
    texts = [""]
    for number, (name, text) in enumerate(fields):
        texts[-1] += f"{'&' * bool(number)}{name}={text or ''}"
        if text is None:
            texts.append("")
    return texts[:-1]


def _quoted(text: str) -> str:
    """What cannot be encoded is told of when it is signed."""
    return quote_plus(text, errors="replace")


def _escaped(quoted: str) -> bytes:
    """With those marks escaped that yarl's quoter leaves as they are."""
    body = quoted.encode("ascii")
    for mark, escape in _LEFT_BARE:
        body = body.replace(mark, escape)
    return body


_LEFT_BARE = tuple((mark.encode(), b"%%%02X" % ord(mark)) for mark in "!$'()*,")
