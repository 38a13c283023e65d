"""What CEL's compiler complains of, in words, each with what to write instead. Performs no I/O."""

import math
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from consumer.core.functions import HELPERS, LOCAL_BETWEEN
from consumer.core.syntax import Token, tokens


class Advice(NamedTuple):
    """A complaint in words.

    Attributes:
        remedy: empty where none is known.
        back: characters before CEL's place at which what is wrong begins.

    """

    message: str
    remedy: str = ""
    back: int = 0


def advice(source: str, start: int, complaint: str) -> Advice:
    """`start` is the complaint's place in the source, from 0."""
    if complaint.startswith("Syntax error: "):
        return _of_syntax(source, start) or Advice(complaint)
    if match := _OVERLOAD.fullmatch(complaint):
        return _of_types(source, start, match[1], _kinds(match[2]))
    match = _UNDECLARED.match(complaint)
    if match and match[1] in _ELSEWHERE and source.startswith("(", start):
        return _of_call(source, start, match[1])
    if match and match[1] in _SIGNATURES:
        return Advice(f"`{match[1]}` is called with too many arguments or too few", _call(match[1]))
    return Advice(complaint)


def remedy_for(given: str, wanted: str) -> str:
    """Where an expression gives another kind of value than the one that is needed."""
    if wanted == "bool":
        return _AS_CONDITION.get(given, "write a condition, such as `minutes > 0`")
    return _AS_NUMBER.get(given, "write a whole number, such as `minutes`")


_OVERLOAD = re.compile(r"found no matching overload for '([^']+)' applied to '\((.*)\)'")
_SIGN = re.compile(r"_[^\w\[\]]+_|@in")
_UNDECLARED = re.compile(r"undeclared reference to '(\w+)'")
_ELSEWHERE = {"min": "math.least", "max": "math.greatest"}
"""Functions by the names that other languages give them."""
_SIGNATURES = {signature.partition("(")[0]: signature for signature in HELPERS}
_AS_CONDITION = {
    "int": "compare it with something, such as `minutes > 0`",
    "double": "compare it with something, such as `> 0.5`",
    "string": "compare it with a text, such as `== '3'`",
}
_AS_NUMBER = {
    "bool": "write `... ? 1 : 0`, for 1 where it holds",
    "double": "write `int(...)` around it, which leaves out what follows the point",
    "string": "write `int(...)` around it, if the text is a whole number",
}


def _of_call(source: str, start: int, name: str) -> Advice:
    """Of a function that has another name here; its call's place is that of the parenthesis."""
    simple = re.match(r"\([^()]*\)", source[start:])
    arguments = simple[0] if simple else "(...)"
    return Advice(f"there is no function `{name}`", f"write `{_ELSEWHERE[name]}{arguments}`", len(name))


# -- What cannot be read


def _of_syntax(source: str, start: int) -> Advice | None:
    return _of_a_sign(source, start) or _of_a_word(source, start)


def _of_a_sign(source: str, start: int) -> Advice | None:
    here = source[start : start + 1]
    for wrong, right in _OPERATORS.items():
        for back in range(min(len(wrong), start + 1)):
            if source.startswith(wrong, start - back):
                return Advice(f"`{wrong}` is no operator", f"write `{right}`", back)
    if here and here in _QUOTES:
        return Advice(f"{here} is a typographic quote", "write ' before and after a text")
    plain = unicodedata.normalize("NFKC", here)
    if plain != here and plain.isascii() and plain.isprintable():
        return Advice(f"`{here}` is a full-width character", f"write `{plain}`")
    thousands = re.search(r"[0-9]{1,3}(?:,[0-9]{3})+\Z", source[: start + 4])
    if here == "," and thousands:
        return Advice("a number has no commas", f"write {thousands[0].replace(',', '')}")
    return None


def _of_a_word(source: str, start: int) -> Advice | None:
    before = Token("", "", 0)
    for token in tokens(source):
        if token.start == start:
            wrong = before if before.text.lower() == "not" else token
            right = _WORDS.get(wrong.text.lower())
            back = start - wrong.start
            return Advice(f"`{wrong.text}` is no operator", f"write `{right}`", back) if right else None
        before = token
    return None


_OPERATORS = {
    "=>": ">=",
    "=<": "<=",
    "<>": "!=",
    "≥": ">=",
    "≤": "<=",
    "≠": "!=",
    "×": "*",
    "÷": "/",
}
_WORDS = {"and": "&&", "or": "||", "not": "!", "=": "==", "&": "&&", "|": "||"}
_QUOTES = "‘’“”"


# -- What does not go together


def _kinds(text: str) -> list[str]:
    return [kind.rpartition(".")[2].lower() for kind in re.split(r", (?![^(]*\))", text)]


def _of_types(source: str, start: int, function: str, kinds: Sequence[str]) -> Advice:
    if function in _SIGNATURES:
        return Advice(f"`{function}` is given {_listed(kinds)}", _call(function))
    if function == "_?_:_":
        return _of_ways(kinds)
    if function == "!_":
        remedy = f"put ! before a condition only: {_AS_CONDITION.get(kinds[0], 'compare it first')}"
        return Advice(f"`!` stands before {_listed(kinds)}", remedy)
    if len(kinds) == 2 and _SIGN.fullmatch(function):
        sign = function.strip("_@")
        remedy = _remedy(sign, kinds, *_around(source, start, sign))
        return Advice(f"`{sign}` stands between {_listed(kinds)}", remedy)
    remedy = "give it what it is made for"
    if function in _OF_TEXT:
        remedy = f"it is for text, with a text in quotes: `plate.{function}('粤B')`"
    return Advice(f"`{function.strip('_')}` is given {_listed(kinds)}", remedy)


def _of_ways(kinds: Sequence[str]) -> Advice:
    if kinds[0] != "bool":
        remedy = "write a condition before `?`, such as `minutes > 5`"
        return Advice(f"{_WORD.get(kinds[0], kinds[0])} stands before `?`", remedy)
    remedy = "give both ways one kind: two whole numbers, or two texts"
    return Advice(f"`? :` gives {_listed(kinds[1:], ' or ')}", remedy)


def _remedy(sign: str, kinds: Sequence[str], left: Token | None, right: Token | None) -> str:
    """`left` and `right` are what stands beside the sign, as far as that is all of its side."""
    if sign in ("&&", "||"):
        other = next((kind for kind in kinds if kind != "bool"), "")
        return f"put {sign} between conditions only: {_AS_CONDITION.get(other, 'compare it first')}"
    if sign == "in":
        if kinds[1] in ("list(int)", "list(string)"):
            return f"write the list's numbers {'in quotes' if kinds[0] == 'string' else 'without quotes'}"
        return "write a list of such values after it, like ['3', '4']"
    sides = [(kind, side) for kind, side in zip(kinds, (left, right), strict=True) if side is not None]
    names = {kind: side.text for kind, side in sides if side.kind == "name" and side.text not in _CONSTANTS}
    literals = {kind: side.text for kind, side in sides if side.kind in ("number", "string")}
    pair = frozenset(kinds)
    if pair == {"int", "double"}:
        return _of_decimals(sign, names, literals, right)
    if sign in _COMPARING and pair in ({"string", "int"}, {"string", "double"}):
        return _of_text(sign, kinds, names, literals)
    return _of_others(sign, pair, next(iter(names.values()), ""))


def _of_others(sign: str, pair: frozenset[str], name: str) -> str:
    if "null_type" in pair and name:
        return f"write `{'!' if sign == '==' else ''}present.{name}`"
    if "timestamp" in pair:
        return "write a time as `timestamp('2026-03-01T00:00:00+08:00')`; for the time of day there is `local_between`"
    if sign not in _COMPARING:
        return "calculate with numbers: `int(...)` makes a whole number of a text"
    if "bool" in pair:
        told = f"`{name}` is true or false: write `{name}`, or `!{name}`"
        return told if name else "write the condition alone, or with ! before it"
    return "compare values of one kind"


def _of_text(sign: str, kinds: Sequence[str], names: dict[str, str], literals: dict[str, str]) -> str:
    number = "int" if "int" in kinds else "double"
    text = names.get("string")
    if sign not in ("==", "!="):
        wrapped = f"int({text})" if text else "int(...)"
        if text or "string" not in literals:
            return f"{f'`{text}` is text' if text else 'text has no size'}: write `{wrapped}` to compare it as a number"
    if text and number in literals:
        return f"`{text}` is text: write the number in quotes, '{literals[number]}'"
    if number in names and "string" in literals:
        plain = literals["string"].strip("'\"")
        what = f"`{names[number]}` is a {'whole' if number == 'int' else 'decimal'} number"
        return f"{what}: write {plain} without quotes" if plain.isdigit() else f"{what}: compare it with one"
    return "compare text with a text in quotes, such as '3', or write `int(...)` around the text"


def _of_decimals(sign: str, names: dict[str, str], literals: dict[str, str], right: Token | None) -> str:
    if "double" in names and "int" in literals:
        whole = literals["int"]
        return f"`{names['double']}` is a decimal number: write {whole}.0 rather than {whole}"
    written = literals.get("double", "")
    instead = ""
    if re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", written):
        value = Fraction(written)
        if value.denominator == 1:
            return f"whole numbers only here: write {value} rather than {written}"
        instead = _in_whole_numbers(sign, value) if right is not None and right.text == written else ""
    if instead:
        return f"whole numbers only here: write {instead} rather than {sign} {written}"
    return "whole numbers only here: use a smaller unit, or write `int(...)` around the decimal number"


def _in_whole_numbers(sign: str, value: Fraction) -> str:
    """What says the same of a whole number that stands on the left; empty where nothing does."""
    if sign in ("*", "/"):
        times, by = value.as_integer_ratio() if sign == "*" else value.as_integer_ratio()[::-1]
        return " ".join([f"* {times}"] * (times != 1) + [f"/ {by}"] * (by != 1))
    if sign in (">", ">="):
        return f">= {math.ceil(value)}"
    return f"<= {math.floor(value)}" if sign in ("<", "<=") else ""


def _around(source: str, start: int, sign: str) -> tuple[Token | None, Token | None]:
    """What stands left and right of a sign; None for more than a name or a literal."""
    looser = _BETWEEN
    if sign not in _COMPARING:
        looser |= _COMPARING
    if sign in ("*", "/", "%"):
        looser |= {"+", "-"}
    found = tokens(source)
    left = [token for token in found if token.start < start]
    right = [token for token in found if token.start >= start + len(sign)]
    return _alone(left[::-1], looser), _alone(right, looser)


def _alone(side: Sequence[Token], looser: frozenset[str]) -> Token | None:
    alone = bool(side) and (len(side) == 1 or side[1].text in looser)
    return side[0] if alone and side[0].kind in ("name", "number", "string") else None


def _call(name: str) -> str:
    kinds = "a time and three texts in quotes" if name == LOCAL_BETWEEN else "whole numbers"
    return f"write `{_SIGNATURES[name]}`, with {kinds}"


def _listed(kinds: Sequence[str], last: str = " and ") -> str:
    words = [_WORD.get(kind, kind) for kind in kinds]
    return last.join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


_WORD = {
    "int": "a whole number",
    "double": "a decimal number",
    "string": "text",
    "bool": "true or false",
    "timestamp": "a time",
    "null_type": "null",
    "list(int)": "a list of whole numbers",
    "list(string)": "a list of texts",
}
_COMPARING = frozenset({"==", "!=", "<", "<=", ">", ">="})
_CONSTANTS = frozenset({"null", "true", "false"})
_OF_TEXT = frozenset({"startsWith", "endsWith", "contains", "matches"})
_BETWEEN = frozenset({"&&", "||", "?", ":", "(", ")", ",", "!"})
"""What ends the side of any sign."""
