"""Whether this machine can do the work: looked at before any of it begins, and its clock later on. Reads zone data.

Each look gives one line that says what to do. What cannot work is refused; a clock that differs is only told.
"""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.resources import files
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from aiokafka import codec

from consumer.core.errors import ConfigurationError, Problem
from consumer.core.expressions import ExpressionError, compiler
from consumer.core.syntax import Kind

log = structlog.get_logger(__name__)

ZONE, ZONE_HOURS = "Asia/Shanghai", 8
CLOCK_SECONDS = 30.0
"""A clock that differs by more makes charges look as if they ended in the future, or their deadlines pass."""

_CLOCK_INTERVAL = 600.0


def check() -> None:
    """Raises ConfigurationError with everything that is wrong."""
    looks: tuple[Callable[[], Problem | None], ...] = (_md5, _codecs, _zones, _zones_in_expressions)
    problems = [problem for look in looks if (problem := look()) is not None]
    if problems:
        raise ConfigurationError(problems)


def _md5() -> Problem | None:
    """The platform's signatures are MD5, which a FIPS build of OpenSSL or Python can lack altogether."""
    try:
        hashlib.md5(b"", usedforsecurity=False)
    except (ValueError, AttributeError) as error:
        return Problem(
            "this machine",
            f"MD5, which the platform's signatures need, cannot be computed ({error})",
            "use a Python that has MD5 for other uses than security: python.org's builds do under FIPS too",
        )
    return None


def _codecs() -> Problem | None:
    """Records come compressed as their producers like, whatever is set here."""
    sample = b"charging " * 100
    pairs = (
        (codec.gzip_encode, codec.gzip_decode),
        (codec.snappy_encode, codec.snappy_decode),
        (codec.lz4_encode, codec.lz4_decode),
        (codec.zstd_encode, codec.zstd_decode),
    )
    try:
        if all(bytes(decode(encode(sample))) == sample for encode, decode in pairs):
            return None
        why = "what was written is read otherwise"
    except Exception as error:  # noqa: BLE001  # whatever a missing or broken library raises
        why = f"{type(error).__name__}: {error}"
    return Problem(
        "this machine",
        f"records compressed with gzip, snappy, lz4 or zstd cannot be read ({why})",
        "install cramjam again: pip install --force-reinstall cramjam",
    )


def _zones() -> Problem | None:
    try:
        offset = datetime(2026, 1, 1, tzinfo=ZoneInfo(ZONE)).utcoffset()
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        return Problem("this machine", f"it has no time zones ({error})", "pip install tzdata")
    if offset != timedelta(hours=ZONE_HOURS):
        return Problem(
            "this machine", f"its time zones are wrong: {ZONE} is {offset} from UTC", "pip install -U tzdata"
        )
    return None


def _zones_in_expressions() -> Problem | None:
    """Their runtime reads the system's zones, not Python's."""
    expressions = compiler({})
    found: object
    try:
        # With a time that is a literal, which leaves it to that runtime.
        hours = expressions.compile(f'timestamp("2026-01-01T00:00:00Z").getHours("{ZONE}")', Kind.INT)
        found = hours.evaluate(expressions.bind({}))
    except ExpressionError as error:
        found = error
    if found == ZONE_HOURS:
        return None
    return Problem(
        "this machine",
        f'the rules\' expressions have no time zones: getHours("{ZONE}") gives {found}',
        f"install the system's zones (apt install tzdata), or set the variable TZDIR={_packaged_zones()}",
    )


def _packaged_zones() -> str:
    return str(files("tzdata") / "zoneinfo")


class Clock:
    """Compares this machine's clock with the platform's. Kafka tells its time nowhere."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._next = 0.0

    def note(self, date: str) -> None:
        """The `Date` of a reply that has just come. Warns; at most every ten minutes."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _CLOCK_INTERVAL
        try:
            seconds = (self._now() - parsedate_to_datetime(date)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
            return
        if abs(seconds) > CLOCK_SECONDS:
            log.warning(
                "selfcheck.clock_differs",
                seconds_ahead=round(seconds),
                of="the platform's clock",
                remedy="have this machine's clock set (NTP); deadlines and plausibility go by it",
            )
