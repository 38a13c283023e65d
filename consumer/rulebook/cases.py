"""A test that stands in a rules file -> what is not as it expects. Performs no I/O."""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from consumer.core import plates
from consumer.core.coupons import CouponRequest
from consumer.core.events import Coordinates, Order, Record
from consumer.core.outcomes import Finding
from consumer.core.rules import RuleBook
from consumer.core.sources import Source
from consumer.core.templates import text_of
from consumer.rulebook.bundle import shown
from consumer.rulebook.model import CaseModel, ExpectModel


def differences_of(book: RuleBook, source: Source, case: CaseModel) -> Iterator[str]:
    """What is not as the test expects it."""
    now = datetime.fromisoformat(case.now) if case.now else None
    value = case.raw.encode() if case.raw is not None else event_bytes(case.event)
    topic = case.topic or next(iter(source.topics), "events")
    record = Record(Coordinates(topic, 0, 0), -1, None, value)
    items = book.read_as(source, record, now)
    if len(items) != len(case.expect):
        yield f"orders: {len(items)}, where {len(case.expect)} is expected"
        return
    for item, expected in zip(items, case.expect, strict=True):
        plan = book.plan(item) if isinstance(item, Order) else item
        known = item.values or {}
        plate = str(known.get("plate") or "")
        for wrong in _differences(expected, item, plan):
            yield wrong.replace(plate, plates.mask(plate)) if plate else wrong


def event_bytes(event: object) -> bytes:
    """An event that was written as YAML, as JSON; None is a tombstone's neighbour: the text null."""
    return msgspec.json.Encoder(decimal_format="number").encode(event)


def _differences(
    expected: ExpectModel, item: Order | Finding, plan: CouponRequest | Finding
) -> Iterator[str]:
    if isinstance(plan, Finding):
        ended: str = plan.outcome
        what = f"{plan.outcome} ({plan.reason}: {plan.detail})"
    else:
        ended = "shadow" if plan.shadow else "request"
        what = f"a request by rule {plan.rule}"
    if ended != (expected.outcome or "request"):
        yield f"{what}, where {expected.outcome or 'a request'} is expected"
        return
    for name, actual, wanted in _compared(expected, item, plan):
        if wanted is not None and actual != wanted:
            yield f"{name} is {shown(actual)}, where {shown(wanted)} is expected"


def _compared(
    expected: ExpectModel, item: Order | Finding, plan: CouponRequest | Finding
) -> Iterator[tuple[str, object, object]]:
    """What a test can look at: its name, as it is, as it should be (None: whatever)."""
    yield "rule", plan.rule, expected.rule
    yield "reason", getattr(plan, "reason", None), expected.reason
    yield "metadata", getattr(plan, "metadata", None), expected.metadata
    yield "suspicions", list(getattr(item, "suspicions", ())), expected.suspicions
    sent = plan.parameters if isinstance(plan, CouponRequest) else {}
    for name, text in (expected.request or {}).items():
        yield f"request.{name}", sent.get(name), text
    for name, text in (expected.values or {}).items():
        yield f"values.{name}", text_of(item.values or {}, name), text
