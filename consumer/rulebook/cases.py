"""A test that stands in a rules file -> what is not as it expects. Performs no I/O."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec

from consumer.core.coupons import CouponRequest
from consumer.core.events import Coordinates, Order, Record
from consumer.core.outcomes import Finding, Reason, with_plates_masked
from consumer.core.rules import RuleBook
from consumer.core.sources import Source
from consumer.core.templates import text_of
from consumer.rulebook.bundle import shown
from consumer.rulebook.model import CaseModel, ExpectModel


class Difference(NamedTuple):
    """Something that is not as a test expects it.

    Attributes:
        name: of what is looked at: `metadata`, `request.subject`, `outcome`.
        found, expected: as YAML has them.
        text: both, in a sentence.

    """

    name: str
    found: str
    expected: str
    text: str


def record_of(source: Source, case: CaseModel) -> Record:
    """The event of a test, as it would come."""
    value = case.raw.encode() if case.raw is not None else event_bytes(case.event)
    topic = case.topic or next(iter(source.topics), "events")
    return Record(Coordinates(topic, 0, 0), -1, None, value)


def differences_of(
    book: RuleBook, source: Source, case: CaseModel, *, reveal: bool = False
) -> Iterator[Difference]:
    """What is not as the test expects it; plates are masked."""
    now = datetime.fromisoformat(case.now) if case.now else None
    items = book.read_as(source, record_of(source, case), now)
    wanted = len(case.expect)
    if len(items) != wanted:
        yield _difference("orders", str(len(items)), str(wanted))
        return
    for item, expected in zip(items, case.expect, strict=True):
        # Whether a coupon is right does not depend on whether its account is on trial or on hold just now.
        of_the_state = expected.outcome == "shadow" or expected.reason == Reason.HOLD
        plan = book.plan(item, as_on=not of_the_state) if isinstance(item, Order) else item
        plate = str((item.values or {}).get("plate") or "")
        which = f"[{item.index}]" if wanted > 1 else ""
        for name, found, needed in _differences(expected, item, plan):
            texts = (
                (found, needed)
                if reveal
                else (
                    with_plates_masked(found, [plate]),
                    with_plates_masked(needed, [plate]),
                )
            )
            if texts[0] == texts[1]:
                texts = (f"{texts[0]} (another plate: see --reveal)", texts[1])
            yield _difference(f"{name}{which}", *texts)


def _difference(name: str, found: str, expected: str) -> Difference:
    is_ = {"outcome": found, "orders": f"orders: {found}"}.get(
        name.partition("[")[0], f"{name} is {found[:_LONGEST]}"
    )
    return Difference(name, found, expected, f"{is_}, where {expected[:_LONGEST]} is expected")


_LONGEST = 60


def event_bytes(event: object) -> bytes:
    """An event that was written as YAML -> JSON. None becomes the text `null`, which is no tombstone."""
    return msgspec.json.Encoder(decimal_format="number").encode(event)


def _differences(
    expected: ExpectModel, item: Order | Finding, plan: CouponRequest | Finding
) -> Iterator[tuple[str, str, str]]:
    """Name, found, expected."""
    if isinstance(plan, Finding):
        ended: str = plan.outcome
        what = f"{plan.outcome} ({plan.reason}: {plan.detail})"
    else:
        ended = "shadow" if plan.shadow else "request"
        what = f"a request by rule {plan.rule}"
    if ended != (expected.outcome or "request"):
        yield "outcome", what, expected.outcome or "a request"
        return
    for name, found, needed in _compared(expected, item, plan):
        if needed is not None and found != needed:
            yield name, _whole(found), _whole(needed)


def _whole(value: object) -> str:
    """As YAML has it."""
    if value is None:
        return "absent"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return value if isinstance(value, str) else shown(value)


def _compared(
    expected: ExpectModel, item: Order | Finding, plan: CouponRequest | Finding
) -> Iterator[tuple[str, object, object]]:
    """What a test can look at: its name, as it is, as it should be (None: whatever)."""
    yield "rule", plan.rule, expected.rule
    yield "reason", getattr(plan, "reason", None), expected.reason
    if expected.metadata is not None:
        values = plan.metadata if isinstance(plan, CouponRequest) else {}
        for key in dict.fromkeys([*expected.metadata, *values]):
            yield f"metadata.{key}", values.get(key), expected.metadata.get(key, "absent")
    yield "suspicions", list(getattr(item, "suspicions", ())), expected.suspicions
    sent = plan.parameters if isinstance(plan, CouponRequest) else {}
    for name, text in (expected.request or {}).items():
        yield f"request.{name}", sent.get(name), text
    for name, text in (expected.values or {}).items():
        yield f"values.{name}", text_of(item.values or {}, name), text
