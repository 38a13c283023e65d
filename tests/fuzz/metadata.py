"""A commit's metadata -> an offset map; a record's headers -> a retry, a replay, a dead letter, a receipt. No I/O.

An input is `t` and the metadata as text; `m`, flags and a map's body, around which the rest is put; or a JSON
object of headers.
"""

import base64
import json
import zlib
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from random import Random

import orjson

from consumer import rulebook
from consumer.core.events import (
    Attempts,
    Coordinates,
    GatewayWords,
    Order,
    Record,
    Replay,
    RetryContext,
    Wait,
)
from consumer.core.headers import Header, own_headers, read_replay, read_retry, replay_headers, retry_headers
from consumer.core.letters import (
    Filters,
    Receipt,
    obstacle,
    plates_of,
    read_letter,
    read_receipt,
    receipt_headers,
    replayed_headers,
)
from consumer.core.offsets import (
    _BITMAP,
    _CLEAN,
    _DEFLATED,
    _PREFIX,
    _RUNS,
    OffsetMap,
    Tracker,
    UnusableMap,
    _cluster_tag,
    _uvarint,
    decode_map,
    encode_map,
)
from consumer.core.outcomes import (
    Outcome,
    Reason,
    Resolution,
    encode_dead_letter,
    encode_outcome,
    encode_retry,
)
from consumer.core.retries import RetryPolicy, excused_seconds
from consumer.delivery import _deadline
from tests.fuzz import trees
from tests.fuzz.records import CLEAR, NOW
from tests.fuzz.target import Mutate, Target, scribbling

CLUSTER, FRONTIER = "fuzz", 1000
POLICY = RetryPolicy(delays=(60.0, 300.0, 1800.0))
VALUE = b'{"order_id":"A1","plate":"\xe7\xb2\xa4BD12345","ended_at":"2026-03-01T11:00:00Z"}'


# -- What must hold ---------------------------------------------------------------------------------


def check(data: bytes) -> None:
    match data[:1]:
        case b"t":
            a_map(data[1:].decode("utf-8", "replace"))
        case b"m" if len(data) > 1:
            packed = data[1:2] + _cluster_tag(CLUSTER) + _uvarint(FRONTIER) + data[2:]
            a_map(_PREFIX + base64.b64encode(packed).rstrip(b"=").decode())
        case b"{":
            headers = _headers(data)
            a_retry(headers)
            a_letter(headers)
            receipt = read_receipt(headers)
            if receipt is not None:
                written = receipt_headers(receipt, to="charges", count=1, at=NOW)
                assert read_receipt(written) == receipt


def a_map(text: str) -> None:
    """What is done is in order, apart and beyond the frontier; and written and read again it is the same."""
    found = decode_map(text, CLUSTER, FRONTIER)
    if isinstance(found, UnusableMap):
        assert found.why in ("foreign", "unreadable", "other_cluster", "other_offset")
        return
    at = FRONTIER
    for start, end in found.done:
        assert at < start < end
        at = end
    again = encode_map(CLUSTER, FRONTIER, list(found.done), clean=found.clean)
    assert decode_map(again, CLUSTER, FRONTIER) == OffsetMap(found.done, found.clean)
    tracker = Tracker(FRONTIER, found.done)
    assert tracker.frontier == FRONTIER
    assert tracker.done() == list(found.done)
    assert tracker.take(FRONTIER)
    tracker.finish_all([FRONTIER])
    assert tracker.frontier > FRONTIER


def _headers(data: bytes) -> tuple[Header, ...]:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return ()
    texts = given.items() if isinstance(given, dict) else ()
    return tuple(
        (str(name), None if text is None else str(text).encode("utf-8", "surrogatepass"))
        for name, text in texts
    )


def a_retry(headers: tuple[Header, ...]) -> None:
    """The service can go on with it: read, plan, wait, end, and write."""
    retry, replay = read_retry(headers), read_replay(headers)
    if replay is not None:
        assert read_replay(tuple(replay_headers(replay))) == replay
    refused = retry if isinstance(retry, str) else ""
    context = None if isinstance(retry, str) else retry
    record = Record(
        Coordinates("retries.1m", 0, 7),
        1_772_366_400_000,
        b"k",
        VALUE,
        headers,
        False,
        context,
        replay,
        refused,
    )
    (item, *_) = BOOK.read(record, NOW)
    if isinstance(item, Order):
        BOOK._planner.plan(item, as_on=False)
    if context is not None:
        assert isinstance(read_retry(tuple(own_headers(retry_headers(context)))), RetryContext)
    excused = excused_seconds(context, NOW)
    if isinstance(item, Order):
        _deadline(BOOK, item, record, "1002", excused)
    for wait in Wait:
        later = POLICY.later(wait, NOW, context, excused=excused)
        assert NOW < later.due_at <= NOW + timedelta(seconds=1800)
        ended = Resolution(
            record,
            item.index,
            Outcome.NOT_ENTERED,
            NOW,
            values=item.values or {},
            attempts=context.attempts if context is not None else Attempts(),
            words=context.words if context is not None else GatewayWords(),
            later=later,
        )
        again = read_retry(tuple(encode_retry(ended, later, CLEAR).headers))
        assert isinstance(again, RetryContext)
        assert again.origin == record.origin
        orjson.loads(encode_outcome(ended, CLEAR).value or b"")
        assert encode_dead_letter(ended, CLEAR, 1_000_000).value == VALUE


def a_letter(headers: tuple[Header, ...]) -> None:
    """It is chosen or not, and goes back or not."""
    letter = read_letter(headers)
    if isinstance(letter, str):
        return
    Filters(since=NOW, until=NOW, topics=frozenset({"charges"})).fit(letter)
    record = Record(letter.origin, letter.timestamp_ms, b"k", VALUE, headers)
    plates_of(BOOK, letter, record)
    if obstacle(letter, {"charges": ""}, 3) is None:
        replay = letter.replay(release=True)
        assert read_replay(tuple(replayed_headers(headers, replay))) == replay


BOOK = rulebook.parse("version: 1\nsources: {charges: {extends: canonical}}\n")


# -- Where it starts --------------------------------------------------------------------------------


def seeds() -> Iterator[bytes]:
    for done in (
        [],
        [(1001, 1002)],
        [(1003, 1100), (1200, 1201)],
        [(n, n + 1) for n in range(1001, 1400, 2)],
    ):
        text = encode_map(CLUSTER, FRONTIER, list(done), clean=len(done) == 1)
        yield b"t" + text.encode()
        packed = base64.b64decode(text.removeprefix(_PREFIX) + "==")
        yield b"m" + packed[:1] + packed[9 + len(_uvarint(FRONTIER)) :]
    yield b"t" + encode_map("another", FRONTIER, [(1001, 1002)], clean=True).encode()
    yield b"t" + encode_map(CLUSTER, 5, [(7, 8)], clean=True).encode()
    yield b"tsomebody else's"
    for headers in _examples():
        yield json.dumps({name: None if text is None else text.decode() for name, text in headers}).encode()


def _examples() -> Iterator[list[Header]]:
    origin = Coordinates("charges", 3, 17)
    words = GatewayWords("1002", 200, "未入场", None, "86213123", None, None, None, "1563242533431")
    attempts = Attempts(2, NOW, NOW, 0.25, ambiguous=True)
    for wait in Wait:
        context = RetryContext(
            origin, 1_772_366_400_000, 0, wait, NOW, NOW, 1, 2, 3.5, attempts, "1002", words, "E1", "A1"
        )
        yield own_headers(retry_headers(context))
    yield replay_headers(Replay("fuzz/charges/3/17/0", 1, None, release=True))
    record = Record(origin, 1_772_366_400_000, b"k", VALUE, tuple(replay_headers(Replay("x", 2, 1))))
    ended = Resolution(
        record,
        0,
        Outcome.INVALID,
        NOW,
        reason=Reason.SCHEMA,
        detail="why",
        rule="all",
        account="main",
        words=words,
    )
    yield encode_dead_letter(ended, CLEAR, 1_000_000).headers
    yield receipt_headers(Receipt("fuzz/charges/3/17/0", 0, 5), to="charges", count=1, at=NOW)


ODD = (
    *(
        "nan",
        "inf",
        "-inf",
        "-1",
        "-7",
        "0",
        "1e300",
        "9" * 30,
        "9" * 5000,
        "1_0",
        "٣",
        " 3",
        "true",
        "false",
        "",
    ),
    *(
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2026-03-01T12:00:00",
        "2026-03-01",
        "x",
        *Wait,
    ),
)


@cache
def vocabulary() -> trees.Vocabulary:
    """The headers, by name."""
    examples = [tree for seed in seeds() if seed[:1] == b"{" and (tree := trees.from_json(seed.decode()))]
    return trees.Vocabulary.of(examples)


_TIMES = (*[1] * 300, *[100] * 100, 40_000)


def _a_long_map(random: Random) -> bytes:
    """A few bytes again and again take hardly any room."""
    flags = random.choice((_RUNS, _BITMAP)) | _DEFLATED | random.choice((0, _CLEAN))
    body = random.randbytes(random.randint(1, 3)) * random.choice(_TIMES)
    return b"m" + bytes([flags]) + zlib.compress(random.choice((b"", b"\x02")) + body, 9)


def changed(data: bytes, random: Random, mutate: Mutate) -> bytes | None:
    if data[:1] == b"m":
        return _a_long_map(random)
    if data[:1] != b"{":
        return None
    try:
        tree = trees.from_json(data.decode())
    except (ValueError, RecursionError):
        return None
    tree = trees.Mutator(vocabulary(), scribbling(mutate), ODD).changed(tree, random)
    return trees.written(tree).encode("utf-8", "surrogatepass") if isinstance(tree, dict) else None


TARGET = Target(check, seeds, changed, lambda: vocabulary().words)
