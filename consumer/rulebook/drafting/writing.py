"""Plain values -> YAML as our reader of YAML takes it back. Performs no I/O."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

_PLAIN = re.compile(r"[A-Za-z_\u4e00-\u9fff][\w\u4e00-\u9fff.$/-]*")
_TAKEN_FOR_OTHERS = frozenset({"null", "true", "false"})
_WIDTH = 96


def scalar(value: object) -> str:
    """On one line, quoted where it would be taken for something else."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
        case _:
            text = str(value)
            if _PLAIN.fullmatch(text) and text.lower() not in _TAKEN_FOR_OTHERS:
                return text
            return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def flow(value: object) -> str:
    """On one line: `{paths: a.b, unit: kWh}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value)


def lines_of(key: str, value: object, indent: int) -> Iterator[str]:
    """A key with its value, on one line where it fits."""
    space = " " * indent
    line = f"{space}{scalar(key)}: {flow(value)}"
    if len(line) <= _WIDTH or not isinstance(value, dict | list) or not value:
        yield line
    elif isinstance(value, dict):
        yield f"{space}{scalar(key)}:"
        for inner_key, inner in value.items():
            yield from lines_of(str(inner_key), inner, indent + 2)
    else:
        yield f"{space}{scalar(key)}:"
        for item in value:
            yield f"{space}  - {flow(item)}"
