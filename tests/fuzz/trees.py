"""JSON and YAML texts as trees that can be changed and written again, numbers digit by digit. Performs no I/O."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Vocabulary:
    """What stands in examples, and beside what.

    Attributes:
        words: keys and short texts.
        parts: what words and numbers these consist of.
        keys: that are looked for by name, however seldom they stand anywhere.
        beside: for each key, those that stand in a mapping with it.
        above: for each key, those under which such mappings stand.
        under: for each key, what stands there.

    """

    words: Sequence[str]
    parts: Sequence[str]
    keys: Sequence[str]
    beside: Mapping[str, Sequence[str]]
    above: Mapping[str, Sequence[str]]
    under: Mapping[str, Sequence[Tree]]

    @classmethod
    def of(
        cls, examples: Sequence[Tree], more: Iterable[str] = (), keys: Collection[str] = ()
    ) -> "Vocabulary":
        """Of these trees, and more words; without `keys`, all are."""
        beside: dict[str, dict[str, None]] = {}
        above: dict[str, dict[str, None]] = {}
        under: dict[str, dict[str, Tree]] = {}
        words = set(more)
        for example in examples:
            holders = [example, *(holder[at] for holder, at in _places(example))]
            words.update(each for each in holders if type(each) is str)
            for mapping in holders:
                if not isinstance(mapping, dict):
                    continue
                words.update(mapping)
                for key, value in mapping.items():
                    beside.setdefault(key, {}).update(dict.fromkeys(mapping))
                    for inner in value if isinstance(value, list) else [value]:
                        for name in inner if isinstance(inner, dict) else ():
                            above.setdefault(name, {})[key] = None
                    text = written(value)
                    if len(text) <= _LARGEST:
                        under.setdefault(key, {}).setdefault(text, value)
        words = {word for word in words if 0 < len(word) <= 60}
        return cls(
            sorted(words),
            sorted({part for word in words for part in _PARTS.findall(word) if not part.isspace()}),
            sorted(under.keys() & set(keys) if keys else under),
            {key: tuple(others) for key, others in beside.items()},
            {key: tuple(others) for key, others in above.items()},
            {key: tuple(values.values()) for key, values in under.items()},
        )


_LARGEST = 300
_PARTS = re.compile(r"\d+|[^\W\d]+|\s+|[^\w\s]")
"""A number, a word, spaces, or a sign."""


class Mutator:
    """Changes trees here and there."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        scribble: Callable[[str], str],
        leaves: Sequence[Tree] = (*NUMBERS, *TEXTS),
    ) -> None:
        """`leaves` are odd values; `scribble` changes one text's characters."""
        self._vocabulary = vocabulary
        self._scribble = scribble
        self._leaves = leaves

    def changed(self, tree: Tree, random: Random) -> Tree:
        """The tree after one change or a few; it is changed in place where it can be."""
        for _ in range(random.choice(_CHANGES)):
            places = list(_places(tree))
            if not places:
                return self._leaf(random)
            if self._vocabulary.keys and random.randrange(2):
                self._look_for(random.choice(self._vocabulary.keys), places, random)
            else:
                holder, at = random.choice(places)
                self._change(holder, at, random, places)
        return tree

    def _look_for(self, key: str, places: list[tuple[Any, Any]], random: Random) -> None:
        """What stands under this key is changed; where there is none, one is put where it may stand."""
        found = [holder for holder, at in places if at == key]
        if found:
            self._change(random.choice(found), key, random, places)
            return
        mappings = self._where(key, places)
        if mappings:
            self._put_key(random.choice(mappings), key, random)
            return
        # Nor is there a mapping that has such keys: with it, then.
        around = random.choice(self._vocabulary.above.get(key, (key,)))
        wholes = [
            value
            for value in self._vocabulary.under.get(around, ())
            if isinstance(value, dict) and key in value
        ]
        mappings = self._where(around, places)
        if wholes and mappings:
            whole = _copied(random.choice(wholes))
            self._put_key(whole, key, random)
            random.choice(mappings)[around] = whole

    def _where(self, key: str, places: list[tuple[Any, Any]]) -> list[Any]:
        beside = {*self._vocabulary.beside[key]}
        return [holder for holder, at in places if at in beside]

    def _change(self, holder: Any, at: Any, random: Random, places: list[tuple[Any, Any]]) -> None:
        here = holder[at]
        match random.randrange(14):
            case 0:
                holder[at] = self._leaf(random)
            case 1 | 2 | 3 | 4 | 5 | 6 if isinstance(here, str):
                holder[at] = self._neighbour(here, random)
            case 7 | 8:
                holder[at] = self._seen(at, random)
            case 9:
                other, where = random.choice(places)
                holder[at] = _copied(other[where]) if where in _indexes(other) else None
            case 10:
                del holder[at]
            case 11 if isinstance(holder, dict):
                holder[self._key(holder, random)] = holder.pop(at)
            case 12:
                holder[at] = self._wrapped(here, random)
            case _:
                self._put(holder if isinstance(holder, dict) else here, random)

    def _put(self, holder: Any, random: Random) -> None:
        if isinstance(holder, dict):
            self._put_key(holder, self._key(holder, random), random)
        elif isinstance(holder, list):
            holder.append(_copied(random.choice(holder)) if holder else self._leaf(random))

    def _put_key(self, mapping: Any, key: str, random: Random) -> None:
        value = self._seen(key, random)
        if isinstance(value, str) and random.randrange(4):
            value = self._neighbour(value, random)
        mapping[key] = value

    def _key(self, mapping: Mapping[str, Tree], random: Random) -> str:
        """One that may stand beside those."""
        keys = self._vocabulary.beside.get(random.choice(list(mapping)), ()) if mapping else ()
        return random.choice(keys if keys and random.randrange(8) else self._vocabulary.words)

    def _seen(self, key: Any, random: Random) -> Tree:
        """What may stand under this key."""
        values = self._vocabulary.under.get(key, ()) if isinstance(key, str) else ()
        return _copied(random.choice(values)) if values else self._leaf(random)

    def _leaf(self, random: Random) -> Tree:
        match random.randrange(9):
            case 0 | 1 | 2 | 3:
                return random.choice(self._leaves)
            case 4:
                return Raw(_number(random))
            case 5:
                return _number(random)
            case 6:
                return random.choice((None, True, False, [], {}))
            case _:
                return random.choice(self._vocabulary.words)

    def _neighbour(self, text: str, random: Random) -> str:
        """The text a little different; a number stays one, mostly."""
        match random.randrange(8):
            case 0:
                changed = self._scribble(text)
            case 1 | 2:
                changed = _edited(text, random)
            case 3 | 4 if _is_number(text):
                changed = _number(random)
            case _:
                changed = self._spelled(text, random)
        return Raw(changed) if isinstance(text, Raw) and _is_number(changed) else changed

    def _spelled(self, text: str, random: Random) -> str:
        """One of its numbers, words and signs is another one, or stands elsewhere too, or no more."""
        parts = _PARTS.findall(text)
        if not parts:
            return str(self._leaf(random))
        numbers = [number for number, part in enumerate(parts) if part.isdecimal()]
        at = random.choice(numbers) if numbers and random.randrange(4) else random.randrange(len(parts))
        match random.randrange(6):
            case 0:
                parts[at] = ""
            case 1:
                parts[at] *= random.choice((2, 2, 3, 9))
            case 2:
                other = random.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts.insert(at, random.choice(_INSERTED))
            case _ if parts[at].isdecimal():
                parts[at] = _number(random)
            case _ if len(parts[at]) <= _SHORT and random.randrange(2):
                parts[at] = random.choice([part for part in self._vocabulary.parts if len(part) <= _SHORT])
            case _:
                parts[at] = random.choice(self._vocabulary.parts)
        return "".join(parts)

    def _wrapped(self, here: Tree, random: Random) -> Tree:
        match random.randrange(6):
            case 0:
                return [here]
            case 1:
                return {random.choice(self._vocabulary.words): here}
            case 2:
                return written(here)
            case 3:
                return b64encode(written(here).encode("utf-8", "replace")).decode()
            case 4 if isinstance(here, str):
                return str(here) if isinstance(here, Raw) else Raw(random.choice(NUMBERS))
            case _:
                return [here, _copied(here)]


def _number(random: Random) -> str:
    """Of any length and sign, whole or not."""
    digits = random.choice((1, 1, 2, 2, 3, 4, 6, 10, 13, 27))
    number = Decimal(random.randrange(10**digits))
    if random.randrange(2):
        number = number.scaleb(-random.randint(1, digits))
    return f"{random.choice(('', '', '-'))}{number}"


_SHORT = 3
"""Such are units, and what expressions calculate with."""

_INSERTED = (
    "-",
    ".5",
    " ",
    "\n",
    "\n\n\n",
    "0",
    "[-1]",
    "[*]",
    "{x}",
    "|",
    "(",
    " && ",
    "'",
    '"',
    "，",
    "\u3000",
)

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
