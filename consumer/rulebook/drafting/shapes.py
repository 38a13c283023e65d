"""Sample messages -> where in them the orders stand: wrappings, lists, JSON in text, presets. Performs no I/O."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from consumer.core.fields import KNOWN_FIELDS
from consumer.core.formats import decode
from consumer.rulebook.cases import event_bytes
from consumer.rulebook.drafting.guessing import Guess, Guesses, Leaf, guesses_of, is_by_number, path_of

JSON, BASE64, FORM, EACH = "\0json", "\0base64", "\0form", "\0each"
"""Steps into a text that holds JSON or a form, and into each item of a list; no key of a message is that."""

EVERY = "*"
"""A step to what stands in an object under the numbers of orders, as paths write it."""

Way = tuple[str, ...]
"""Keys, and steps into texts and lists, that lead to the orders."""

_DEEPEST = 5
_MOST_PLACES = 60
_MOST_TEXTS = 3
_LONGEST_TEXT = 1_000_000
_IN_TEXT = {JSON: "unwrap", BASE64: "base64", FORM: "form"}
"""The steps into texts, as an envelope calls them."""

_FORM = re.compile(r"\w[\w.-]*=[^&\s]*(?:&\w[\w.-]*=[^&\s]*){2,}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")


@dataclass(frozen=True)
class Shape:
    """How orders are got at.

    Attributes:
        extends: presets.
        envelope: steps of a source's envelope.
        orders: where they stand in what is left; None where `extends` knows, or it is the event itself.
        guesses: what the fields of the orders are.

    """

    extends: tuple[str, ...] = ()
    envelope: tuple[object, ...] = ()
    orders: str | None = None
    guesses: Guesses = field(default_factory=Guesses)

    @property
    def preset(self) -> str | None:
        """The preset that says what the fields are."""
        return next((name for name in self.extends if name in _PRESETS), None)


def inside(text: str) -> tuple[str, object] | None:
    """What kind of object or list a text holds, and what; None where it is but text."""
    if len(text) > _LONGEST_TEXT:
        return None
    plain = text.strip().removeprefix("\ufeff")
    if plain[:1] in ("{", "["):
        found = decode(plain)
        return (JSON, found) if isinstance(found, dict | list) else None
    if _BASE64.fullmatch(plain):
        try:
            raw = b64decode(plain, validate=True)
        except (binascii.Error, ValueError):
            return None
        found = decode(raw) if raw.lstrip()[:1] in (b"{", b"[") else None
        return (BASE64, found) if isinstance(found, dict | list) else None
    fields = _fields_of(plain) if _FORM.fullmatch(plain) else None
    return None if fields is None else (FORM, fields)


def _fields_of(form: str) -> dict[str, str] | None:
    try:
        return dict(parse_qsl(form, keep_blank_values=True, errors="strict"))
    except ValueError:
        return None


def around(kind: str, body: object) -> str:
    """The text that holds this: what `inside` took it from."""
    if kind == FORM and isinstance(body, dict):
        return urlencode(body, safe="/: ")
    written = event_bytes(body)
    return b64encode(written).decode() if kind == BASE64 else written.decode()


# -- Wrappings that are known -----------------------------------------------------------------------


ENVELOPES = frozenset({"cloudevents", "connect"})
"""Of these, those that are but a step of an envelope."""


def wrapper_of(body: object) -> str | None:
    """The preset that takes off what is around another's event."""
    if not isinstance(body, dict):
        return None
    payload = body.get("payload")
    if "schema" in body and "payload" in body:
        return wrapper_of(payload) or "connect"
    if "specversion" in body and ("data" in body or "data_base64" in body):
        return "cloudevents"
    if "op" in body and ("after" in body or "before" in body):
        return "debezium"
    if "data" in body and "type" in body and ("isDdl" in body or {"database", "table"} <= body.keys()):
        return "canal" if isinstance(body["data"], list | None) else None
    return None


def _has(*names: str) -> Callable[[Mapping[str, object]], bool]:
    return lambda row: all(name in row for name in names)


def _is_cec(row: Mapping[str, object]) -> bool:
    return any(name in row for name in ("StartChargeSeq", "startChargeSeq", "outStartChargeSeq")) and (
        "EndTime" in row or "endTime" in row
    )


def _is_old_cdr(row: Mapping[str, object]) -> bool:
    return "start_date_time" in row and any(
        name in row for name in ("stop_date_time", "location", "auth_id", "total_usage")
    )


def _is_taxed_cdr(row: Mapping[str, object]) -> bool:
    cost = row.get("total_cost")
    return _has("start_date_time", "cdr_location")(row) and isinstance(cost, dict) and "before_taxes" in cost


_PRESETS: Mapping[str, tuple[Callable[[Mapping[str, object]], bool], tuple[str, ...]]] = {
    "canonical": (_has("order_id", "ended_at", "energy_kwh"), ("orders",)),
    "cec": (_is_cec, ("Data", "data")),
    "fourpyun": (_has("order", "station_uuid", "quantity"), ()),
    "ocpi-session": (_has("start_date_time", "kwh", "status"), ("data",)),
    "ocpi-2.3.0": (_is_taxed_cdr, ("data",)),
    "ocpi-2.2.1": (_has("start_date_time", "cdr_location"), ("data",)),
    "ocpi-2.1.1": (_is_old_cdr, ("data",)),
    "oicp": (_has("SessionID", "EvseID"), ("ChargeDetailRecord",)),
    "ocpp16-stop": (_has("transactionId", "meterStop"), ("payload",)),
    "ocpp201-ended": (_has("eventType", "transactionInfo"), ("payload",)),
}
"""What shows that a row is one of a preset's, and where such a preset looks for rows itself."""


def preset_of(rows: Sequence[object]) -> str | None:
    """The first preset whose marks all these rows bear."""
    for name, (bears, _) in _PRESETS.items():
        if rows and all(isinstance(row, dict) and bears(row) for row in rows):
            return name
    return None


# -- Places that orders may stand in ----------------------------------------------------------------


class _Row(NamedTuple):
    """What may be an order, the event around it, which message that came in, and the item of a list it is in."""

    row: object
    event: object
    message: object
    number: int
    above: object = None


def shape_of(
    bodies: Sequence[object], envelope: tuple[object, ...] = (), messages: Sequence[object] = ()
) -> Shape:
    """Where the orders of these bodies stand, once this envelope is off the messages, and what their fields are."""
    places: dict[Way, list[_Row]] = {(): []}
    for number, (body, message) in enumerate(zip(bodies, messages or bodies, strict=True)):
        _look(_Row(body, body, message, number), (), places)
    for way in sorted(places, key=len):
        rows = [place.row for place in places[way]]
        preset = preset_of(rows)
        if preset is not None and len({place.number for place in places[way]}) == len(bodies):
            return _shape(way, places[way], envelope, preset)
    best: Way = ()
    most = -1.0
    for way in sorted(places, key=len):
        rows = [place.row for place in places[way]]
        share = len({place.number for place in places[way]}) / len(bodies)
        if EACH in way:  # its fields are these and those of the list's item
            rows = [_with_above(place) for place in places[way]]
        score = guesses_of(rows).score * share
        # Deeper by itself is no worse: paths are shorter there, and what is missing is looked for around it.
        nearer = _AS_GOOD if way[: len(best)] == best else -_AS_GOOD
        if score > most - nearer:
            best, most = way, max(score, most)
    return _shape(best, places[best], envelope)


_AS_GOOD = 0.15


def _look(here: _Row, way: Way, places: dict[Way, list[_Row]]) -> None:
    value = here.row
    if isinstance(value, str):
        found = inside(value)
        if found is not None and sum(step in _IN_TEXT for step in way) < _MOST_TEXTS:
            kind, inner = found
            _look(here._replace(row=inner, event=inner), (*way, kind), places)
        return
    if way not in places and len(places) >= _MOST_PLACES:
        return
    if isinstance(value, dict):
        places.setdefault(way, []).append(here)
        if EACH not in way and is_by_number(value):
            rows = [here._replace(row=row, above={"key": key}) for key, row in value.items()]
            places.setdefault((*way, EVERY), []).extend(rows)
            return
        for key, inner in value.items() if len(way) < _DEEPEST else ():
            if path_of((str(key),)) is not None:
                _look(here._replace(row=inner), (*way, str(key)), places)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        rows = [here._replace(row=item) for item in value if isinstance(item, dict)]
        places.setdefault(way, []).extend(rows)
        for row in rows if EACH not in way else ():
            _look_into(row._replace(above=row.row), (*way, EACH), places)


def _with_above(place: _Row) -> object:
    assert isinstance(place.above, dict)
    assert isinstance(place.row, dict)
    beside = {key: value for key, value in place.above.items() if not isinstance(value, list)}
    return {**beside, **place.row}


def _look_into(here: _Row, way: Way, places: dict[Way, list[_Row]]) -> None:
    """Lists in an item of a list, which may be those of the orders."""
    assert isinstance(here.row, dict)
    for key, inner in here.row.items():
        if isinstance(inner, list) and len(way) < _DEEPEST and path_of((str(key),)) is not None:
            _look(here._replace(row=inner), (*way, str(key)), places)


def _shape(way: Way, rows: Sequence[_Row], envelope: tuple[object, ...], preset: str | None = None) -> Shape:
    steps = list(envelope)
    keys: list[str] = []
    for step in way:
        if step in _IN_TEXT:
            steps.append({_IN_TEXT[step]: path_of(tuple(keys)) or "$"})
            keys = []
        else:
            keys.append(step)
    parts = [path_of(tuple(part)) or "" for part in _split(keys)]
    orders = "[*].".join(parts) or None
    if preset is not None:
        orders = None if orders in _PRESETS[preset][1] else orders
    guesses = guesses_of([each.row for each in rows])
    if EVERY in keys and "order_id" not in guesses.by_name:
        number = Guess({"paths": "$above.key"}, "the names under which they stand", _AS_NAMED)
        guesses = replace(guesses, by_name={"order_id": number, **guesses.by_name})
    gates, left = list(guesses.gates), list(guesses.left)
    for prefix, outer in (
        ("$above", [each.above if EACH in keys else each.row for each in rows]),
        ("$", [each.event for each in rows]),
        ("$message", [each.message for each in rows]),
    ):
        apart = any(each is not row.row for each, row in zip(outer, rows, strict=True))
        if apart and (prefix != "$message" or any(row.message is not row.event for row in rows)):
            around = guesses_of(outer)
            if prefix != "$message" or len(steps) > len(envelope):
                guesses = _with_outer(guesses, around, prefix, alone=_is_alone(rows, outer))
            inner: Way | None = _CLOUD_DATA if "cloudevents" in envelope else None
            if prefix != "$message":
                inner = tuple(_split(keys)[-1 if prefix == "$above" else 0])
                inner = inner[: inner.index(EVERY)] if EVERY in inner else inner
            for found, more in ((gates, around.gates), (left, around.left)):
                found += [
                    _moved(leaf, prefix) for leaf in more if inner is None or leaf.keys[: len(inner)] != inner
                ]
    extends = (preset,) if preset is not None else ()
    return Shape(extends, tuple(steps), orders, replace(guesses, gates=gates, left=left))


def _split(keys: Sequence[str]) -> list[list[str]]:
    """Where a list's items are gone into."""
    if EACH not in keys:
        return [list(keys)]
    place = keys.index(EACH)
    return [list(keys[:place]), *_split(keys[place + 1 :])]


def _is_alone(rows: Sequence[_Row], outer: Sequence[object]) -> bool:
    """No message has several orders, nor has what stands around them, so that it is of one."""
    return len({(each.number, id(around)) for each, around in zip(rows, outer, strict=True)}) == len(rows)


_AS_NAMED = 0.6
_OF_SEVERAL = ("station_id", "connector_id")


def _with_outer(inner: Guesses, outer: Guesses, prefix: str, *, alone: bool) -> Guesses:
    """What the rows do not have, from around them."""
    found = dict(inner.by_name)
    for name, guess in outer.by_name.items():
        path = guess.spec.get("paths")
        if (
            name not in found
            and isinstance(path, str)
            and set(guess.spec) <= _MOVABLE
            and (alone or name in _OF_SEVERAL)
        ):
            found[name] = replace(guess, spec={**guess.spec, "paths": _from(prefix, path)})
    return replace(inner, by_name={name: found[name] for name in KNOWN_FIELDS if name in found})


def _from(prefix: str, path: str) -> str:
    return f"{prefix}{'' if path.startswith('[') else '.'}{path}"


def _moved(leaf: Leaf, prefix: str) -> Leaf:
    return replace(leaf, path=_from(prefix, leaf.path))


_CLOUD_DATA = ("data",)
_MOVABLE = frozenset({"paths", "unit", "format", "decimal", "thousands"})
