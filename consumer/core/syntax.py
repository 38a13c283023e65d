"""What stands in an expression, by its text: its tokens, and the variables and literals among them. Performs no I/O."""

import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

PRESENT = "present"
"""The variable that tells which fields have a value: `present.fee_fen`."""


class Kind(StrEnum):
    """What a variable holds, and what an expression gives."""

    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    STRING = "string"
    TIMESTAMP = "timestamp"


class Token(NamedTuple):
    """A word, a number, a text or a mark of an expression, and where in it that begins."""

    kind: str
    text: str
    start: int


_TOKEN = re.compile(
    r"""(?P<string>[bBrR]{0,2}(?:\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))"""
    r"|(?P<comment>//[^\n]*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9][0-9A-Za-z.]*)|(?P<mark>&&|\|\||[=!<>]=|[^\s])"
)


@lru_cache(maxsize=4096)
def tokens(source: str) -> tuple[Token, ...]:
    """Without comments and the space between."""
    return tuple(
        Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(source)
        if match.lastgroup != "comment"
    )


def names_in(source: str) -> set[str]:
    """The variables that it names, and perhaps functions; `present.fee_fen` is `present` alone."""
    found: set[str] = set()
    before = ""
    for token in tokens(source):
        if token.kind == "name" and before != ".":
            found.add(token.text)
        before = token.text
    return found


def place_of(source: str, name: str) -> tuple[int, int]:
    """Line and column at which it names a variable first; its beginning where it does not."""
    before = ""
    for token in tokens(source):
        if token.text == name and token.kind == "name" and before != ".":
            above = source[: token.start]
            return above.count("\n") + 1, token.start - above.rfind("\n")
        before = token.text
    return 1, 1


def guarded_in(source: str) -> set[str]:
    """The fields whose presence it asks for."""
    texts = [token.text for token in tokens(source)]
    return {
        name
        for first, dot, name in zip(texts, texts[1:], texts[2:], strict=False)
        if (first, dot) == (PRESENT, ".")
    }


def literals_in(source: str) -> set[int | str]:
    """The whole numbers and plain texts that it compares with."""
    found: set[int | str] = set()
    for token in tokens(source):
        if token.kind == "number" and token.text.isdigit() and len(token.text) <= _DIGITS:
            found.add(int(token.text))
        elif token.kind == "string" and "\\" not in token.text and token.text[:1] in _QUOTES:
            found.add(token.text.strip(_QUOTES))
    return found


def literal_of(token: Token) -> int | str | None:
    """A whole number or a text that says what it means without prefix, escape or base; None for all others."""
    text = token.text
    if token.kind == "number":
        plain = text.isdigit() and len(text) <= _DIGITS and (text[0] != "0" or text == "0")
        return int(text) if plain else None
    if token.kind != "string" or text[0] not in _QUOTES or text[:3] in _THREE or "\\" in text:
        return None
    return text[1:-1]


_DIGITS = 18
"""As many fit into 64 bits, whatever they are."""

_QUOTES = "'\""
_THREE = ("'''", '"""')
LONGEST = 50_000
"""Characters of an expression that can be of one shape with others: CEL refuses twice as many."""


def lifted(source: str) -> tuple[str, tuple[int | str, ...]] | None:
    """Its shape, which is all but its plain literals, and those; None where it has others, or is too long.

    Of two expressions of one shape CEL's type check says the same.
    """
    if len(source) > LONGEST:
        return None
    literals: list[int | str] = []
    shape, end = "", 0
    for token in tokens(source):
        if token.kind not in ("number", "string"):
            continue
        literal = literal_of(token)
        if literal is None:
            return None
        literals.append(literal)
        shape += source[end : token.start] + ("#" if token.kind == "number" else '""')
        end = token.start + len(token.text)
    return shape + source[end:], tuple(literals)


def parts_of(source: str) -> list[str]:
    """The conditions that must all hold; the whole of it where it is no such list."""
    depth, start, parts = 0, 0, []
    for token in tokens(source):
        if token.kind != "mark":
            continue
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 0 and token.text in ("||", "?"):
            return [source.strip()]
        if depth == 0 and token.text == "&&":
            parts.append(source[start : token.start].strip())
            start = token.start + 2
    return [*parts, source[start:].strip()]


def compared_in(source: str) -> set[str] | None:
    """Its variables, where it only compares each with literals (a text for equality), or asks for its presence.

    What such an expression is, changes at these literals alone. None where it does anything else.
    """
    found: set[str] = set()
    rest = list(tokens(source))
    while rest:
        texts = [token.text for token in rest[:3]]
        if texts[0] in _LOGIC or texts[0] in _TRUTHS:
            del rest[0]
        elif texts[:2] == [PRESENT, "."] and len(texts) == 3:
            found.add(texts[2])
            del rest[:3]
        elif len(rest) > 2 and _is_comparison(*rest[:3]):
            found.update(
                token.text for token in rest[:3] if token.kind == "name" and token.text not in _TRUTHS
            )
            del rest[:3]
        elif texts[1:] == ["in", "["] and rest[0].kind == "name":
            end = next((number for number, token in enumerate(rest) if token.text == "]"), 0)
            if any(token.text != "," and literal_of(token) is None for token in rest[3:end]) or not end:
                return None
            found.add(texts[0])
            del rest[: end + 1]
        elif rest[0].kind == "name" and (texts[1:2] == [] or texts[1] in _LOGIC - {"("}):
            found.add(texts[0])
            del rest[0]
        else:
            return None
    return found


def _is_comparison(left: Token, mark: Token, right: Token) -> bool:
    if left.kind != "name" or left.text in _TRUTHS:
        left, right = right, left
    if left.kind != "name" or mark.text not in _COMPARISONS:
        return False
    literal = right.text in _TRUTHS or literal_of(right)
    return literal is not None and (mark.text in ("==", "!=") or type(literal) is int)


_LOGIC = frozenset({"(", ")", "!", "&&", "||"})
_TRUTHS = frozenset({"true", "false"})
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
