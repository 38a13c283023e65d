"""Sets up logging: JSON lines, or a readable form on a terminal. Writes to the stream that it is given.

Every line, whoever logs it, passes one last gate: plates are masked and secrets taken out of the
finished text, so that no field, message or traceback can carry them past it.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from consumer.core.outcomes import inert, without_plates
from consumer.core.plates import mask

Format = Literal["auto", "json", "console"]

_HIDDEN = "***"
_SECRET_FIELDS = frozenset({"app_secret", "secret", "password", "token", "authorization", "sign"})
SHORTEST_SECRET = 4
"""Shorter texts stand in every line by chance."""

_in_use: list[str] = []
"""Every spelling of the secrets that this process uses."""

_TALKATIVE = ("aiokafka", "aiohttp.access", "asyncio")
"""Loggers whose info lines are for their own developers."""


def configure(
    level: str = "info",
    format: Format = "auto",  # noqa: A002  # as the setting is called
    stream: TextIO | None = None,
    *,
    hide: Iterable[str] = (),
) -> None:
    """Sends structlog's and the standard library's lines to the stream, standard error by default.

    No line will hold a text of `hide`: the secrets in use.
    """
    stream = sys.stderr if stream is None else stream
    as_json = format == "json" or (format == "auto" and not stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    _in_use[:] = _spellings(hide)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        _safe_fields,
    ]
    handler = logging.StreamHandler(stream)
    handler.addFilter(_LessOften())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _gate(_as_json if as_json else _for_a_terminal(stream)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        cache_logger_on_first_use=True,
    )


def hide_also(texts: Iterable[str]) -> None:
    """No line will hold these either: secrets that came into use."""
    _in_use[:] = sorted({*_in_use, *_spellings(texts)}, key=len, reverse=True)


class Intervals:
    """How often a matter is told that comes again and again: at once, then after pauses that double."""

    def __init__(self, *, first: float, longest: float) -> None:
        """Seconds. A matter that was not met for `longest` is told at once again."""
        self._first, self._longest = first, longest
        self._told: dict[object, _Told] = {}

    def due(self, matter: object, now: float) -> int | None:
        """None: not now. Else how many times it was met and not told since it was told last."""
        found = self._told.get(matter)
        if found is None or now - found.met > self._longest:
            if len(self._told) >= _MATTERS:
                self._told.clear()
            self._told[matter] = _Told(now, now + self._first, self._first)
            return 0
        found.met = now
        if now < found.again:
            found.held_back += 1
            return None
        found.pause = min(found.pause * 2, self._longest)
        found.again = now + found.pause
        held_back, found.held_back = found.held_back, 0
        return held_back


_MATTERS = 1000  # beyond it, telling twice is better than growing


@dataclass(slots=True)
class _Told:
    met: float
    again: float
    pause: float
    held_back: int = 0


class _LessOften(logging.Filter):
    """aiokafka says the same several times a second while a broker is away, and we say it ourselves."""

    def __init__(self) -> None:
        super().__init__()
        self._intervals = Intervals(first=30.0, longest=600.0)

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka") or record.levelno < logging.WARNING:
            return True
        held_back = self._intervals.due((record.name, record.msg), time.monotonic())
        if held_back:
            record.msg = f"{record.getMessage()} (and {held_back} times before)"
            record.args = ()
        return held_back is not None


Renderer = Callable[[WrappedLogger, str, EventDict], str]


def _safe_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event = {name: _HIDDEN if name.lower() in _SECRET_FIELDS else value for name, value in event.items()}
    if isinstance(plate := event.get("plate"), str):
        event["plate"] = mask(plate)  # also one that does not look like a plate
    return event


def _as_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    event = structlog.processors.format_exc_info(logger, method, event)
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        return str(orjson.dumps({name: ascii(value) for name, value in event.items()}), "ascii")


def _for_a_terminal(stream: TextIO) -> Renderer:
    """Without the local variables that its default shows in tracebacks: they would hold requests."""
    renderer = structlog.dev.ConsoleRenderer(
        timestamp_key="time",
        colors=stream.isatty() and not os.environ.get("NO_COLOR"),  # https://no-color.org
        exception_formatter=structlog.dev.plain_traceback,
    )
    return lambda logger, method, event: str(renderer(logger, method, _inert(event)))


def _inert(event: EventDict) -> EventDict:
    return {
        name: inert(value, keep="\t\n") if isinstance(value, str) else value for name, value in event.items()
    }


def _gate(render: Renderer) -> Renderer:
    return lambda logger, method, event: cleaned(render(logger, method, event))


def cleaned(text: str) -> str:
    """The text without whole plates, and without the secrets that `configure` was told of."""
    for secret in _in_use:
        text = text.replace(secret, _HIDDEN)
    return without_plates(text)


def _spellings(hide: Iterable[str]) -> list[str]:
    """Each text as it is, within JSON and within a repr; the longest first, since one may hold another."""
    texts = {text for text in hide if len(text) >= SHORTEST_SECRET}
    texts |= {orjson.dumps(text.encode("utf-8", "replace").decode()).decode()[1:-1] for text in texts}
    texts |= {repr(text)[1:-1] for text in texts}
    return sorted(texts, key=len, reverse=True)
