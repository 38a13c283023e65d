"""Files of sample messages -> the messages in them: one, lines of them, or a list. Performs no I/O."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from consumer.core.errors import ConfigurationError, Problem
from consumer.core.formats import Refusal, decode
from consumer.core.likenesses import of_text
from consumer.rulebook.cases import event_bytes
from consumer.rulebook.drafting.shapes import inside

MOST_SAMPLES = 500
"""Messages that are looked at; more of them tell nothing new."""

MOST_PROBLEMS = 20
"""Told at once; what is no JSON at all is none on every line."""

_FRAME = 5
_LINE_END = "\n"
_BETWEEN = re.compile(r"[\s,]*")  # a list is often pasted without its brackets
_REMEDY = "give one JSON message, one on each line, or a list of them"
# Only where a message ends matters here, so that numbers of any length are left as they are.
_scanner = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


class Sample(NamedTuple):
    """One message.

    Attributes:
        place: file and line.
        value: its bytes, as they would come from Kafka.
        body: the JSON in them.

    """

    place: str
    value: bytes
    body: object


@dataclass(frozen=True, slots=True)
class Samples:
    """The messages of all files.

    Attributes:
        registry: some come in a schema registry's frame.
        charset: of those that are not UTF-8.
        left_out: how many more there are than are looked at.

    """

    messages: Sequence[Sample]
    registry: bool = False
    charset: str | None = None
    left_out: int = 0


def samples_of(files: Sequence[tuple[str, bytes]]) -> Samples:
    """The messages of these files, each a place and a content. Raises ConfigurationError with all that is no JSON."""
    problems: list[Problem] = []
    found: list[Sample] = []
    registry, charset = False, None
    for place, content in files:
        framed = content[:1] == b"\0" and len(content) > _FRAME
        before = len(problems) + len(found)
        text, written = _text(content[_FRAME:] if framed else content, place, problems)
        registry, charset = registry or framed, charset or written
        for line, part in _parts(text, place, problems):
            body = decode(part)
            if isinstance(body, Refusal) and inside(part) is not None:
                body = part
            if isinstance(body, Refusal):
                problems.append(Problem(f"{place}:{line}", body.detail, _REMEDY))
                continue
            listed = isinstance(body, list)
            for each in body if isinstance(body, list) else [body]:
                value = event_bytes(each).decode() if listed else part
                found.append(
                    Sample(f"{place}:{line}", value.encode(written or "utf-8", "surrogatepass"), each)
                )
        if before == len(problems) + len(found):
            problems.append(Problem(place, "there is no message in it", _REMEDY))
    if problems:
        more = len(problems) - MOST_PROBLEMS
        if more > 0:
            problems[MOST_PROBLEMS:] = [Problem(place, f"{more} more places like these", _REMEDY)]
        raise ConfigurationError(problems)
    return Samples(found[:MOST_SAMPLES], registry, charset, max(0, len(found) - MOST_SAMPLES))


def _text(content: bytes, place: str, problems: list[Problem]) -> tuple[str, str | None]:
    """The text, and its charset where that is not UTF-8; a problem where it is none."""
    charset = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else None
    try:
        return content.decode(charset or "utf-8-sig"), charset
    except UnicodeDecodeError as error:
        at = error.start
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError:
        text = ""
    if text.lstrip()[:1] in tuple('{["'):
        return text, "gb18030"
    refused = decode(content)
    why = refused.detail if isinstance(refused, Refusal) else f"not text at byte {at}"
    problems.append(Problem(place, why, _REMEDY))
    return "", None


def _parts(text: str, place: str, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    """The texts of JSON, each with its line."""
    position, line = 0, 1
    while True:
        match = _BETWEEN.match(text, position)
        start = match.end() if match else position
        line += text.count("\n", position, start)
        if start == len(text):
            return
        try:
            _, position = _scanner.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            end = text.find(_LINE_END, start)
            whole = text[start : end if end >= 0 else len(text)].strip()
            if inside(whole) is not None:
                yield line, whole
                position = start + len(whole)
                continue
            what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            at = min(error.pos, len(text)) if isinstance(error, json.JSONDecodeError) else start
            failed = line + text.count("\n", start, at)
            place_of = f"{place}:{failed}:{at - text.rfind(_LINE_END, 0, at)}"
            like = of_text(text[start:], at - start)
            problems.append(Problem(place_of, f"not JSON: {what}{f' ({like})' if like else ''}", _REMEDY))
            position = text.find("\n", start)
            if failed > line or position < 0:  # what follows is rather a part of what is broken
                return
        else:
            yield line, text[start:position]
        line += text.count("\n", start, position)
