"""Charging-completed events in plausible variety, each with what is to become of it. Performs no I/O.

They are in the canonical format, `charging-completed.v1`, and meant for `demo-rules.yaml`
and a sandbox gateway without failures by chance: then every outcome is known beforehand.
Where calls fail by chance, it is known which ends an order may come to.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import accumulate, chain, count
from typing import Any

from consumer.core.events import Headers
from consumer.sandbox.answers import PLATE_ENDINGS

STATIONS = ("SZ-0017", "SZ-0023", "GZ-0104", "CD-0311")
"""Stations that `demo-rules.yaml` knows."""

UNKNOWN_STATION = "HK-0900"

_CHINA = timezone(timedelta(hours=8))
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_CITIES = ("粤B", "粤A", "川A", "京A", "沪C", "浙A", "苏E", "鄂A")
_JSON = json.JSONEncoder(ensure_ascii=False)
_HEADERS: Headers = (("content-type", b"application/json"), ("schema", b"charging-completed.v1"))


@dataclass(frozen=True, slots=True)
class Expected:
    """What is to become of one order.

    Attributes:
        index: its place in the record.
        order_id: None where the record holds none.
        outcome: as in `consumer.core.outcomes.Outcome`.
        reason: where the outcome is one of ours.
        in_trouble: what else it may come to where calls fail by chance.

    """

    index: int
    order_id: str | None
    outcome: str
    reason: str | None = None
    in_trouble: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SampleEvent:
    """One record to produce.

    Attributes:
        kind: name of its group in the summary (`KINDS`).
        expected: one for each order; one for a record that holds none.

    """

    kind: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    expected: tuple[Expected, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A group of samples.

    Attributes:
        words: for the summary.
        share: weight when drawn.
        make: an event of this kind; may look at the one before of kind `good`.

    """

    words: str
    share: float
    make: Callable[["_Maker"], SampleEvent]


def sample_events(amount: int, *, now: datetime, seed: int = 1) -> Iterator[SampleEvent]:
    """As many records, the same for the same seed and now: first one of each kind, then by share.

    All charges ended within the hour before `now`, which is aware.
    """
    maker = _Maker(now, random.Random(seed))  # noqa: S311  # not for security
    names, shares = list(KINDS), list(accumulate(kind.share for kind in KINDS.values()))
    drawn = (maker.random.choices(names, cum_weights=shares)[0] for _ in count())
    for name, _ in zip(chain(names, drawn), range(amount), strict=False):
        sample = KINDS[name].make(maker)
        yield SampleEvent(name, sample.key, sample.value, sample.headers, sample.expected)


class _Maker:
    """Makes charges that look like charges."""

    def __init__(self, now: datetime, chance: random.Random) -> None:
        self.random = chance
        self.good: SampleEvent | None = None
        self._now = now.astimezone(_CHINA)
        self._numbers = count(1)

    def charge(self, **changed: object) -> dict[str, Any]:
        """An ordinary charge: over the threshold, of a car that has entered."""
        minutes = self.random.randint(12, 180)
        ended = self._now - timedelta(seconds=self.random.randint(5, 3000))
        energy = round(minutes / 60 * self.random.uniform(6.5, 60), 3)
        order = {
            "order_id": f"MA5DA{ended.strftime('%Y%m%d%H%M%S')}{next(self._numbers):08d}",
            "plate": self.plate(),
            "station_id": self.random.choice(STATIONS),
            "connector_id": str(self.random.randint(1, 24)),
            "started_at": (ended - timedelta(minutes=minutes)).isoformat(timespec="seconds"),
            "ended_at": ended.isoformat(timespec="seconds"),
            "energy_kwh": energy,
            "charging_seconds": minutes * 60,
            "total_fee_yuan": round(energy * self.random.uniform(0.9, 1.8), 2),
            "stop_reason": self.random.choice(("user", "full", "platform")),
        }
        return order | changed

    def plate(self, ending: str | None = None) -> str:
        """An ordinary or a new-energy plate; with an ending it asks for that answer, else it asks for none."""
        city = self.random.choice(_CITIES)
        letter = self.random.choice(_LETTERS)
        if ending is not None:
            return f"{city}{letter}{ending}"
        while True:
            digits = f"{self.random.randrange(10000):04d}"
            if digits not in PLATE_ENDINGS:
                return f"{city}{letter}{digits}" if self.random.random() < 0.4 else f"{city}D{letter}{digits}"

    def answered(self, ending: str, outcome: str, *on_the_way: str) -> SampleEvent:
        """A charge whose plate asks for answers: what the last one makes of it, and the earlier ones."""
        return self.of(self.charge(plate=self.plate(ending)), outcome, on_the_way=on_the_way)

    def of(
        self,
        order: Mapping[str, Any],
        outcome: str,
        reason: str | None = None,
        on_the_way: Iterable[str] = (),
    ) -> SampleEvent:
        """A record of one order, keyed by the plate so that a car's charges stay in order."""
        key = str(order.get("plate") or order["order_id"])
        expected = Expected(
            0, str(order["order_id"]), outcome, reason, _in_trouble(outcome, reason, on_the_way)
        )
        return _event(key, _json(order), expected)


def _in_trouble(outcome: str, reason: str | None, on_the_way: Iterable[str] = ()) -> frozenset[str]:
    """Calls that fail may be the last ones; a reply that is lost hides a grant. Our own verdicts stay."""
    if reason is not None:
        return frozenset()
    lost = {"already_granted"} if outcome == "granted" else set()
    return frozenset({"platform_failed", *lost, *on_the_way})


def _event(key: str, value: bytes | None, *expected: Expected) -> SampleEvent:
    return SampleEvent("", key.encode(), value, _HEADERS, expected)


def _json(value: object) -> bytes:
    return _JSON.encode(value).encode()


# -- One function a kind that is more than a plate ------------------------------------------------------


def _good(maker: _Maker) -> SampleEvent:
    maker.good = maker.of(maker.charge(), "granted")
    return maker.good


def _repeated(maker: _Maker) -> SampleEvent:
    """Senders push an order again until they are sure that it arrived."""
    assert maker.good is not None  # the first kind of all
    again = replace(
        maker.good.expected[0],
        outcome="already_granted",
        in_trouble=frozenset({"granted", "platform_failed"}),
    )
    return replace(maker.good, expected=(again,))


def _two_orders(maker: _Maker) -> SampleEvent:
    orders = [maker.charge(), maker.charge(plate="")]
    outcomes: tuple[tuple[str, str | None], ...] = (("granted", None), ("skipped", "plate_missing"))
    return _event(
        orders[0]["plate"],
        _json({"orders": orders}),
        *(
            Expected(index, order["order_id"], *outcome, _in_trouble(*outcome))
            for index, (order, outcome) in enumerate(zip(orders, outcomes, strict=True))
        ),
    )


def _short(maker: _Maker) -> SampleEvent:
    charge = maker.charge(energy_kwh=0.31, total_fee_yuan=0.45, charging_seconds=95)
    ended = datetime.fromisoformat(charge["ended_at"])
    charge["started_at"] = (ended - timedelta(seconds=95)).isoformat(timespec="seconds")
    return maker.of(charge, "skipped", "below_threshold")


def _no_plate(maker: _Maker) -> SampleEvent:
    charge = maker.charge()
    del charge["plate"]
    return maker.of(charge, "skipped", "plate_missing")


def _broken_off(maker: _Maker) -> SampleEvent:
    return maker.of(maker.charge(stop_reason="fault"), "skipped", "stop_reason")


def _elsewhere(maker: _Maker) -> SampleEvent:
    return maker.of(maker.charge(station_id=UNKNOWN_STATION), "unmatched", "no_rule")


def _not_json(maker: _Maker) -> SampleEvent:
    charge = maker.charge()
    return _event(charge["plate"], _json(charge)[:-20], Expected(0, None, "invalid", "not_json"))


def _tombstone(maker: _Maker) -> SampleEvent:
    return _event(maker.charge()["order_id"], None, Expected(0, None, "skipped", "tombstone"))


KINDS: Mapping[str, _Kind] = {
    "good": _Kind("ordinary charges", 60, _good),
    "repeated": _Kind("orders pushed again", 5, _repeated),
    "two_orders": _Kind("two orders in one record", 4, _two_orders),
    "short": _Kind("charges below the threshold", 6, _short),
    "no_plate": _Kind("charges without a plate", 4, _no_plate),
    "broken_off": _Kind("charges ended by a fault", 2, _broken_off),
    "elsewhere": _Kind("stations without a rule", 2, _elsewhere),
    "not_json": _Kind("records that are cut off", 2, _not_json),
    "tombstone": _Kind("tombstones", 1, _tombstone),
    "trouble": _Kind("platform in trouble once", 4, lambda maker: maker.answered("8503", "granted")),
    "lot_trouble": _Kind(
        "lot in trouble once", 2, lambda maker: maker.answered("8405", "granted", "lot_failed")
    ),
    "late_entry": _Kind(
        "entry uploaded late", 2, lambda maker: maker.answered("8002", "granted", "not_entered")
    ),
    "lost_reply": _Kind(
        "replies lost after the grant", 2, lambda maker: maker.answered("8403", "already_granted")
    ),
    "not_entered": _Kind(
        "cars that have not entered", 3, lambda maker: maker.answered("1002", "not_entered")
    ),
    "limited": _Kind("cars over their limit", 3, lambda maker: maker.answered("1003", "limited")),
    "not_configured": _Kind(
        "lots without a coupon", 1, lambda maker: maker.answered("1401", "not_configured")
    ),
    "lot_failed": _Kind("lots that fail", 1, lambda maker: maker.answered("1405", "lot_failed")),
    "platform_failed": _Kind(
        "platform that fails", 1, lambda maker: maker.answered("0503", "platform_failed")
    ),
    "rejected": _Kind("requests rejected", 1, lambda maker: maker.answered("0400", "rejected")),
    "unknown": _Kind("replies of an unknown code", 1, lambda maker: maker.answered("1999", "unknown")),
}
"""Every kind by name; the first is what the others may refer to."""
