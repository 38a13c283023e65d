"""An explanation -> text for people, JSON for machines; plates masked, the secret never shown. Performs no I/O."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlencode

from consumer.core.coupons import CouponRequest
from consumer.core.events import Value
from consumer.core.outcomes import Finding, Reason, inert, with_plates_masked
from consumer.core.signing import sign, signature_base
from consumer.rulebook.cases import event_bytes
from consumer.rulebook.explanation import Explanation, FieldReading, OrderReading, RuleReading

SECRET = "***"  # noqa: S105  # what is shown in its place
LONGEST = 100
MAX_UNFIT = 10
"""Rules whose keys do not fit that are named one by one."""

Mask = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Sender:
    """What the settings know of where requests go; without them that is left open.

    Attributes:
        url: where those accounts post that name no URL of their own.
        secret: of an account's secret by its name; None where it is not known.
        retries: there are retry topics, where an order of an account or a rule on hold waits.

    """

    url: str = "(gateway.url of the settings)"
    secret: Callable[[str], str | None] = lambda _: None
    retries: bool = True


def mask_of(explanation: Explanation, *, reveal: bool) -> Mask:
    """Takes the whole plates of this record out of texts."""
    if reveal:
        return lambda text: text
    found: set[str] = set()
    for order in explanation.orders:
        for field in order.fields:
            if field.name == "plate":
                found |= {str(text).strip() for text in (field.value, field.raw) if text is not None}
    found.discard("")
    longest_first = sorted(found, key=len, reverse=True)
    return lambda text: with_plates_masked(text, longest_first)


# -- For people ---------------------------------------------------------------------------------------


def in_text(
    explanation: Explanation, place: str, accounts: Mapping[str, str], sender: Sender, mask: Mask
) -> Iterator[str]:
    """`place` is where the event was found, `accounts` tells the name of each account's secret."""
    source = explanation.source
    yield f"Event     {inert(mask(_event(explanation, place)))}"
    yield f"Source    {source.name if source else 'none reads this topic'}"
    for number, step in enumerate(explanation.envelope):
        yield f"{'Envelope' if number == 0 else '':<8}  {inert(mask(step))}"
    for order in explanation.orders:
        yield ""
        yield f"Order {order.index}"
        for line in _order(order, accounts, sender, mask):
            yield inert(mask(line)).rstrip()


def _event(explanation: Explanation, place: str) -> str:
    record = explanation.record
    size = "no value" if record.value is None else f"{len(record.value)} bytes"
    text = f"{place}, {size}"
    if record.origin != record.coordinates:
        text += f", of {record.origin.topic}-{record.origin.partition}@{record.origin.offset}"
    if record.key:
        text += f", key {record.key[:60].decode('utf-8', 'replace')}"
    if record.retry is not None:
        text += f", waits for {record.retry.wait} since {record.retry.written_at:%Y-%m-%d %H:%M:%S}Z"
    return text


def _order(order: OrderReading, accounts: Mapping[str, str], sender: Sender, mask: Mask) -> Iterator[str]:
    for gate in order.gates:
        value = "absent" if gate.value is None else f"`{gate.value[:40]}`"
        yield f"  gate     {gate.path} is {value}: {gate.said or 'may pass'}"
    if order.fields:
        yield "  fields"
        rows = [(field.name, _shown(field.value), _origin(field)) for field in order.fields]
        width = max(len(name) for name, _, _ in rows)
        wide = min(30, max(len(value) for _, value, _ in rows))
        for name, value, origin in rows:
            yield f"    {name:<{width}}  {value:<{wide}}  {origin}"
        yield from _plausible(order)
    if order.rules:
        yield "  rules"
        yield from _rules(order)
    yield from _plan(order.plan, accounts, sender, mask)


def _origin(field: FieldReading) -> str:
    if field.path is None:
        return field.how
    raw = event_bytes(field.raw).decode()
    text = f"{field.path}: {raw if len(raw) <= LONGEST else f'{raw[:LONGEST]}...'}"
    return f"{text}, {field.how}" if field.how else text


def _plausible(order: OrderReading) -> Iterator[str]:
    for doubt in order.doubts:
        yield f"  doubt    {doubt.reason}: {doubt.detail}; {'set aside' if doubt.set_aside else 'only marked'}"
    if not order.doubts and "plate" in {field.name for field in order.fields if field.value is not None}:
        yield "  doubt    none"
    if order.deadline is not None:
        over = (
            ", which is over: read now, it would end as `expired`, without a request" if order.is_over else ""
        )
        yield f"  deadline {order.deadline.isoformat(' ', 'seconds')}{over}"


def _rules(order: OrderReading) -> Iterator[str]:
    unfit = 0
    for rule in order.rules:
        unfit += bool(rule.keys)
        if rule.keys and unfit > MAX_UNFIT:
            continue
        yield from _rule(rule)
    if unfit > MAX_UNFIT:
        yield f"    no       {unfit - MAX_UNFIT} more rules are for other sources, stations or fields"
    if order.rules_left:
        yield f"    -        {order.rules_left} more, not asked"


def _rule(rule: RuleReading) -> Iterator[str]:
    verdict = {True: "MATCHES", False: "no", None: "FAILS"}[rule.matched]
    if rule.keys:
        yield f"    {verdict:<8} {rule.name}: {'; '.join(rule.keys)}"
        return
    if rule.when is None:
        yield f"    {verdict:<8} {rule.name}: it has no `when`"
        return
    values = ", ".join(f"{name} is {value}" for name, value in rule.values)
    if len(rule.conditions) == 1:
        ((text, result),) = rule.conditions
        yield f"    {verdict:<8} {rule.name}: {text} is {result}" + (f" ({values})" if values else "")
        return
    yield f"    {verdict:<8} {rule.name}:" + (f" {values}" if values else "")
    for text, result in rule.conditions:
        yield f"               {result:<6} {text}"


def _plan(
    plan: CouponRequest | Finding, accounts: Mapping[str, str], sender: Sender, mask: Mask
) -> Iterator[str]:
    if isinstance(plan, Finding) and _waits(plan, sender):
        by = f", by rule {plan.rule}" if plan.rule else ""
        yield f"  outcome  waits{by}: {plan.detail} (in the retry topics, and asked for once it is released)"
        return
    if isinstance(plan, Finding):
        rule = f" by rule {plan.rule}" if plan.rule else ""
        detail = "" if plan.detail == f"rule {plan.rule}" else f": {plan.detail}"
        yield f"  outcome  {plan.outcome} ({plan.reason}){rule}{detail}"
        if plan.reverses:
            yield f"  reverses {plan.reverses}"
        if plan.dead_letter:
            yield "           with a dead letter"
        return
    state = "shadow: all but this request" if plan.shadow else "a request"
    yield f"  outcome  {state}, by rule {plan.rule}, account {plan.account}"
    yield f"  POST     {plan.url or sender.url}"
    yield from sending_of(plan, accounts, sender, mask).lines()


def _waits(finding: Finding, sender: Sender) -> bool:
    """It comes again by a retry topic, as `delivery` has it: it has no outcome, and no dead letter, until then."""
    return finding.reason is Reason.HOLD and sender.retries


@dataclass(frozen=True, slots=True)
class Sending:
    """A request as it would be sent.

    Attributes:
        form: its fields in order, `sign` among them.
        base: the text that is signed, the secret masked.

    """

    form: Mapping[str, str]
    base: str
    body: str

    def lines(self) -> Iterator[str]:
        """For people."""
        width = max(len(name) for name in self.form)
        for name, value in self.form.items():
            yield f"    {name:<{width}}  {value}"
        yield "  signed text"
        yield f"    {self.base}"
        yield "  body"
        yield f"    {self.body}"


def sending_of(plan: CouponRequest, accounts: Mapping[str, str], sender: Sender, mask: Mask) -> Sending:
    """As it would be sent now. The signature is that of the real values, whatever is masked."""
    sent = plan.sent(datetime.now(UTC))
    shown = {name: mask(value) for name, value in sent.items()}
    name = accounts[plan.account]
    secret = sender.secret(name)
    signature = sign(sent, secret) if secret is not None else f"(needs the secret `{name}`)"
    form = {**shown, "sign": signature}
    body = urlencode(form if secret is not None else shown)
    return Sending(form, signature_base(shown, SECRET), body if secret is not None else f"{body}&sign=...")


# -- For machines -------------------------------------------------------------------------------------


def in_json(
    explanation: Explanation,
    place: str,
    accounts: Mapping[str, str],
    sender: Sender,
    mask: Mask,
    *,
    indent: int | None = 2,
) -> str:
    """All of it; numbers as numbers, times with their offset. Without `indent` on one line."""
    record = explanation.record
    found = {
        "event": place,
        "topic": record.coordinates.topic,
        "partition": record.coordinates.partition,
        "offset": record.coordinates.offset,
        "source": explanation.source.name if explanation.source else None,
        "envelope": list(explanation.envelope),
        "orders": [_order_json(order, accounts, sender, mask) for order in explanation.orders],
    }
    return json.dumps(_masked(found, mask), ensure_ascii=False, indent=indent)


def _order_json(
    order: OrderReading, accounts: Mapping[str, str], sender: Sender, mask: Mask
) -> dict[str, object]:
    plan = order.plan
    found: dict[str, object] = {
        "index": order.index,
        "gates": [{"path": gate.path, "value": gate.value, "said": gate.said} for gate in order.gates],
        "fields": {
            field.name: {
                "value": _plain(field.value),
                "path": field.path,
                "raw": json.loads(json.dumps(field.raw, default=_plain)),
                "how": field.how or None,
            }
            for field in order.fields
        },
        "doubts": [
            {"reason": doubt.reason, "detail": doubt.detail, "set_aside": doubt.set_aside}
            for doubt in order.doubts
        ],
        "deadline": None if order.deadline is None else order.deadline.isoformat(),
        "deadline_is_over": order.is_over,
        "rules": [
            {
                "name": rule.name,
                "matched": rule.matched,
                "keys": list(rule.keys),
                "when": rule.when,
                "conditions": [{"when": text, "is": result} for text, result in rule.conditions],
                "values": dict(rule.values),
            }
            for rule in order.rules
        ],
        "rules_left": order.rules_left,
    }
    if isinstance(plan, Finding):
        return {
            **found,
            "outcome": plan.outcome,
            "reason": plan.reason,
            "detail": plan.detail,
            "rule": plan.rule,
            "reverses": plan.reverses,
            "dead_letter": plan.dead_letter and not _waits(plan, sender),
            "request": None,
        }
    sending = sending_of(plan, accounts, sender, mask)
    request = {
        "url": plan.url or sender.url,
        "account": plan.account,
        "form": dict(sending.form),
        "metadata": dict(plan.metadata),
        "signed_text": sending.base,
        "body": sending.body,
    }
    outcome = "shadow" if plan.shadow else None
    return {**found, "outcome": outcome, "rule": plan.rule, "request": request}


def _masked(found: object, mask: Mask) -> object:
    if isinstance(found, dict):
        return {name: _masked(value, mask) for name, value in found.items()}
    if isinstance(found, Sequence) and not isinstance(found, str):
        return [_masked(value, mask) for value in found]
    return mask(found) if isinstance(found, str) else found


def _plain(value: object) -> object:
    """As JSON has it: decimals as text, since a reader may take numbers for doubles."""
    if isinstance(value, datetime):
        return value.isoformat()
    return f"{value:f}" if isinstance(value, Decimal) else value


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return (
        {True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool)
        else str(_plain(value))
    )
