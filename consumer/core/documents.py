"""YAML text -> plain values that know their line and column. Performs no I/O.

YAML is read as version 1.2 with its core schema: `22:30`, `on` and `yes` stay text,
keys are always text, `true`, `null` and numbers are what JSON takes them for, and
fractions are exact decimals. Tags and repeated keys are mistakes.
"""

import codecs
import re
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import yaml

from consumer.core.errors import Problem
from consumer.core.slices import LONG, Breathe, at_once, let_go

MAX_NODES = 2_000_000
"""More come only from aliases that unfold into each other."""

PIECE = 2048
"""So many bytes or characters are parsed in one step: about a millisecond."""

_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_FRACTION = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_TAB = re.compile(r" *\t")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_KNOWN_TAGS = "tag:yaml.org,2002:"
_TEXT, _LIST, _MAPPING = (f"{_KNOWN_TAGS}{kind}" for kind in ("str", "seq", "map"))
_TAGS: dict[type[yaml.Node], str] = {
    yaml.ScalarNode: _TEXT,
    yaml.SequenceNode: _LIST,
    yaml.MappingNode: _MAPPING,
}


class DocumentError(Exception):
    """A text that is no YAML document of ours. Holds all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Spot(NamedTuple):
    """Where something stands in a text, from 1."""

    line: int
    column: int


class Document:
    """One YAML document.

    Attributes:
        place: the file's name, as problems show it.
        data: what it says, in dicts, lists, text, int, Decimal, bool and None.

    """

    def __init__(
        self,
        text: str | bytes,
        place: str,
        max_nodes: int = MAX_NODES,
        breathe: Breathe = at_once,
    ) -> None:
        """`text` may be its UTF-8; `breathe` is called now and then, so that others can do something meanwhile."""
        self.place = place
        self._text = _Text(text)
        self._long: list[object] = []
        self._entries: dict[int, dict[str, _Step]] = {}
        reader = _Reader(self._text, place, max_nodes, self._long, breathe)
        try:
            self._root = _compose(self._text, place, self._long, breathe)
        except DocumentError:
            let_go(self._long, breathe)
            raise
        self.data = reader.read(self._root) if self._root is not None else None
        if reader.problems:
            let_go(self._long, breathe)
            raise DocumentError(reader.problems)

    def parts(self) -> list[object]:
        """The long lists and dicts that it is made of, for whoever wants to empty them little by little."""
        return [*self._long, *self._entries.values()]

    def spot(self, path: Sequence[str | int]) -> Spot:
        """Where the value at this path stands; where there is none, its nearest ancestor."""
        return self._text.spot_of(self._walk(path)[-1].value)

    def remarks(self, beginning: str) -> list[Spot]:
        """Where comments stand that begin so and have their lines to themselves."""
        lines = enumerate(lines_of(self._text.text), 1)
        return [
            Spot(number, line.index("#") + 1)
            for number, line in lines
            if line.lstrip().startswith(f"# {beginning}")
        ]

    def key_spot(self, path: Sequence[str | int]) -> Spot:
        """Where the key that ends this path stands; for a list's item, the item."""
        found = self._walk(path)
        end = found[-1]
        return self._text.spot_of(end.value if end.key is None or len(found) <= len(path) else end.key)

    def written(self, path: Sequence[str | int]) -> str | None:
        """The scalar at this path as it is written; None where there is none."""
        found = self._walk(path)
        node = found[-1].value if len(found) == len(path) + 1 else None
        return str(node.value) if isinstance(node, yaml.ScalarNode) else None

    def written_path(self, path: Sequence[str | int]) -> tuple[str | int, ...]:
        """The path without what is not written: the list around one item, `paths` above one path."""
        found = self._walk(path)
        steps = [
            step for step, (before, after) in zip(path, pairwise(found), strict=False) if before is not after
        ]
        return (*steps, *path[len(found) - 1 :])

    def text_spot(self, path: Sequence[str | int], line: int, column: int) -> Spot:
        """Where a line and column within the text at this path stand in the document, however it is written there."""
        node = self._walk(path)[-1].value
        if not isinstance(node, yaml.ScalarNode):
            return self._text.spot_of(node)
        offset = sum(len(above) + 1 for above in node.value.split("\n")[: line - 1]) + column - 1
        return self._text.spot(_index_within(self._text.text, node, offset))

    def _walk(self, path: Sequence[str | int]) -> list["_Step"]:
        """From the root along a path, as far as it leads.

        A path may name what is not written: the list around an item that stands alone, or `paths` above one path.
        Such a step stays where it is.
        """
        found = [_Step(self._root)]
        for step in path:
            node = found[-1].value
            if isinstance(node, yaml.MappingNode) and isinstance(step, str):
                after = self._entry(node, step)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                after = _Step(node.value[step]) if step < len(node.value) else None
            else:
                after = found[-1]
            if after is None:
                break
            found.append(after)
        return found

    def _entry(self, node: yaml.MappingNode, name: str) -> "_Step | None":
        """A mapping's of this name; a long one is looked through once, not for each of its mistakes."""
        if len(node.value) <= LONG:
            return next((_Step(value, key) for key, value in node.value if key.value == name), None)
        if id(node) not in self._entries:
            self._entries[id(node)] = {key.value: _Step(value, key) for key, value in node.value}
        return self._entries[id(node)].get(name)


class _Text:
    """A text of which it can be asked in which line something stands.

    YAML's own lines end at more than those that editors show: at U+2028, in quotes even.
    """

    def __init__(self, written: str | bytes) -> None:
        self.written = (
            written.removeprefix(codecs.BOM_UTF8)
            if isinstance(written, bytes)
            else written.removeprefix("\ufeff")
        )

    @cached_property
    def text(self) -> str:
        """Made only where it is asked for, of something that is wrong."""
        return self.written.decode() if isinstance(self.written, bytes) else self.written

    @cached_property
    def _end(self) -> int:
        return len(self.text.rstrip())

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(match.end() for match in _BREAK.finditer(self.text))]

    def spot(self, index: int) -> Spot:
        """Of the character at this index; beyond the last one that can be seen, just behind it."""
        index = min(index, self._end)
        line = bisect_right(self._starts, index)
        return Spot(line, index - self._starts[line - 1] + 1)

    def spot_of(self, node: yaml.Node | None) -> Spot:
        """Where the node begins."""
        return self.spot(node.start_mark.index) if node is not None else Spot(1, 1)

    def is_over(self, index: int) -> bool:
        """Whether nothing that can be seen stands from there on."""
        return index >= self._end


_BREAK = re.compile(r"\r\n?|\n")


def lines_of(text: str) -> list[str]:
    """As `Spot` counts them."""
    return _BREAK.split(text)


_LINE = r"[^\r\n\x85\u2028\u2029]*"
_BEFORE = re.compile(rf"(?:[&!]\S*\s+|#{_LINE}\s+)*(?:[|>]{_LINE}|['\"])?")
"""An anchor, a tag, and what says how a text is written."""
_SEEN = {"'": re.compile(r"''|\S"), '"': re.compile(r"\\(?:x..|u.{4}|U.{8}|\r\n|[\s\S])|\S")}
_SEEN_PLAINLY = re.compile(r"\S")
_SPACES = frozenset(" \t\r\n\x85\u2028\u2029trnvfNL_P")
"""Behind a backslash, between double quotes: spaces of all kinds, and ends of lines."""


def _index_within(text: str, node: yaml.ScalarNode, offset: int) -> int:
    """An offset in a scalar's value -> the index in the text at which that character is written.

    Found by counting the characters that can be seen, which stand in the same order in both: spaces and ends of lines
    may be folded, escaped or left out.
    """
    before, here = node.value[:offset], node.value[offset : offset + 1]
    count = sum(not character.isspace() for character in before)
    start = _BEFORE.match(text, node.start_mark.index)
    end = start.end() if start is not None else node.start_mark.index
    for match in _SEEN.get(node.style or "", _SEEN_PLAINLY).finditer(text, end, node.end_mark.index):
        if len(match[0]) > 1 and match[0][0] == "\\" and _is_space(match[0]):
            continue
        if count == 0:
            return match.start() if here.strip() else end
        count -= 1
        end = match.end()
    return end


def _is_space(escape: str) -> bool:
    if escape[1] in "xuU":
        return chr(int(f"0x{escape[2:]}", 0)).isspace()
    return escape[1] in _SPACES


class _Loader(yaml.CBaseLoader):
    """Nodes with YAML's own tags; to find out anything else about each of them would take as long as to read it.

    Attributes:
        long: the long lists of nodes in them, also where they end in a mistake.

    """

    def __init__(self, stream: "_Stream", long: list[object]) -> None:
        super().__init__(stream)
        self.long = long

    def resolve(self, kind: type[yaml.Node], value: object, implicit: object) -> str:  # noqa: ARG002  # PyYAML's
        return _TAGS[kind]

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:  # noqa: ARG002  # PyYAML's
        if current_node is not None and len(current_node.value) == LONG:
            self.long.append(current_node.value)

    def ascend_resolver(self) -> None:
        pass


class _Stream:
    """A text from which libyaml takes as much as it needs, a little at a time."""

    def __init__(self, written: str | bytes, breathe: Breathe) -> None:
        self._written = written
        self._breathe = breathe
        self._taken = 0

    def read(self, size: int = 1, /) -> bytes:
        self._breathe()
        piece = self._written[self._taken : self._taken + min(size, PIECE)]
        self._taken += len(piece)
        return piece.encode() if isinstance(piece, str) else piece


def _compose(text: _Text, place: str, long: list[object], breathe: Breathe) -> yaml.Node | None:
    try:
        root: yaml.Node | None = _Loader(_Stream(text.written, breathe), long).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None and text.is_over(mark.index) and error.context_mark is not None:
            mark = error.context_mark  # where that stands which is never closed
        what = ", ".join(filter(None, (error.context, error.problem)))
        if mark is None:
            raise DocumentError([Problem(place, f"not YAML: {what}", "correct it there")]) from error
        line, column = text.spot(mark.index)
        spot = f"{place}:{line}:{column}"
        if _TAB.match(lines_of(text.text)[line - 1]):
            raise DocumentError([Problem(spot, "indented by a tab", "use spaces")]) from error
        raise DocumentError([Problem(spot, f"not YAML: {what}", "correct it there")]) from error
    except (yaml.YAMLError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise DocumentError([Problem(place, f"not YAML: {what}", "write it as UTF-8 text")]) from error
    return root


class _Reader:
    """Nodes -> plain values; collects what is wrong on the way."""

    def __init__(
        self, text: "_Text", place: str, max_nodes: int, long: list[object], breathe: Breathe
    ) -> None:
        self.problems: list[Problem] = []
        self._long = long
        self._text = text
        self._place = place
        self._breathe = breathe
        self._open: set[int] = set()
        self._left = max_nodes

    def read(self, node: yaml.Node) -> object:
        self._left -= 1
        if self._left < 0 or id(node) in self._open:
            if self._left >= -1:  # once is enough
                self._problem(
                    node, "an alias that leads back to itself, or unfolds without end", "write it out"
                )
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, _LIST)
                items = [self.read(item) for item in node.value]
                self._note(items)
                return items
            self._check_tag(node, _MAPPING)
            found = self._mapping(node)
            self._note(found)
            return found
        finally:
            self._open.discard(id(node))

    def _note(self, read: list[object] | dict[str, object]) -> None:
        if len(read) > LONG:
            self._long.append(read)

    def _mapping(self, node: yaml.Node) -> dict[str, object]:
        found: dict[str, object] = {}
        self._breathe()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, "a key that is a list or a mapping", "use text as the key")
                continue
            if key.value in found:
                self._problem(key, f"the key `{key.value}` stands here a second time", "keep one of them")
            found[key.value] = self.read(value)
        return found

    def _scalar(self, node: yaml.ScalarNode) -> object:
        self._check_tag(node, _TEXT)
        text: str = node.value
        if node.style is not None and node.style != "":
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return Decimal(text) if _FRACTION.fullmatch(text) else text

    def _check_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag not in (expected, "!"):
            known = node.tag.startswith(_KNOWN_TAGS)  # another may be an unquoted secret
            tag = node.tag.replace(_KNOWN_TAGS, "!!") if known else "!..."
            self._problem(node, f"the tag `{tag}` is not used here", "leave it out; quote what is text")

    def _problem(self, node: yaml.Node, message: str, remedy: str) -> None:
        line, column = self._text.spot_of(node)
        self.problems.append(Problem(f"{self._place}:{line}:{column}", message, remedy))


class _Step(NamedTuple):
    """Where a step of a path leads: the value, and the key above it in a mapping."""

    value: yaml.Node | None
    key: yaml.Node | None = None
