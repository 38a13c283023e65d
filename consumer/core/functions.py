"""What relief policies need beside CEL's own functions. Performs no I/O but for time zones' data."""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LOCAL_BETWEEN = "local_between"
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_END_OF_DAY = "24:00"
_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3]):([0-5][0-9])")


def clamp(value: int, low: int, high: int) -> int:
    """Raises ValueError where there is nothing between them."""
    if low > high:
        raise ValueError(f"clamp: {low} is above {high}")
    return max(low, min(value, high))


def floor_to(value: int, step: int) -> int:
    """Raises ValueError for a step that is none."""
    return value // _checked(step) * step


def ceil_to(value: int, step: int) -> int:
    """Raises ValueError likewise."""
    return -(-value // _checked(step)) * step


def _checked(step: int) -> int:
    if step <= 0:
        raise ValueError(f"a step of {step}")
    return step


def local_between(moment: datetime, start: str, end: str, zone: str) -> bool:
    """Raises ValueError where a text is no time of day or zone, OverflowError beyond the calendar."""
    local = local_time(moment, zone)
    now, first = local.hour * 60 + local.minute, _minute(start)
    last = 24 * 60 if end == _END_OF_DAY else _minute(end)
    if first == last:
        raise ValueError(f"local_between: from {start} to {end} is no time at all")
    return first <= now < last if first < last else now >= first or now < last


@lru_cache(maxsize=1024)
def _minute(clock: str) -> int:
    match = _CLOCK.fullmatch(clock)
    if match is None:
        raise ValueError(f"`{clock[:20]}` is no time of day: write it like 06:30")
    return int(match[1]) * 60 + int(match[2])


def local_time(moment: datetime, zone: str) -> datetime:
    """By the clock of a zone. Raises ValueError where there is no such zone, OverflowError beyond the calendar."""
    # By way of UTC: a time that its own zone's clock leaves out would stay as it is.
    return moment.astimezone(UTC).astimezone(_zone(zone))


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(-shift if offset[1] == "-" else shift)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"`{name[:40]}` is no time zone") from None


HELPERS = {
    "clamp(value, low, high)": "no less than `low`, no more than `high`",
    "floor_to(value, step)": "down to a multiple of `step`",
    "ceil_to(value, step)": "up to a multiple of `step`",
    "local_between(time, from, to, zone)": "`time` is from `from` to before `to` (`24:00` at most) by the clock in `zone`, past midnight too",
}
"""What expressions can call beside CEL's own, `math.least`, `math.greatest` and the text functions."""
