"""Our own headers (`coupon_...`): what a retry, a dead letter or a replay says of the event that it carries. No I/O.

The event's key, value and other headers go along unchanged. `schemas/README.md` lists all of them.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from consumer.core.events import Attempts, Coordinates, GatewayWords, Headers, Replay, RetryContext, Wait

PREFIX = "coupon_"
REPLAY_PREFIX = "coupon_replay_"
"""These stay with an event wherever it goes: they guard against going round for ever."""

Header = tuple[str, bytes | None]


def own_headers(texts: Mapping[str, str | None]) -> list[Header]:
    """Header names without the prefix -> headers; those without a text are left out."""
    return [
        (f"{PREFIX}{name}", text.encode("utf-8", "replace"))
        for name, text in texts.items()
        if text is not None
    ]


def own_texts(headers: Iterable[Header]) -> dict[str, str]:
    """Our headers by name without the prefix; the last of several counts."""
    return {
        name.removeprefix(PREFIX): value.decode("utf-8", "replace")
        for name, value in headers
        if value is not None and name.startswith(PREFIX)
    }


def event_headers(headers: Iterable[Header]) -> list[Header]:
    """The event's own, and a replay's: what is written anew has one set of the others, the newest."""
    return [
        header
        for header in headers
        if not header[0].startswith(PREFIX) or header[0].startswith(REPLAY_PREFIX)
    ]


# -- Retries ----------------------------------------------------------------------------------------


def retry_headers(context: RetryContext) -> dict[str, str | None]:
    """What `read_retry` reads, as names and texts for `own_headers`."""
    attempts, words = context.attempts, context.words
    topic, partition, offset = context.origin
    return {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "timestamp": str(context.timestamp_ms),
        "order_index": str(context.index),
        "order_id": context.order_id,
        "event_id": context.event_id,
        "waits_for": context.wait.value,
        "written_at": _instant(context.written_at),
        "due_at": _instant(context.due_at),
        "tier": str(context.tier),
        "waits": str(context.waits),
        "excused_seconds": f"{context.excused_seconds:.3f}",
        "attempts": str(attempts.count),
        "first_at": _instant(attempts.first_at),
        "last_at": _instant(attempts.last_at),
        "seconds": None if attempts.seconds is None else f"{attempts.seconds:.6f}",
        "ambiguous": "true" if attempts.ambiguous else "false",
        "label": context.label or None,
        "code": words.code,
        "http_status": None if words.http_status is None else str(words.http_status),
        "message": words.message,
        "seqno": words.seqno,
        "enter_time": words.enter_time,
    }


def read_retry(headers: Headers) -> RetryContext | str:
    """The context in a retry topic's record; or in words why there is none that can be used."""
    texts = own_texts(headers)
    try:
        return RetryContext(
            origin=Coordinates(texts["topic"], whole(texts["partition"]), whole(texts["offset"])),
            timestamp_ms=whole(texts["timestamp"], least=LEAST_TIMESTAMP),
            index=whole(texts["order_index"]),
            wait=Wait(texts["waits_for"]),
            written_at=instant(texts["written_at"]),
            due_at=instant(texts["due_at"]),
            tier=whole(texts["tier"]),
            waits=whole(texts["waits"]),
            excused_seconds=_seconds(texts["excused_seconds"]),
            attempts=Attempts(
                count=whole(texts["attempts"]),
                first_at=instant(texts["first_at"]) if "first_at" in texts else None,
                last_at=instant(texts["last_at"]) if "last_at" in texts else None,
                seconds=_seconds(texts["seconds"]) if "seconds" in texts else None,
                ambiguous=texts["ambiguous"] == "true",
            ),
            label=texts.get("label", ""),
            words=GatewayWords(
                code=texts.get("code"),
                http_status=whole(texts["http_status"]) if "http_status" in texts else None,
                message=texts.get("message"),
                seqno=texts.get("seqno"),
                enter_time=texts.get("enter_time"),
            ),
            event_id=texts.get("event_id"),
            order_id=texts.get("order_id"),
        )
    except KeyError as error:
        return f"no header {PREFIX}{error.args[0]}: not written by this service"
    except ValueError as error:
        return f"its {PREFIX} headers cannot be read: {error}"


# -- Replays ----------------------------------------------------------------------------------------


def replay_headers(replay: Replay) -> list[Header]:
    """What `read_replay` reads."""
    texts = {
        "replay_of": replay.of,
        "replay_count": str(replay.count),
        "replay_order_index": None if replay.index is None else str(replay.index),
        "replay_release": "true" if replay.release else None,
    }
    return own_headers(texts)


def read_replay(headers: Headers) -> Replay | None:
    """Who sent this record back; None where nobody did, or what is said of it cannot be read."""
    texts = own_texts(headers) if headers else {}
    if "replay_of" not in texts:
        return None
    try:
        return Replay(
            of=texts["replay_of"],
            count=whole(texts["replay_count"]),
            index=whole(texts["replay_order_index"]) if "replay_order_index" in texts else None,
            release=texts.get("replay_release") == "true",
        )
    except (KeyError, ValueError):
        return None


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat(timespec="milliseconds")


# -- What a header's text says, where anybody may have written it ------------------------------------

LEAST_TIMESTAMP = -(2**63)
"""Kafka takes whatever a producer writes, before 1970 too."""

_LARGEST = 2**63 - 1
LONGEST_SECONDS = 10 * 365 * 86400.0
"""A span that a header tells, at most."""


def whole(text: str, least: int = 0) -> int:
    """A whole number that Kafka and JSON can hold. Raises ValueError."""
    value = int(text)
    if not least <= value <= _LARGEST:
        raise ValueError(f"{text[:40]!r} is out of bounds")
    return value


def _seconds(text: str) -> float:
    """A span of time. Raises ValueError."""
    value = float(text)
    if not 0 <= value <= LONGEST_SECONDS:  # not a number is neither
        raise ValueError(f"{text[:40]!r} is no span of seconds")
    return value


def instant(text: str) -> datetime:
    """Aware, and far enough from the calendar's ends to be counted from. Raises ValueError."""
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    if not 1 < value.year < 9999:
        raise ValueError(f"{text!r} is at the calendar's end")
    return value
