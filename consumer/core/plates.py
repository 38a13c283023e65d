"""Number plates: one spelling for each, doubt about odd ones, a form for logs. Performs no I/O."""

import re
import unicodedata

PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"

DOTS = "·•・‧∙⋅."
"""What is written between a plate's second and third sign, where anything is."""

_LEFT_OUT = re.compile(rf"[\s\x00\-‐‑‒–—―−{DOTS}\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")
_SERIAL = "A-HJ-NP-Z0-9"
_ORDINARY = f"[{PROVINCES}][A-Z][{_SERIAL}]{{4}}[{_SERIAL}挂学警港澳使领]"
# Class letters: A-E battery-electric, F-K other; patterns that know only D and F are a recurring mistake.
_NEW_ENERGY_SMALL = f"[{PROVINCES}][A-Z][A-HJK][{_SERIAL}][0-9]{{4}}"
_NEW_ENERGY_LARGE = f"[{PROVINCES}][A-Z][0-9]{{5}}[A-HJK]"
_OFFICIAL = f"使[0-9]{{6}}|[0-9]{{6}}使|WJ[{PROVINCES}]?[0-9]{{4}}[{_SERIAL}]|[{PROVINCES}][XS][0-9]{{4}}应急|民航[{_SERIAL}]{{5}}"
_ANY = f"{_ORDINARY}|{_NEW_ENERGY_SMALL}|{_NEW_ENERGY_LARGE}|{_OFFICIAL}"
plausible = re.compile(_ANY).fullmatch

_COLOUR = r"(?:新能源|渐变绿|黄绿双?拼?|[蓝黄绿白])色?"
_OPEN, _CLOSED = r"[(\[<【_/:|]?", r"[)\]>】_/:|]?"
_COLOURED = re.compile(
    f"(?:{_OPEN}{_COLOUR}(?:车?牌)?{_CLOSED})?({_ANY})(?:{_OPEN}(?:{_COLOUR}|黑色?)(?:车?牌)?{_CLOSED})?"
)
"""With its colour before or behind it, as cameras and people write it: `蓝粤B12345`, `粤BD12345(绿)`. 黑 before it is a province."""


def normalise(text: str) -> str:
    """The plate in its one spelling; empty where nothing is left. O stays O, and I stays I.

    Its colour is left out where what remains is a mainland plate.
    """
    plain = _LEFT_OUT.sub("", unicodedata.normalize("NFKC", text).upper())
    # Again: what was left out may have stood between a letter and its accent.
    plate = unicodedata.normalize("NFKC", plain)
    coloured = None if plausible(plate) else _COLOURED.fullmatch(plate)
    return plate if coloured is None else coloured[1]


def is_normal(text: str) -> bool:
    """True for a mainland plate in its one spelling."""
    return plausible(text) is not None


def is_doubtful(plate: str) -> bool:
    """True for what is no mainland plate by its pattern. The vendor's own samples are: warn, never reject."""
    return plausible(plate) is None


def mask(plate: str) -> str:
    """For logs: where it comes from and its last character."""
    return f"{plate[:2]}{'*' * (len(plate) - 3)}{plate[-1:]}" if len(plate) > 4 else "*" * len(plate)
