"""The payloads of tests/cases: their bytes, and what is not read of them as it is right."""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from consumer.core.events import Value

CASES = Path(__file__).parent / "cases"
PAYLOADS: dict[str, dict[str, Any]] = {
    case["id"]: case for case in map(json.loads, (CASES / "payloads.jsonl").read_text("utf-8").splitlines())
}


def bytes_of(case: Mapping[str, Any]) -> bytes | None:
    """None for a tombstone."""
    payload = case["payload"]
    if case.get("encoding") == "base64":
        return base64.b64decode(payload)
    return None if payload is None else payload.encode()


def differences(
    values: Mapping[str, Value],
    right: Mapping[str, Any],
    reverses: str | None = None,
    within: timedelta = timedelta(0),
) -> Iterator[str]:
    """Fields that are not read as it is right; times may be off by `within`."""
    for field, key in (("started_at", "start"), ("ended_at", "end")):
        if right.get(key):
            moment = values.get(field)
            apart = moment - datetime.fromisoformat(right[key]) if isinstance(moment, datetime) else None
            if apart is None or abs(apart) > within:
                yield f"{field} is {moment}"
    for field, wanted in _wanted(right):
        if values.get(field) != wanted:
            yield f"{field} is {values.get(field)}"
    if right.get("duration_s") and not within and values.get("seconds") != int(right["duration_s"]):
        yield f"seconds is {values.get('seconds')}"
    if right.get("order_id"):
        words = right["order_id"].split(" ")
        found = reverses or values.get("order_id")
        if found != words[1 if words[0] == "reverses" else 0]:
            yield f"order_id is {found}"


def _wanted(right: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    if right.get("plate"):
        yield "plate", right["plate"].split(" ")[0]
    if right.get("energy_kwh"):
        exact = Decimal(right["energy_kwh"].split(" ")[0]) * 1000
        yield "energy_wh", int(exact.to_integral_value())
    if right.get("station") and right["station"].split(" ")[0] != "by":
        yield "station_id", right["station"].split(" ")[0]
