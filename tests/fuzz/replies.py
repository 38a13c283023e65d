"""A reply's status, Retry-After and body -> a row of the table, what follows, what is written. Reads the tests' samples.

An input is three lines: the status, the header, and the body with all that is left.
"""

import json
import math
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import orjson

from consumer.core.events import Coordinates, Record, Wait
from consumer.core.headers import read_retry
from consumer.core.outcomes import Later, Resolution, encode_outcome, encode_retry, reduced
from consumer.core.replies import Answered, Reply, ReplyTable, Then, redact
from consumer.core.retries import Again, Done, RetryPolicy, Stopped, next_step
from tests.fuzz import trees
from tests.fuzz.records import CLEAR, NOW, SECRET
from tests.fuzz.target import Mutate, Target, scribbling

SAMPLES = Path(__file__).parents[1] / "samples" / "replies"
TABLE = ReplyTable.defaults()
POLICIES = (RetryPolicy(), RetryPolicy(delays=(60.0, 300.0, 1800.0)))
PLATE = "粤BD12345"
RECORD = Record(Coordinates("charges", 0, 7), 1_772_366_400_000, b"k", b"{}")


# -- What must hold ---------------------------------------------------------------------------------


def check(data: bytes) -> None:
    status, header, body = _given(data)
    reply = TABLE.classify(Answered(status, body, header), NOW)
    assert reply.label in TABLE.rows
    assert reply.words.http_status == status
    assert reply.retry_after is None or reply.retry_after >= 0
    for name in ("code", "seqno", "data_node", "grant_serial", "enter_time", "message", "hint"):
        word = getattr(reply.words, name)
        assert word is None or 0 < len(word) <= 300, name
    # A redacted text that is redacted again has nothing left to hide.
    for word in (reply.words.message, reply.words.hint):
        assert PLATE not in (word or "")
        assert word is None or redact(word) == word
    ambiguous_only_without_a_word(reply)
    for calls, policy in enumerate(POLICIES * 2, 1):
        follows(reply, calls, policy)


def _given(data: bytes) -> tuple[int, str | None, bytes]:
    status, _, rest = data.partition(b"\n")
    header, _, body = rest.partition(b"\n")
    number = int(status) if status.isdigit() and len(status) == 3 else 100 + sum(status) % 500
    return number, header.decode("latin-1") or None, body


def ambiguous_only_without_a_word(reply: Reply) -> None:
    assert not (reply.ambiguous and reply.words.code)


def follows(reply: Reply, calls: int, policy: RetryPolicy) -> None:
    """A wait that ends, and records that can be written and read."""
    deadline = NOW + timedelta(hours=24)
    step = next_step(reply, calls, policy, 0.5, now=NOW, deadline=deadline)
    later = step if isinstance(step, Later) else None
    match step:
        case Again(after):
            assert 0 <= after <= policy.retry_after_cap_seconds
        case Later():
            assert NOW < step.due_at <= deadline
        case Stopped():
            assert reply.then is Then.STOP
            later = policy.later(Wait.STOP, NOW) if policy.delays else None
        case Done():
            pass
    values = {"order_id": "A1", "event_id": "A1", "plate": PLATE}
    resolution = Resolution(
        RECORD, 0, reply.outcome, NOW, values=values, words=reply.words, label=reply.label, later=later
    )
    for context in (CLEAR, SECRET):
        message = encode_outcome(resolution, context)
        body: dict[str, Any] = orjson.loads(message.value or b"")
        orjson.loads(reduced(message).value or b"")
        if context is CLEAR:
            assert body["code"] == reply.words.code
        else:
            assert PLATE.encode() not in (message.value or b"")
    if later is not None:
        context_read = read_retry(tuple(encode_retry(resolution, later, CLEAR).headers))
        assert not isinstance(context_read, str)
        assert context_read.words.code == reply.words.code
        assert context_read.due_at == later.due_at
        assert not math.isnan(context_read.excused_seconds)


# -- Where it starts --------------------------------------------------------------------------------


def seeds() -> Iterator[bytes]:
    for file in sorted(SAMPLES.glob("*.json")):
        sample = json.loads(file.read_text("utf-8"))
        yield _sample(sample)
    for header in ("7", "1.5", "Wed, 25 Nov 2026 12:00:30 GMT", "-1"):
        yield f"503\n{header}\n{{}}".encode()
    hint = f"app_id=a&plate={PLATE}&app_secret=0123456789abcdef&sign=0123456789ABCDEF0123456789ABCDEF"
    yield f'200\n\n{{"code":"200","message":"车辆{PLATE}签名验证不通过","hint":"{hint}","payload":{{"seqno":1}}}}'.encode()


def _sample(sample: dict[str, Any]) -> bytes:
    body = sample["text"] if "text" in sample else json.dumps(sample["json"], ensure_ascii=False)
    header = sample.get("headers", {}).get("Retry-After", "")
    return f"{sample['status']}\n{header}\n{body}".encode()


@cache
def vocabulary() -> trees.Vocabulary:
    """The rows' names, and what stands in the samples."""
    examples = [tree for seed in seeds() if (tree := _tree(seed)) is not None]
    spelled = [
        "plate=",
        "app_secret=",
        "sign=",
        "粤B·D12345",
        "粤 b d 1 2 3 4 5",
        "%E7%B2%A4BD12345",
        *trees.TEXTS,
    ]
    return trees.Vocabulary.of(examples, [*TABLE.rows, *spelled])


def _tree(data: bytes) -> trees.Tree:
    try:
        return trees.from_json(data.split(b"\n", 2)[-1].decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def changed(data: bytes, random: Random, mutate: Mutate) -> bytes | None:
    head = data.split(b"\n", 2)[:2]
    tree = _tree(data)
    if tree is None or len(head) < 2:
        return None
    tree = trees.Mutator(vocabulary(), scribbling(mutate)).changed(tree, random)
    try:
        return b"\n".join([*head, trees.written(tree).encode("utf-8", "surrogatepass")])
    except RecursionError:
        return None


TARGET = Target(check, seeds, changed, lambda: vocabulary().words)
