"""Parameters and a secret -> the signature and the signed form. Performs no I/O."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any
from urllib.parse import quote_plus, urlencode

try:
    from yarl._quoting import _Quoter
except (
    ImportError
):  # a name of its own, which it may give up; then forms are encoded as plainly as they can be
    _quote = None
else:
    _quote = _Quoter(qs=True, requote=False)


def signature_base(parameters: Mapping[str, str], app_secret: str) -> str:
    """The text that is hashed: raw values, sorted by name, the secret last (domain: signature 1-3)."""
    pairs = [f"{name}={value}" for name, value in sorted(parameters.items()) if value and name != "sign"]
    pairs.append(f"app_secret={app_secret}")
    return "&".join(pairs)


def sign(parameters: Mapping[str, str], app_secret: str) -> str:
    """The value of `sign`: 32 hex digits, upper case (domain: signature 4)."""
    return _hashed(signature_base(parameters, app_secret))


def _hashed(base: str) -> str:
    return hashlib.md5(base.encode(), usedforsecurity=False).hexdigest().upper()


def encode_form(parameters: Mapping[str, str], app_secret: str) -> bytes:
    """The body to post: the parameters in their order, then `sign`, percent-encoded once.

    Empty values are left out: that satisfies each of the three ways in which the
    documents word their treatment (domain: signature). Raises UnicodeEncodeError for half a surrogate pair.
    """
    if "app_secret" in parameters:
        raise ValueError("`app_secret` is never sent: take it out of the rules' extra parameters")
    values = [*parameters.values()]
    if "sign" in parameters or not all(values):
        parameters = {name: value for name, value in parameters.items() if value and name != "sign"}
        values = [*parameters.values()]
    layout = _layout(tuple(parameters))
    values.append(app_secret)
    signed = layout.signed.copy()
    signed[1::2] = layout.sorted(values)
    values[-1] = _hashed("".join(signed))
    if _quote is None:
        return plainly_encoded(dict(zip((*parameters, "sign"), values, strict=True)))
    parts = layout.body.copy()
    parts[1::2] = map(_quote, values)  # written in C: in a seventh of the time
    body = "".join(parts).encode("ascii")
    for mark, escape in _LEFT_BARE:
        body = body.replace(mark, escape)
    return body


class _Layout:
    """All of a form but its values, for the few sets of names that there are.

    Attributes:
        signed: what is hashed, with a gap behind each name.
        sorted: the values and the secret, put into the order of those gaps.
        body: what is posted, likewise, with the values in the form's order and the signature last.

    """

    def __init__(self, names: tuple[str, ...]) -> None:
        order = sorted(range(len(names)), key=names.__getitem__)
        self.signed = _with_gaps([*(names[place] for place in order), "app_secret"])
        self.sorted: Any = (
            itemgetter(*order, len(names)) if names else tuple
        )  # of one place it makes no tuple
        self.body = _with_gaps([*map(quote_plus, names), "sign"])


def _with_gaps(names: list[str]) -> list[str]:
    return [part for number, name in enumerate(names) for part in (f"{'&' * bool(number)}{name}=", "")]


_layout = lru_cache(maxsize=256)(_Layout)


def plainly_encoded(form: Mapping[str, str]) -> bytes:
    """Names and values percent-encoded, a space as `+`."""
    return urlencode(form).encode("ascii")


_LEFT_BARE = tuple((mark.encode(), b"%%%02X" % ord(mark)) for mark in "!$'()*,")
"""What yarl's quoter leaves as it is."""
