"""JSON and YAML texts as trees that can be changed and written again, numbers digit by digit. Performs no I/O."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from random import Random
from typing import Any

import yaml

Tree = Any
"""Dicts, lists, text, bool, None and Raw."""

_CHANGES = (1, 1, 1, 2, 4)


class Raw(str):
    """What stands there without quotes: a number, in all its digits."""

    __slots__ = ()


def from_json(text: str) -> Tree:
    """Raises ValueError, RecursionError."""
    return json.loads(text, parse_int=Raw, parse_float=Raw, parse_constant=Raw)


def from_yaml(text: str) -> Tree:
    """Raises yaml.YAMLError, ValueError, RecursionError."""
    return _of_node(yaml.compose(text, Loader=yaml.CBaseLoader))


def _of_node(node: yaml.Node | None) -> Tree:
    match node:
        case yaml.MappingNode():
            return {str(key.value): _of_node(value) for key, value in node.value}
        case yaml.SequenceNode():
            return [_of_node(value) for value in node.value]
        case yaml.ScalarNode():
            plain = not node.style and (node.value in _CONSTANTS or _is_number(node.value))
            return Raw(node.value) if plain else str(node.value)
        case _:
            return None


_CONSTANTS = ("true", "false", "null")


def _is_number(text: str) -> bool:
    return bool(text) and all(letter in "0123456789+-.eE" for letter in text)


def written(tree: Tree) -> str:
    """As JSON, which is YAML too. Raises RecursionError."""
    match tree:
        case dict():
            return "{" + ",".join(f"{_quoted(key)}:{written(value)}" for key, value in tree.items()) + "}"
        case list():
            return "[" + ",".join(map(written, tree)) + "]"
        case Raw():
            return str(tree)
        case _:
            return _quoted(tree)


def in_lines(tree: Tree) -> str:
    """A mapping as YAML, its sections and their parts on lines of their own."""
    if not isinstance(tree, dict):
        return written(tree)
    lines: list[str] = []
    for section, content in tree.items():
        lines.append(f"{_quoted(section)}:")
        if isinstance(content, dict) and content:
            lines += [f"  {_quoted(name)}: {written(part)}" for name, part in content.items()]
        elif isinstance(content, list) and content:
            lines += [f"  - {written(part)}" for part in content]
        else:
            lines[-1] += f" {written(content)}"
    return "\n".join(lines) + "\n"


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- Changes ----------------------------------------------------------------------------------------

NUMBERS = tuple(
    map(
        Raw,
        [
            *("0", "-0", "1", "-1", "0.5", "1.0", "1e3", "1E-7", "-0.0", "3", "4", "31.25", "86400", "5300"),
            *("9007199254740993", "18446744073709551616", "1e400", "1e-400", "1E+1000000", "12345678901.0"),
            *(
                "1" * 27,
                "9" * 41,
                "0." + "3" * 60,
                "1772330400",
                "1772330400000",
                "253402300800000",
                "-62135596800",
            ),
        ],
    )
)
TEXTS = (
    *("", " ", "null", "-", "0", "1", "-1", "true", "A1", "粤BD12345", "无牌", "川a·d 12345", "粤B·12345挂"),
    *(
        "31.25",
        "31,25",
        "1e99",
        "18.6 kWh",
        "￥4.20",
        "4元",
        "Wh",
        "kWh",
        "01:30:00",
        "1.01:30:00",
        "PT1H30M",
        "P1D",
    ),
    *(
        "2026-03-01 10:00:00",
        "2026-03-01T10:00:00+08:00",
        "2026-03-01T02:00:00Z",
        "20260301100000",
        "24:00:00",
    ),
    *(
        "0001-01-01T00:00:00Z",
        "9999-12-31 23:59:59",
        "2026-10-25 02:30:00",
        "1970-01-01 00:00:00",
        "26/3/1 1:00 PM",
    ),
    *(
        "\ufeff",
        "\ud83d",
        "\ufffd",
        "\x00",
        "Ａ１",
        "٣",
        "0x4C54",
        "S1",
        "LOC1",
        "$",
        "{order_id}",
        "a.b[c=1|2].d",
    ),
)


class Mutator:
    """Changes trees here and there."""

    def __init__(
        self,
        words: Sequence[str],
        scribble: Callable[[str], str],
        leaves: Sequence[Tree] = (*NUMBERS, *TEXTS),
    ) -> None:
        """`words` are keys and texts that mean something, `leaves` odd values; `scribble` changes one text's characters."""
        self._words = words
        self._scribble = scribble
        self._leaves = leaves

    def changed(self, tree: Tree, random: Random) -> Tree:
        """The tree after one change or a few; it is changed in place where it can be."""
        for _ in range(random.choice(_CHANGES)):
            places = list(_places(tree))
            if not places:
                return self._leaf(random)
            holder, at = random.choice(places)
            self._change(holder, at, random, places)
        return tree

    def _change(self, holder: Any, at: Any, random: Random, places: list[tuple[Any, Any]]) -> None:
        here = holder[at]
        match random.randrange(12):
            case 0 | 1:
                holder[at] = self._leaf(random)
            case 2 | 3 | 9 | 10 | 11 if isinstance(here, str):
                changed = self._scribble(here) if random.randrange(4) == 0 else _edited(here, random)
                holder[at] = Raw(changed) if isinstance(here, Raw) and _is_number(changed) else changed
            case 4:
                other, where = random.choice(places)
                holder[at] = _copied(other[where]) if where in _indexes(other) else None
            case 5:
                del holder[at]
            case 6:
                self._put(holder if isinstance(holder, dict) else here, random)
            case 7 if isinstance(holder, dict):
                holder[random.choice(self._words)] = holder.pop(at)
            case _:
                holder[at] = self._wrapped(here, random)

    def _put(self, holder: Any, random: Random) -> None:
        if isinstance(holder, dict):
            holder[random.choice(self._words)] = self._leaf(random)
        elif isinstance(holder, list):
            holder.append(_copied(random.choice(holder)) if holder else self._leaf(random))

    def _leaf(self, random: Random) -> Tree:
        match random.randrange(8):
            case 0 | 1 | 2 | 3:
                return random.choice(self._leaves)
            case 4:
                return Raw(Decimal(random.getrandbits(40)).scaleb(-random.randrange(12)))
            case 5:
                return random.choice((None, True, False, [], {}))
            case _:
                return random.choice(self._words)

    def _wrapped(self, here: Tree, random: Random) -> Tree:
        match random.randrange(6):
            case 0:
                return [here]
            case 1:
                return {random.choice(self._words): here}
            case 2:
                return written(here)
            case 3:
                return b64encode(written(here).encode("utf-8", "replace")).decode()
            case 4 if isinstance(here, str):
                return str(here) if isinstance(here, Raw) else Raw(random.choice(NUMBERS))
            case _:
                return [here, _copied(here)]


_SIGNS = "0123456789..--++,,::eETZ /_%{}[]|=*$&?'\"\\#()<>!ASx粤元 \u3000\t\n"

_DIGITS = "0123456789.-+eE"


def _edited(text: str, random: Random) -> str:
    """One place in it changed, as somebody who types might."""
    signs = _DIGITS if _is_number(text) else _SIGNS
    at = random.randint(0, len(text))
    end = min(len(text), at + random.choice((1, 1, 1, 2, 5)))
    match random.randrange(4):
        case 0:
            return text[:at] + random.choice(signs) + text[at:]
        case 1:
            return text[:at] + random.choice(signs) + text[end:]
        case 2:
            return text[:at] + text[end:]
        case _:
            return text[:at] + text[at:end] + text[at:]


def _places(tree: Tree) -> Iterator[tuple[Any, Any]]:
    """Holder and key or index of all that stands in the tree."""
    open_: list[Any] = [tree] if isinstance(tree, dict | list) else []
    while open_:
        holder = open_.pop()
        for at in _indexes(holder):
            yield holder, at
            if isinstance(holder[at], dict | list):
                open_.append(holder[at])


def _indexes(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _copied(tree: Tree) -> Tree:
    match tree:
        case dict():
            return {key: _copied(value) for key, value in tree.items()}
        case list():
            return [_copied(value) for value in tree]
        case _:
            return tree


def words_of(trees: Sequence[Tree]) -> list[str]:
    """Keys and short texts that stand in these."""
    found: set[str] = set()
    for tree in trees:
        if isinstance(tree, dict):
            found.update(tree)
        for holder, at in _places(tree):
            if isinstance(holder[at], dict):
                found.update(holder[at])
            elif type(holder[at]) is str:
                found.add(holder[at])
    return sorted(word for word in found if 0 < len(word) <= 60)
