"""YAML text -> plain values that know their line and column. Performs no I/O.

YAML is read as version 1.2 with its core schema: `22:30`, `on` and `yes` stay text,
keys are always text, `true`, `null` and numbers are what JSON takes them for, and
fractions are exact decimals. Tags and repeated keys are mistakes.
"""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

import yaml

from consumer.core.errors import Problem

MAX_NODES = 2_000_000
"""More come only from aliases that unfold into each other."""

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
        lines: the text's lines.

    """

    def __init__(self, text: str, place: str, max_nodes: int = MAX_NODES) -> None:
        self.place = place
        self.lines = text.splitlines()
        self._root = _compose(text, place)
        reader = _Reader(place, max_nodes)
        self.data = reader.read(self._root) if self._root is not None else None
        if reader.problems:
            raise DocumentError(reader.problems)

    def parts(self) -> list[object]:
        """What its sections consist of, for whoever wants to free them one by one."""
        nodes = self._root.value if isinstance(self._root, yaml.MappingNode) else []
        contents = self.data.values() if isinstance(self.data, dict) else []
        return [
            part
            for section in (*(value.value for _, value in nodes), *contents)
            if isinstance(section, list | dict)
            for part in (section.values() if isinstance(section, dict) else section)
        ]

    def spot(self, path: Sequence[str | int]) -> Spot:
        """Where the value at this path stands; where there is none, its nearest ancestor."""
        return _spot(_walk(self._root, path)[-1])

    def key_spot(self, path: Sequence[str | int]) -> Spot:
        """Where the key that ends this path stands; for a list's item, the item."""
        found = _walk(self._root, path)
        if len(found) == len(path) + 1 and path and isinstance(found[-2], yaml.MappingNode):
            return next(_spot(key) for key, value in found[-2].value if value is found[-1])
        return _spot(found[-1])

    def written(self, path: Sequence[str | int]) -> str | None:
        """The scalar at this path as it is written; None where there is none."""
        found = _walk(self._root, path)
        node = found[-1] if len(found) == len(path) + 1 else None
        return str(node.value) if isinstance(node, yaml.ScalarNode) else None

    def text_spot(self, path: Sequence[str | int], line: int, column: int) -> Spot:
        """Where a line and column within the text at this path stand in the document."""
        node = _walk(self._root, path)[-1]
        start = _spot(node)
        style = getattr(node, "style", None)
        if style in ("|", ">"):
            inner = start.line + line
            text = self.lines[inner - 1] if inner <= len(self.lines) else ""
            indent = len(text) - len(text.lstrip(" "))
            return Spot(inner, indent + column)
        if line > 1:
            return Spot(start.line + line - 1, column)
        return Spot(start.line, start.column + column - 1 + (style in ("'", '"')))


def _compose(text: str, place: str) -> yaml.Node | None:
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.CBaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if "end of stream" in (error.problem or "") and error.context_mark is not None:
            mark = error.context_mark  # where that began which nothing ends
        spot = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        if (
            mark is not None
            and text.splitlines()[mark.line : mark.line + 1]
            and _TAB.match(text.splitlines()[mark.line])
        ):
            raise DocumentError([Problem(f"{place}{spot}", "indented by a tab", "use spaces")]) from error
        raise DocumentError([Problem(f"{place}{spot}", f"not YAML: {what}", "correct it there")]) from error
    except (yaml.YAMLError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise DocumentError([Problem(place, f"not YAML: {what}", "write it as UTF-8 text")]) from error
    return root


class _Reader:
    """Nodes -> plain values; collects what is wrong on the way."""

    def __init__(self, place: str, max_nodes: int) -> None:
        self.problems: list[Problem] = []
        self._place = place
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
                return [self.read(item) for item in node.value]
            self._check_tag(node, _MAPPING)
            return self._mapping(node)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node) -> dict[str, object]:
        found: dict[str, object] = {}
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
        line, column = _spot(node)
        self.problems.append(Problem(f"{self._place}:{line}:{column}", message, remedy))


def _spot(node: yaml.Node | None) -> Spot:
    return Spot(node.start_mark.line + 1, node.start_mark.column + 1) if node is not None else Spot(1, 1)


def _walk(node: yaml.Node | None, path: Sequence[str | int]) -> list[yaml.Node | None]:
    """The nodes along a path, as far as it leads."""
    found = [node]
    for step in path:
        node = next(_children(node, step), None)
        if node is None:
            break
        found.append(node)
    return found


def _children(node: yaml.Node | None, step: str | int) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        yield from (value for key, value in node.value if key.value == step)
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        yield node.value[step]
