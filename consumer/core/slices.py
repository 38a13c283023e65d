"""Long work in slices, between which others can do something. Performs no I/O.

Python hands over between any two of its steps; what C does in one step (decode a text, check a model, free
a list) it does not interrupt. Of rules as long as they may be, each such step is therefore cut up.
"""

import codecs
from collections.abc import Callable

Breathe = Callable[[], None]
"""Called now and then during long work, by whoever has other things to do meanwhile."""

ITEMS = 25
"""Rules or stations in one step: some tenths of a millisecond."""

LONG = 100
"""More items than these are not freed at once."""

BYTES = 65_536
"""Of a text in one step."""


def at_once() -> None:
    """For whoever has nothing else to do: the work goes on without a break."""


def check_utf8(content: bytes, breathe: Breathe) -> None:
    """Raises UnicodeDecodeError, whose `start` is counted from the beginning of the content."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), BYTES):
        breathe()
        pending, _ = decoder.getstate()
        try:
            decoder.decode(content[start : start + BYTES], final=start + BYTES >= len(content))
        except UnicodeDecodeError as error:
            before = start - len(pending)
            raise UnicodeDecodeError(
                error.encoding, content, before + error.start, before + error.end, error.reason
            ) from None


def let_go(parts: list[object], breathe: Breathe) -> None:
    """Empties these lists and dicts little by little, the last one first.

    All at once would take long. What is in them must be of no use to anybody any more.
    """
    while parts:
        part = parts[-1]
        if isinstance(part, dict):
            for _ in range(min(ITEMS, len(part))):
                part.popitem()
        elif isinstance(part, list):
            del part[-ITEMS:]
        if not part or not isinstance(part, dict | list):
            parts.pop()
        breathe()
