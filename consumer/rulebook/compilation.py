"""A valid rules model -> a RuleBook; everything that does not fit together becomes a problem. Reads only the presets."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta, timezone
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from consumer.core import expressions, syntax
from consumer.core.coupons import LARGEST_VALUE, Account, is_free_parameter
from consumer.core.documents import Document
from consumer.core.envelopes import CHARSETS, Envelope, Step, cloudevents, connect, form, unwrap
from consumer.core.errors import Problem
from consumer.core.events import Value
from consumer.core.fields import (
    DERIVED_FIELDS,
    ENCODINGS_OF_TEXT,
    EPOCHS,
    IN_TEXT,
    KNOWN_FIELDS,
    SCALES,
    UNITS,
    WRITTEN_DURATIONS,
    Computed,
    Field,
    FieldType,
    TimeFormat,
    UnreadableError,
    Zone,
    spelled_unit,
)
from consumer.core.formats import Path, alternatives
from consumer.core.outcomes import Outcome, Reason
from consumer.core.replies import ReplyRow, ReplyTable, is_row_name
from consumer.core.rules import Metadatum, Rule, RuleBook
from consumer.core.slices import Breathe
from consumer.core.sources import NAMING_FIELDS, Gate, Missing, Plausibility, Source, Station
from consumer.core.syntax import Kind
from consumer.core.templates import DERIVED, Template, TemplateError
from consumer.rulebook.bundle import CUT_OFF, Bundle, Location, close_to, did_you_mean
from consumer.rulebook.cases import differences_of
from consumer.rulebook.model import (
    AccountModel,
    CaseModel,
    FieldModel,
    MetadatumModel,
    OverrideModel,
    PlausibilityModel,
    ReplyModel,
    RuleModel,
    RulesModel,
    SkipModel,
    SourceModel,
    StationModel,
    StepModel,
)
from consumer.rulebook.stations import StationTable

T = TypeVar("T")

_KINDS = {
    FieldType.STRING: Kind.STRING,
    FieldType.INT: Kind.INT,
    FieldType.BOOL: Kind.BOOL,
    FieldType.DECIMAL: Kind.DOUBLE,
    FieldType.TIMESTAMP: Kind.TIMESTAMP,
    FieldType.ENERGY: Kind.INT,
    FieldType.MONEY: Kind.INT,
    FieldType.DURATION: Kind.INT,
}
_NOT_FREE = {
    "sign": "leave it out",
    "app_secret": "leave it out",
    "timestamp": "say `timestamp: true` for the account",
}
"""What to do about a static parameter of that name; else it has a key of its own."""

_ALWAYS = ("order_id", "plate", "station_id", "api_store_code", "seconds")
"""Fields that an order can have though its source maps none: from the station table or from others."""

_CEL_WORDS = """
as break const continue else false for function if import in let loop namespace null package return true var void
while math strings bool bytes double duration dyn int list map null_type string timestamp type uint
"""
_RESERVED = frozenset([syntax.PRESENT, *_CEL_WORDS.split()])
"""Names that no field can have."""

_STATION = "station"
_NO_DEFAULT = frozenset({"order_id", "plate"})
_NUMBERS = frozenset({*UNITS, FieldType.INT, FieldType.DECIMAL})
_DOUBTS = (
    Reason.END_BEFORE_START,
    Reason.IN_FUTURE,
    Reason.BEFORE_2000,
    Reason.TOO_MUCH_ENERGY,
    Reason.DURATIONS_DISAGREE,
    Reason.PLATE_DOUBTFUL,
)
_IN_BASE_UNITS = {
    "energy_kwh": "write `energy_wh`, in whole Wh: 10 kWh are 10000",
    "fee_yuan": "write `fee_fen`, in whole fen: 10 yuan are 1000",
    "hours": "write `minutes` or `seconds`",
}
"""For names that only texts have (`templates.DERIVED`): expressions calculate in whole numbers."""

_WITH_UNIT = re.compile(
    r"\b([0-9]{1,9}(?:\.[0-9]{1,4})?) ?(kWh|Wh|MWh|yuan|fen|min|[shd]|度|元|角|分钟|小时)(?!\w)",
    re.IGNORECASE,
)
_BASES = {
    "wh": (1, "energy_wh"),
    "kwh": (1000, "energy_wh"),
    "mwh": (1_000_000, "energy_wh"),
    "度": (1000, "energy_wh"),
    "fen": (1, "fee_fen"),
    "yuan": (100, "fee_fen"),
    "元": (100, "fee_fen"),
    "角": (10, "fee_fen"),
    "s": (1, "seconds"),
    "min": (60, "seconds"),
    "分钟": (60, "seconds"),
    "h": (3600, "seconds"),
    "小时": (3600, "seconds"),
    "d": (86400, "seconds"),
}
"""What one of them is of the field that counts it, for who writes units in an expression."""

_COMPUTED = re.compile(r"([a-z][a-z0-9_]{0,63}) ([+-]) ([a-z][a-z0-9_]{0,63})")
_COMPUTABLE = {
    (FieldType.TIMESTAMP, True, FieldType.TIMESTAMP): FieldType.DURATION,
    (FieldType.TIMESTAMP, True, FieldType.DURATION): FieldType.TIMESTAMP,
    (FieldType.TIMESTAMP, False, FieldType.DURATION): FieldType.TIMESTAMP,
    **{
        (same, minus, same): same
        for same in (FieldType.DURATION, FieldType.ENERGY, FieldType.MONEY, FieldType.INT)
        for minus in (True, False)
    },
}
"""What a field computed of two others is."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


@cache
def _preset(name: str) -> tuple[Mapping[str, object], SourceModel] | None:
    file = resources.files("consumer.presets") / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name) or not file.is_file():
        return None
    data = Document(file.read_text("utf-8"), f"preset {name}").data
    assert isinstance(data, dict)
    return data, SourceModel.model_validate(data)


@cache
def preset_names() -> tuple[str, ...]:
    """The presets that a source can extend."""
    files = (file.name for file in resources.files("consumer.presets").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


def preset_sample(names: Sequence[str]) -> object:
    """An event as these presets together read it; None where the inmost one is only a wrapping."""
    text = (resources.files("consumer.presets") / "samples.json").read_text("utf-8")
    samples: dict[str, object] = json.loads(text)
    event: object = None
    for name in reversed(names):
        event = _filled(samples[name], event) if name in samples else event
    return event if names and _INNER not in json.dumps(event) else None


_INNER = "<inner>"


def _filled(sample: object, inner: object) -> object:
    if isinstance(sample, dict):
        return {key: _filled(value, inner) for key, value in sample.items()}
    if isinstance(sample, list):
        return [_filled(value, inner) for value in sample]
    return inner if sample == _INNER and inner is not None else sample


class Compilation:
    """A valid model -> a rule book; everything that does not fit together becomes a problem.

    Attributes:
        model: what is compiled.
        bundle: where its parts stand, and what is wrong with them.

    """

    def __init__(
        self, model: RulesModel, bundle: Bundle, tables: Sequence[tuple[str, bytes]], breathe: Breathe
    ) -> None:
        """`tables` are files of stations, each with its place."""
        self.model = model
        self.bundle = bundle
        self._tables = tables
        self._read_tables: list[StationTable] = []
        self._without_book: list[object] = []
        self._breathe = breathe
        self.stations: dict[str, Station] = {}
        self._problem = bundle.problem
        self._presets_used: dict[str, object] = {}
        self._without_base: set[str] = set()

    def parts(self) -> list[object]:
        """What is long in it and not in its book, for whoever wants to empty that little by little."""
        tables = [part for table in self._read_tables for part in table.parts()]
        return [self.model.rules, self.model.stations, self.model.tests, *tables, *self._without_book]

    def book(self) -> RuleBook | None:
        """None where there are problems."""
        accounts = {name: self._account(name, account) for name, account in self.model.accounts.items()}
        connectors = self._read_stations()
        sources = [self._source(name) for name in self.model.sources]
        self._check_topics(sources)
        variables = self._variables(sources)
        self._compiler = expressions.compiler(variables)
        self._variable_names = sorted(variables)
        rules = [self._rule(number, rule, accounts) for number, rule in enumerate(self.model.rules)]
        self._check_zones(rules, sources)
        self._check_rule_names()
        replies = self._replies()
        if self.bundle.problems or replies is None:
            self._without_book = [rules, self.stations, connectors, *self._compiler.parts()]
            return None
        return RuleBook(
            hash=self._hash(),
            accounts=accounts,
            sources=sources,
            stations=self.stations,
            connectors=connectors,
            rules=rules,
            replies=replies,
            compiler=self._compiler,
        )

    def _hash(self) -> str:
        found = hashlib.sha256()
        encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
        for part in _parts([self.bundle.data, self._presets_used]):
            self._breathe()
            found.update(encode(part).encode("utf-8", "replace"))
        for _, content in self._tables:
            found.update(hashlib.sha256(content).digest())
        return found.hexdigest()[:12]

    # -- accounts and stations

    def _account(self, name: str, model: AccountModel) -> Account:
        self._check_parameters(("accounts", name, "parameters"), model.parameters)
        return Account(
            name=name,
            app_id=model.app_id,
            secret=model.secret,
            api_type=model.api_type,
            url=model.url,
            parameters=model.parameters,
            metadata_format=model.metadata_format,
            state=model.state,
            rate=model.rate,
            max_in_flight=model.max_in_flight,
            timestamp=model.timestamp,
        )

    def _check_parameters(self, location: Location, given: Mapping[str, str]) -> None:
        for name in given:
            if not is_free_parameter(name):
                remedy = _NOT_FREE.get(name, "use the key of its own")
                self._problem((*location, name), f"`{name}` is no free parameter", remedy, key=True)

    def _station(self, name: str, model: StationModel) -> Station:
        self._check_parameters(("stations", name, "parameters"), model.parameters)
        zone = self._zone(("stations", name, "zone"), model.zone)
        return Station(name, model.api_store_code, zone, model.name, model.parameters)

    def _read_stations(self) -> dict[str, str]:
        """Those of the rules file and of files of their own; gives each connector's station."""
        connectors: dict[str, str] = {}
        for name, model in self.model.stations.items():
            self._breathe()
            self.stations[name] = self._station(name, model)
            for number, connector in enumerate(model.connectors):
                location = ("stations", name, "connectors", number)
                self._connect(connectors, connector, name, self.bundle.place, location)
        for place, content in self._tables:
            table = StationTable(content, place, _zone_of, self._breathe)
            self._read_tables.append(table)
            self.bundle.problems += table.problems
            for name, station in table.stations.items():
                if name in self.stations:
                    message = f"column id: `{name}` stands in {self.bundle.place(('stations', name))} too"
                    self.bundle.problems.append(Problem(table.line(name), message, "keep one of them"))
                self.stations[name] = station
            self.bundle.station_lines.append(table)
            for connector, name in table.connectors:
                self._breathe()
                self._connect(connectors, connector, name, table.line, name)
        return connectors

    def _connect(
        self, connectors: dict[str, str], connector: str, station: str, place: Callable[[T], str], location: T
    ) -> None:
        if connectors.setdefault(connector, station) != station:
            message = f"the connector `{connector}` belongs to {connectors[connector]} too"
            self.bundle.problems.append(Problem(place(location), message, "leave it with one station"))

    def _zone(self, location: Location, name: str | None) -> Zone | None:
        if name is None:
            return None
        zone = _zone_of(name)
        if zone is None:
            self._problem(location, f"`{name}` is no time zone", "write it like `Asia/Shanghai` or `+08:00`")
        return zone

    # -- sources

    def _source(self, name: str) -> Source:
        location = ("sources", name)
        model = self._extended(name, ())
        zone = None if model.zone == _STATION else self._zone((*location, "zone"), model.zone)
        place = (*location, "fields")
        model = model.model_copy(update={"fields": dict(_wanted(model.fields))})
        fields = [self._field(place, field, spec, model.zone, zone) for field, spec in model.fields.items()]
        self._check_references(place, model.fields, fields)
        names = {*model.fields, *_ALWAYS, *DERIVED_FIELDS} - {"event_id", "zone"}
        event_id = model.event_id or "{order_id}"
        template = self._template((*location, "event_id"), event_id, sorted(names))
        for field, needed in (("order_id", "order_id" in template.names), ("plate", True)):
            if needed and field not in model.fields and name not in self._without_base:
                self._problem(
                    location, f"{name} has no field `{field}`", "add it, or extend a preset", key=True
                )
        if not template.names:
            remedy = "name a field in it, like {order_id}"
            self._problem((*location, "event_id"), "an event id that is the same for all orders", remedy)
        gates = model.skip or []
        written = {
            id(gate): ("sources", source, "skip", number)
            for source, its in self.model.sources.items()
            for number, gate in enumerate(its.skip or ())
        }
        orders = tuple(self._paths((*location, "orders"), model.orders))
        if not any(path.many for path in orders):
            self._check_above(location, fields, gates)
        deadline = model.deadline if "deadline" in model.model_fields_set else self.model.deadline
        return Source(
            name=name,
            topics=tuple(model.topics or ()),
            envelope=self._envelope((*location, "envelope"), model.envelope or ()),
            orders=orders,
            # Those of a preset have no mistakes.
            gates=tuple(self._gate(written.get(id(gate), location), gate) for gate in gates),
            fields=_naming_first(fields),
            event_id=template,
            zone=zone,
            overrides=self._overrides(location, model, zone),
            plausibility=_plausibility(model.plausibility),
            deadline=None if deadline is None else timedelta(seconds=float(deadline)),
        )

    def _check_above(self, location: Location, fields: Sequence[Field], gates: Sequence[SkipModel]) -> None:
        """Paths out of the list of orders, where nothing is known to be around it."""
        texts = [text for gate in gates for text in gate.paths]
        for field in fields:
            texts += (path.text for path in (*field.paths, *field.minus))
            texts += (
                text
                for name in (field.template.names if field.template else ())
                for text in alternatives(name)
            )
        found = next((text for text in texts if re.match(r"\$above\b", text)), None)
        if found is not None:
            message = f"`{found}` leads to what `[*]` of `orders` goes through, and there is none"
            remedy = "write `orders` like `stations[*].orders`, or the path from the event: `$.x`"
            self._problem(location, message, remedy, key=True)

    def _extended(self, name: str, seen: tuple[str, ...]) -> SourceModel:
        """The source with what it extends laid under it."""
        model = self.model.sources[name]
        merged: SourceModel | None = None
        for number, wanted in enumerate(model.extends or ()):
            base = self._base(name, number, wanted, (*seen, name))
            if base is not None:
                # Topics say where events are, not how they are read: they are not inherited.
                base = base.model_copy(update={"topics": None})
                merged = base if merged is None else _laid_over(merged, base, inside=True)
        return model if merged is None else _laid_over(merged, model)

    def presets_of(self, name: str) -> list[str]:
        """The presets that a source is made of, the outer ones first."""
        found: list[str] = []
        for wanted in self.model.sources[name].extends or ():
            found += [wanted] if _preset(wanted) is not None else self.presets_of(wanted)
        return found

    def gates_of(self, name: str) -> Sequence[SkipModel]:
        """How a source's gates are written, in their order: its own, and those of what it extends."""
        return self._extended(name, ()).skip or ()

    def _base(self, name: str, number: int, wanted: str, seen: tuple[str, ...]) -> SourceModel | None:
        preset = _preset(wanted)
        if preset is not None:
            data, base = preset
            self._presets_used[wanted] = data
            return base
        if wanted in self.model.sources and wanted not in seen:
            base = self._extended(wanted, seen)
            if wanted in self._without_base:
                self._without_base.add(name)
            return base
        known = [*preset_names(), *(other for other in self.model.sources if other != name)]
        message = f"there is no source or preset `{wanted}`"
        remedy = did_you_mean(wanted, known)
        if wanted in self.model.sources:
            message = f"{name} extends itself, through others or at once"
            remedy = "end the circle in a preset"
        self._problem(("sources", name, "extends", number), message, remedy)
        self._without_base.add(name)
        return None

    def _envelope(self, location: Location, models: Sequence[StepModel]) -> Envelope:
        skip, charset, text, taken = 0, None, False, set[str]()
        steps: list[Step] = []
        words: list[str] = []
        for number, model in enumerate(models):
            place = (*location, number)
            keys = list(model.model_fields_set)
            if len(keys) != 1 or getattr(model, keys[0]) is None:
                remedy = "make it several steps" if len(keys) > 1 else "give it one, and a value"
                self._problem(place, "a step of the envelope has one key", remedy)
                continue
            (key,) = keys
            if steps and key in ("skip_bytes", "schema_registry", "gzip", "charset", "lines"):
                self._problem(place, f"`{key}` is for bytes, and this is JSON by now", "put it first")
            if model.skip_bytes is not None:
                skip += model.skip_bytes
            elif model.schema_registry or model.gzip or model.lines:
                taken.add(key)
            elif model.charset is not None:
                charset = self._charset((*place, "charset"), model.charset)
            elif model.cloudevents or model.connect:
                steps.append(cloudevents if model.cloudevents else connect)
                words.append(key)
            else:
                paths = tuple(self._paths((*place, key), model.unwrap or model.base64 or model.form))
                text = text or (not steps and ["$"] in (model.base64, model.form))
                if model.form is not None:
                    steps.append(form(paths, charset))
                else:
                    steps.append(unwrap(paths, base64=model.base64 is not None, charset=charset))
                words.append(f"{key} {' or '.join(path.text for path in paths)}")
        return Envelope(
            skip=skip,
            registry="schema_registry" in taken,
            gzip="gzip" in taken,
            charset=charset,
            lines="lines" in taken,
            text=text,
            steps=tuple(steps),
            words=tuple(words),
        )

    def _charset(self, location: Location, name: str | None) -> str | None:
        charset = name.lower() if name else None
        if charset is not None and charset not in CHARSETS:
            self._problem(location, f"`{name}` is no charset known here", did_you_mean(charset, CHARSETS))
        return charset

    def _overrides(
        self, source: Location, model: SourceModel, source_zone: Zone | None
    ) -> dict[str, tuple[Field, ...]]:
        found: dict[str, tuple[Field, ...]] = {}
        for number, override in enumerate(model.overrides):
            location = (*source, "overrides", number)
            self._check_names((*location, "stations"), override.stations, self.stations, "station")
            merged = _laid_over(model, SourceModel(fields=override.fields)).fields
            zone_name = override.zone or model.zone
            zone = source_zone
            if override.zone is not None:
                zone = None if zone_name == _STATION else self._zone((*location, "zone"), zone_name)
            known = len(self.bundle.problems)
            fields = [
                self._field((*location, "fields"), field, spec, zone_name, zone)
                for field, spec in merged.items()
                if field in override.fields or known == len(self.bundle.problems)
            ]
            self._check_override(location, override, model)
            for station in override.stations:
                if station in found:
                    self._problem(
                        location, f"the station `{station}` has overrides already", "put them together"
                    )
                found[station] = _naming_first(fields)
        return found

    def _check_override(self, location: Location, override: OverrideModel, model: SourceModel) -> None:
        for field in override.fields:
            if field not in model.fields or field in NAMING_FIELDS:
                message = f"the source has no field `{field}` to override"
                if field in NAMING_FIELDS:
                    message = f"{field} finds the station and cannot depend on it"
                remedy = did_you_mean(field, [name for name in model.fields if name not in NAMING_FIELDS])
                self._problem((*location, "fields", field), message, remedy, key=True)

    def _field(
        self, section: Location, name: str, model: FieldModel, zone_name: str | None, source_zone: Zone | None
    ) -> Field:
        location = (*section, name)
        type_ = self._field_type(location, name, model)
        if not _has_place(model):
            self._problem(location, f"{name} needs either paths or a template", "give one of them", key=True)
        self._check_keys(location, name, type_, model)
        wanted = model.zone or zone_name
        known = len(self.bundle.problems)
        zone = self._zone((*location, "zone"), None if model.zone == _STATION else model.zone) or source_zone
        field = Field(
            name=name,
            type=type_,
            paths=tuple(self._paths((*location, "paths"), model.paths)),
            template=self._path_template((*location, "template"), model.template),
            minus=tuple(self._paths((*location, "minus"), model.minus)),
            value=tuple(self._paths((*location, "value"), model.value)),
            unit_from=tuple(self._paths((*location, "unit_from"), model.unit_from)),
            units=self._units(location, type_, model),
            exponent_from=tuple(self._paths((*location, "exponent_from"), model.exponent_from)),
            decimals_from=tuple(self._paths((*location, "decimals_from"), model.decimals_from)),
            rolls_over_at=model.rolls_over_at or Decimal(0),
            unit=model.unit or "",
            scale=self._scale(location, name, type_, model),
            multiplier=model.multiplier or Decimal(1),
            written=_written(model.unit, type_),
            total=model.sum is not None,
            comma=model.decimal == ",",
            thousands=model.thousands or "",
            after=model.after or "",
            before=model.before or "",
            split=model.split or "",
            part=model.part or 0,
            encoding=model.encoding or "",
            charset=self._charset((*location, "charset"), model.charset) or "utf-8",
            connect_scale=model.connect_scale,
            formats=tuple(self._formats((*location, "format"), model.format or ["iso"])),
            zone=zone,
            station_zone=wanted == _STATION,
            zone_from=tuple(self._paths((*location, "zone_from"), model.zone_from)),
            to_minutes=model.precision == "min",
            computed=self._computed((*location, "computed"), model.computed),
            not_before=model.not_before,
            not_after=model.not_after,
            empty=frozenset(model.empty or ()),
            required=model.required,
        )
        if model.default is None or known != len(self.bundle.problems):
            return field
        return replace(field, default=self._default(location, field, model.default))

    def _default(self, location: Location, field: Field, text: str) -> Value | None:
        """What it is where the event has none, read as if it stood there."""
        place = (*location, "default")
        if field.name in _NO_DEFAULT or field.type is FieldType.TIMESTAMP:
            what = "is a time" if field.type is FieldType.TIMESTAMP else "would be the same for many orders"
            self._problem(place, f"{field.name} {what}: it has no default", "leave this out", key=True)
        elif field.computed is not None:
            self._problem(place, f"{field.name} is computed where there is none", "leave one out", key=True)
        elif field.is_beside and not field.unit:
            self._problem(place, f"nobody knows in which unit {text} is", "add `unit`", key=True)
        else:
            try:
                return field.read(text)
            except UnreadableError as error:
                self._problem(place, f"`{text[:40]}`: {error.detail}", "write it as the event would")
        return None

    def _units(self, location: Location, type_: FieldType, model: FieldModel) -> Mapping[str, str]:
        if model.units and model.unit_from is None and model.unit != IN_TEXT:
            message = "`units` are what `unit_from` or `unit: in_text` find"
            self._problem((*location, "units"), message, "add one of them, or leave it out", key=True)
        known = UNITS.get(type_, {})
        for text, unit in model.units.items():
            if unit not in known or unit in WRITTEN_DURATIONS:
                remedy = did_you_mean(unit, [name for name in known if name not in WRITTEN_DURATIONS])
                self._problem((*location, "units", text), f"`{unit}` is no unit of {type_}", remedy)
        return model.units

    def _check_keys(self, location: Location, name: str, type_: FieldType, model: FieldModel) -> None:
        """Keys that mean nothing for a field of this type."""
        for key in ("format", "zone", "zone_from", "precision", "not_before", "not_after"):
            if getattr(model, key) is not None and type_ is not FieldType.TIMESTAMP:
                self._problem((*location, key), f"{name} is no timestamp", "leave this out", key=True)
        if model.multiplier is not None and type_ not in UNITS:
            self._problem((*location, "multiplier"), f"{name} has no unit", "leave this out", key=True)
        for key in (
            "minus",
            "sum",
            "value",
            "unit_from",
            "exponent_from",
            "decimals_from",
            "rolls_over_at",
            "decimal",
            "thousands",
            "connect_scale",
        ):
            if getattr(model, key) is not None and type_ not in _NUMBERS:
                self._problem((*location, key), f"{name} is no number", "leave this out", key=True)
        if model.encoding is not None and type_ is not FieldType.STRING:
            self._problem((*location, "encoding"), f"{name} is no text", "leave this out", key=True)
        if model.charset is not None and model.encoding in ENCODINGS_OF_TEXT:
            message = f"`{model.encoding}` encodes characters, not bytes"
            self._problem((*location, "charset"), message, "leave it out", key=True)
        self._check_together(location, model)

    def _check_together(self, location: Location, model: FieldModel) -> None:
        """Keys that mean nothing without others, or beside them."""
        if model.sum is not None and (model.minus is not None or model.paths is None):
            self._problem(
                (*location, "sum"), "a sum is one of `paths`, without `minus`", "leave one out", key=True
            )
        if model.thousands is not None and model.thousands == (model.decimal or "."):
            message, remedy = (
                "`thousands` is what stands before fractions",
                "give `decimal` another sign, or leave it out",
            )
            self._problem((*location, "thousands"), message, remedy)
        if (model.split is None) is not (model.part is None):
            message = "`split` and `part` go together"
            self._problem(location, message, "say where the text is divided, and which part it is", key=True)
        for key in ("split", "after", "before"):
            if getattr(model, key) is not None and (model.paths is None or model.sum is not None):
                message = f"`{key}` is for what `paths` lead to, one by one"
                self._problem((*location, key), message, "leave it out", key=True)
        # Each of several readings has a unit of its own, which stands beside the reading and not in the order.
        several = any(_leads_to_several(text) for text in (*(model.paths or ()), *(model.minus or ())))
        for key in ("unit_from", "exponent_from", "decimals_from"):
            if several and model.value is None and getattr(model, key) is not None:
                message = f"`{key}` is looked up beside `value`, and there is none"
                self._problem((*location, key), message, "add `value`", key=True)
        for key, needed in (("rolls_over_at", "minus"), ("charset", "encoding")):
            if getattr(model, key) is not None and getattr(model, needed) is None:
                message = f"`{key}` is nothing without `{needed}`"
                self._problem((*location, key), message, f"add `{needed}`, or leave it out", key=True)

    def _computed(self, location: Location, text: str | None) -> Computed | None:
        if text is None:
            return None
        match = _COMPUTED.fullmatch(text)
        if match is None:
            self._problem(
                location, f"`{text[:60]}` cannot be computed", "write it like `ended_at - charging_seconds`"
            )
            return None
        return Computed(match[1], match[2] == "-", match[3])

    def _check_references(
        self, section: Location, models: Mapping[str, FieldModel], fields: Sequence[Field]
    ) -> None:
        """Fields that are made of others: those exist and fit."""
        types = {field.name: field.type for field in fields}
        for field in fields:
            for key, other in (("not_before", field.not_before), ("not_after", field.not_after)):
                if other is not None and types.get(other) is not FieldType.TIMESTAMP:
                    known = [name for name, type_ in types.items() if type_ is FieldType.TIMESTAMP]
                    message = f"there is no timestamp `{other}`"
                    self._problem((*section, field.name, key), message, did_you_mean(other, known))
            if field.computed is None:
                continue
            place = (*section, field.name, "computed")
            parts = (field.computed.left, field.computed.right)
            unknown = [name for name in parts if name not in types]
            for name in unknown:
                self._problem(place, f"there is no field `{name}`", did_you_mean(name, list(types)))
            if unknown:
                continue
            given = _COMPUTABLE.get((types[parts[0]], field.computed.minus, types[parts[1]]))
            if given is not field.type:
                what = f"gives {given}" if given else "has no meaning"
                message = f"`{models[field.name].computed}` {what}, and {field.name} is {field.type}"
                remedy = "write it like `ended_at - charging_seconds`"
                untyped = [
                    name
                    for name in dict.fromkeys(parts)
                    if name not in KNOWN_FIELDS and models[name].type is None
                ]
                if untyped and field.type in UNITS:
                    names = " and ".join(f"`{name}`" for name in untyped)
                    remedy = (
                        f"without a `type` a field is text: give {names} `type: {field.type}`, and its `unit`"
                    )
                self._problem(place, message, remedy)

    def _field_type(self, location: Location, name: str, model: FieldModel) -> FieldType:
        known = KNOWN_FIELDS.get(name)
        if name in DERIVED_FIELDS or name in DERIVED or name in _RESERVED:
            self._problem(location, f"the name `{name}` is taken", "give the field another name", key=True)
        if known is not None and model.type not in (None, known):
            self._problem((*location, "type"), f"{name} is always `{known}`", "leave `type` out")
        return known or model.type or FieldType.STRING

    def _scale(self, location: Location, name: str, type_: FieldType, model: FieldModel) -> Decimal:
        units = UNITS.get(type_)
        if units is None:
            if model.unit is not None:
                message, remedy = f"{name} has no unit", "leave this out"
                if name not in KNOWN_FIELDS and model.type is None:
                    message = f"{name} is text, which has no unit: it has no `type`"
                    fitting = [kind for kind in UNITS if model.unit == IN_TEXT or model.unit in UNITS[kind]]
                    remedy = f"add {' or '.join(f'`type: {kind}`' for kind in fitting or UNITS)}"
                    meant = close_to(name, [field for field, kind in KNOWN_FIELDS.items() if kind in fitting])
                    if meant is not None:
                        self._problem(
                            location,
                            f"no field is called `{name}`",
                            f"did you mean `{meant}`? else {remedy}",
                            key=True,
                        )
                        return Decimal(1)
                self._problem((*location, "unit"), message, remedy, key=True)
            return Decimal(1)
        if model.unit is None and not (model.paths or model.template):
            return Decimal(1)  # computed of others, which have theirs
        if model.unit is None and model.unit_from and not model.value:
            return Decimal(1)  # it stands in each order
        if model.unit is None:
            remedy = f"add `unit`, one of {', '.join(units)}"
            self._problem(location, f"{name} needs a unit", remedy, key=True)
        elif model.unit not in units and model.unit != IN_TEXT:
            meant = spelled_unit(model.unit, type_)
            remedy = f"write `{meant}`" if meant in units else did_you_mean(model.unit, [*units, IN_TEXT])
            self._problem((*location, "unit"), f"`{model.unit}` is no unit of {type_}", remedy)
        return SCALES.multiply(units.get(model.unit or "", Decimal(1)), model.multiplier or Decimal(1))

    def _formats(self, location: Location, texts: Sequence[str]) -> Iterator[TimeFormat]:
        for text in texts:
            try:
                yield TimeFormat.parse(text)
            except ValueError as error:
                known = ["iso", *(name for name in EPOCHS if "_local" not in name), "yyyy-MM-dd HH:mm:ss"]
                meant = _meant_by(text)
                remedy = f"did you mean `{meant}`?" if meant else f"use {', '.join(known)} or another pattern"
                self._problem(location, str(error), remedy)

    def _gate(self, location: Location, model: SkipModel) -> Gate:
        given = [key for key in (model.values_in, model.not_in, model.present) if key is not None]
        if len(given) != 1 and (given or model.missing is not Missing.SKIP):
            self._problem(location, "a gate needs one of `in`, `not_in` and `present`", "give one of them")
        inverted = model.not_in is not None or model.present is not None
        return Gate(
            paths=tuple(self._paths((*location, "paths"), model.paths)),
            values=_with_spellings((model.not_in if inverted else model.values_in) or ()),
            inverted=inverted,
            reason=Reason(model.reason),
            missing=model.without_a_value,
            reverses=self._path_template((*location, "reverses"), model.reverses),
        )

    def _paths(self, location: Location, texts: Sequence[str] | None) -> Iterator[Path]:
        for number, text in enumerate(texts or ()):
            try:
                yield Path.parse(text)
            except ValueError as error:
                self._problem((*location, number), str(error), "write it like `a.b[0].c`")

    def _path_template(self, location: Location, text: str | None) -> Template | None:
        if text is None:
            return None
        template = self._template(location, text, None)
        for name in template.names:
            list(self._paths(location, alternatives(name)))
        return template

    def _template(self, location: Location, text: str, known: Sequence[str] | None) -> Template:
        try:
            template = Template.parse(text)
        except TemplateError as error:
            self._problem(location, str(error), "write {field}, or {{ and }} for the braces themselves")
            return Template.parse("")
        for name in template.names if known is not None else ():
            if name not in (known or ()):
                # A text is for people, to whom `energy` is in kWh.
                meant = next(
                    (each for each in DERIVED if each in (known or ()) and each.startswith(f"{name}_")), None
                )
                remedy = f"did you mean `{meant}`?" if meant else did_you_mean(name, known or ())
                self._problem(location, f"there is no field `{name}`", remedy)
        return template

    def _check_topics(self, sources: Sequence[Source]) -> None:
        owners: dict[str, str] = {}
        for source in sources:
            for topic in source.topics or ("",):
                if topic in owners:
                    what = f"the topic `{topic}`" if topic else "any topic"
                    message = f"{source.name} and {owners[topic]} both read {what}"
                    self._problem(("sources", source.name), message, "give each topics of its own", key=True)
                owners.setdefault(topic, source.name)
        if not sources:
            self._problem((), "no source", "add `sources:`, such as {events: {extends: canonical}}")

    # -- rules

    def _variables(self, sources: Sequence[Source]) -> dict[str, Kind]:
        """The fields that expressions know, by name."""
        known = {**{name: KNOWN_FIELDS[name] for name in _ALWAYS}, **DERIVED_FIELDS}
        variables = {name: _KINDS[type_] for name, type_ in known.items()}
        for source in sources:
            for field in source.fields:
                kind = _KINDS[field.type]
                if variables.setdefault(field.name, kind) is not kind and field.name not in DERIVED_FIELDS:
                    location = ("sources", source.name, "fields", field.name)
                    message = f"{field.name} is {kind} here and {variables[field.name]} in another source"
                    self._problem(location, message, "give them the same type, or different names", key=True)
        return variables

    def _rule(self, number: int, model: RuleModel, accounts: Mapping[str, Account]) -> Rule:
        location = ("rules", number)
        self._breathe()
        self._check_names((*location, "sources"), model.sources, self.model.sources, "source")
        self._check_names((*location, "stations"), model.stations, self.stations, "station")
        self._check_names((*location, "equals"), model.equals, self._variable_names, "field")
        self._check_parameters((*location, "parameters"), model.parameters)
        if model.skip is None:
            for key in ("account", "subject"):
                if getattr(model, key) is None:
                    remedy = f"add `{key}`, or `skip` with a reason"
                    self._problem(location, f"rule {model.name} has no `{key}`", remedy)
        else:
            for key in ("account", "subject", "metadata", "parameters", "api_type", "api_store_code"):
                if key in model.model_fields_set:
                    remedy = "leave it out, or `skip`"
                    self._problem((*location, key), f"a rule that skips needs no `{key}`", remedy, key=True)
        if model.account is not None and model.account not in accounts:
            remedy = did_you_mean(model.account, list(accounts))
            self._problem((*location, "account"), f"there is no account `{model.account}`", remedy)
        return Rule(
            name=model.name,
            sources=frozenset(model.sources or ()),
            stations=frozenset(model.stations or ()),
            equals={name: frozenset(texts) for name, texts in model.equals.items()},
            when=self._expression((*location, "when"), model.when, Kind.BOOL),
            account=accounts.get(model.account or ""),
            skip=Reason(model.skip) if model.skip else None,
            subject=self._template(
                (*location, "subject"), model.subject or "", [*self._variable_names, *DERIVED]
            ),
            metadata=tuple(self._metadata((*location, "metadata"), model.metadata)),
            api_type=model.api_type,
            api_store_code=model.api_store_code,
            parameters=model.parameters,
            state=model.state,
        )

    def _check_names(
        self,
        location: Location,
        given: Sequence[str] | Mapping[str, object] | None,
        known: Collection[str],
        what: str,
    ) -> None:
        keys = isinstance(given, Mapping)
        for number, name in enumerate(given or ()):
            if name not in known:
                remedy = did_you_mean(name, list(known))
                self._problem(
                    (*location, name if keys else number), f"there is no {what} `{name}`", remedy, key=keys
                )

    def _metadata(self, location: Location, models: Mapping[str, MetadatumModel]) -> Iterator[Metadatum]:
        for key, model in models.items():
            place = (*location, key, "value")
            if _WHOLE.fullmatch(model.value) and not 0 <= int(model.value) <= LARGEST_VALUE:
                self._problem(place, f"{model.value} does not fit", f"use 0 to {LARGEST_VALUE}")
            value = self._expression(place, model.value, Kind.INT)
            if value is not None:
                yield Metadatum(key, model.name, value)

    def _expression(
        self, location: Location, source: str | None, result: Kind
    ) -> expressions.Expression | None:
        if source is None:
            return None
        try:
            return self._compiler.compile(source, result)
        except expressions.ExpressionError as error:
            place = self.bundle.place_in_text(location, error.line, error.column)
            unknown = re.search(r"undeclared reference to '(\w+)'", error.message)
            name = unknown[1] if unknown else ""
            with_unit = _WITH_UNIT.search(source)
            remedy = _IN_BASE_UNITS.get(name) or (
                did_you_mean(name, self._variable_names)
                if name
                else error.remedy
                or (_without_unit(with_unit) if with_unit else "")
                or (CUT_OFF if self.bundle.is_cut_off(location) else "")
                or "correct the expression"
            )
            caret = "".join(f"\n    {line}" for line in error.caret.splitlines())
            self.bundle.add(location, Problem(place, f"{location[-1]}: {error.message}", remedy + caret))
            return None

    def _check_zones(self, rules: Sequence[Rule], sources: Sequence[Source]) -> None:
        """A rule that asks for the time of day needs the zone of every station that it is for."""
        needing = [rule for rule in rules if any(_needs_zone(each.source) for _, each in rule.expressions())]
        zoneless = frozenset(name for name, station in self.stations.items() if station.zone is None)
        told: set[str] = set()
        for rule in needing:
            for source in sources:
                if source.zone is not None or (rule.sources and source.name not in rule.sources):
                    continue
                for station in ((rule.stations or zoneless) & zoneless) - told:
                    told.add(station)
                    message = f"`{station}` has no zone, which rule {rule.name} asks for; nor has source {source.name}"
                    remedy = "add `zone`, such as Asia/Shanghai"
                    self._problem(("stations", station), message, remedy, key=True)

    def _check_rule_names(self) -> None:
        seen: set[str] = set()
        for number, rule in enumerate(self.model.rules):
            if rule.name in seen:
                message = f"a second rule is called `{rule.name}`"
                self._problem(("rules", number, "name"), message, "give each rule a name of its own")
            seen.add(rule.name)

    # -- replies

    def _replies(self) -> ReplyTable | None:
        table = ReplyTable.defaults()
        rows: dict[str, ReplyRow] = {}
        for name, model in self.model.replies.items():
            base = table.rows.get(name)
            if not is_row_name(name):
                remedy = "name the row by the reply's code, or like `5xx`"
                self._problem(("replies", name), f"`{name}` is no code", remedy, key=True)
            if base is None and (model.outcome is None or model.then is None):
                message = f"{name} is a new row: it needs `outcome` and `then`"
                self._problem(("replies", name), message, "add them", key=True)
                continue
            rows[name] = _reply_row(base, model)
        known = {*table.rows, *rows}
        for name, model in self.model.replies.items():
            for key, meanings in (("messages", model.messages), ("hints", model.hints)):
                for text, target in (meanings or {}).items():
                    if target not in known:
                        location = ("replies", name, key, text)
                        self._problem(location, f"there is no row `{target}`", f"add replies.{target}")
        return None if self.bundle.problems else table.with_rows(rows)

    # -- the file's own tests

    def cases(self, book: RuleBook) -> Iterator[tuple[Location, CaseModel, Source]]:
        """The file's tests, each with its place and the source that reads its event."""
        for number, case in enumerate(self.model.tests):
            self._breathe()
            location = ("tests", number)
            source = self._case_source(location, case, book)
            if source is not None:
                yield location, case, source

    def run_tests(self, book: RuleBook) -> None:
        """What is not as the file's tests expect it becomes a problem."""
        for location, case, source in self.cases(book):
            for wrong in differences_of(book, source, case):
                self._problem(location, f"test `{case.name}`: {wrong.text}", "correct the rules, or the test")

    def _case_source(self, location: Location, case: CaseModel, book: RuleBook) -> Source | None:
        if (case.raw is None) is ("event" not in case.model_fields_set):
            message = f"test `{case.name}` needs either `event` or `raw`"
            self._problem(location, message, "give one of them")
            return None
        by_name = {source.name: source for source in book.sources}
        if case.source is not None and case.source not in by_name:
            remedy = did_you_mean(case.source, list(by_name))
            self._problem((*location, "source"), f"there is no source `{case.source}`", remedy)
            return None
        if case.source is not None:
            return by_name[case.source]
        found = book.source_for(case.topic) if case.topic is not None else None
        found = found or (book.sources[0] if case.topic is None and len(book.sources) == 1 else None)
        if found is None:
            message = f"test `{case.name}` does not say who reads its event"
            self._problem(location, message, f"add `source`, one of {', '.join(by_name)}")
        return found


_STRFTIME = {
    "Y": "yyyy",
    "y": "yy",
    "m": "MM",
    "b": "MMM",
    "B": "MMM",
    "d": "dd",
    "H": "HH",
    "I": "hh",
    "M": "mm",
    "S": "ss",
    "f": "SSSSSS",
    "p": "a",
    "z": "Z",
    "F": "yyyy-MM-dd",
    "T": "HH:mm:ss",
}


def _meant_by(text: str) -> str | None:
    """The time format in our letters, of one in those of another language."""
    plain = text.replace("Y", "y").replace("D", "d")
    swapped = plain.translate(str.maketrans("mM", "Mm"))
    others = (
        re.sub(r"%-?(\w)", lambda match: _STRFTIME.get(match[1], match[0]), text),
        plain,
        re.sub(r"(?<=H)(\W*)MM(\W*)(?:SS|ss)", r"\1mm\2ss", plain),
        *(each.replace("S", "s") for each in (plain, swapped)),
    )
    for other in others:
        try:
            TimeFormat.parse(other)
        except ValueError:
            continue
        return other
    return None


def _without_unit(written: re.Match[str]) -> str:
    size, name = _BASES[written[2].lower()]
    amount = f"{Decimal(written[1]) * size:f}"
    amount = amount.rstrip("0").rstrip(".") if "." in amount else amount
    return f"expressions have no units: `{name}` is a whole number, and {written[0]} are {amount} of it"


def _zone_of(name: str) -> Zone | None:
    """None where it is none."""
    offset = _OFFSET.fullmatch(name)
    if offset is not None and int(offset[2]) < 24 and int(offset[3]) < 60:
        shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return Zone(name, timezone(-shift if offset[1] == "-" else shift))
    try:
        return Zone(name, ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _parts(data: object, depth: int = 3) -> Iterator[object]:
    """Small parts of it, one after the other, with what tells them apart from others."""
    if isinstance(data, dict | list) and depth:
        yield type(data).__name__, len(data)
        for key, part in data.items() if isinstance(data, dict) else enumerate(data):
            yield key
            yield from _parts(part, depth - 1)
    else:
        yield data


def _leads_to_several(path: str) -> bool:
    try:
        return Path.parse(path).many
    except ValueError:
        return False


def _needs_zone(source: str) -> bool:
    return "zone" in syntax.names_in(source) and "zone" not in syntax.guarded_in(source)


def _wanted(fields: Mapping[str, FieldModel]) -> Iterator[tuple[str, FieldModel]]:
    """Without what a preset only offers: places of numbers whose unit the rules file does not tell."""
    offered = {
        id(spec)
        for name in preset_names()
        for spec in (_preset(name) or ({}, SourceModel()))[1].fields.values()
    }
    for name, spec in fields.items():
        type_ = KNOWN_FIELDS.get(name) or spec.type
        if not (id(spec) in offered and spec.paths and spec.unit is None and type_ in UNITS):
            yield name, spec


def _written(unit: str | None, type_: FieldType) -> str:
    """How its numbers are written, if not as numbers."""
    if unit == IN_TEXT or (unit in WRITTEN_DURATIONS and type_ is FieldType.DURATION):
        return unit or ""
    return ""


def _has_place(model: FieldModel) -> bool:
    places = (model.paths is not None) + (model.template is not None)
    return places == 1 or (places == 0 and model.computed is not None)


def _laid_over(base: SourceModel, model: SourceModel, *, inside: bool = False) -> SourceModel:
    """What a source says, over what it extends; its envelope around theirs, or inside of it."""
    own = {key: getattr(model, key) for key in model.model_fields_set if getattr(model, key) is not None}
    if "deadline" in model.model_fields_set:
        own["deadline"] = model.deadline
    fields = dict(base.fields)
    for name, field in model.fields.items():
        under = fields.get(name)
        changes_only = under is not None and not (field.paths or field.template or field.computed)
        update = {key: getattr(field, key) for key in field.model_fields_set}
        fields[name] = under.model_copy(update=update) if under is not None and changes_only else field
    envelopes = (base.envelope or [], model.envelope or [])
    own["envelope"] = [*envelopes[0], *envelopes[1]] if inside else [*envelopes[1], *envelopes[0]]
    over = {gate.paths[0] for gate in model.skip or ()}
    gates = [gate for gate in base.skip or () if gate.paths[0] not in over]
    plausibility = base.plausibility
    if plausibility is not None and model.plausibility is not None:
        given = model.plausibility
        update = {key: getattr(given, key) for key in given.model_fields_set}
        own["plausibility"] = plausibility.model_copy(update=update)
    return base.model_copy(update={**own, "fields": fields, "skip": [*gates, *(model.skip or ())]})


def _naming_first(fields: Sequence[Field]) -> tuple[Field, ...]:
    return tuple(sorted(fields, key=lambda field: field.name not in NAMING_FIELDS))


def _plausibility(model: PlausibilityModel | None) -> Plausibility:
    default = Plausibility()
    if model is None:
        return default
    set_aside = set(default.set_aside)
    for reason in _DOUBTS:
        given = getattr(model, reason)
        if given is not None:
            (set_aside.add if given == "set_aside" else set_aside.discard)(reason)
    return Plausibility(
        frozenset(set_aside),
        default.future
        if model.future_tolerance is None
        else timedelta(seconds=float(model.future_tolerance)),
        default.watts if model.max_kw is None else int(model.max_kw * 1000),
        default.seconds if model.duration_tolerance is None else int(model.duration_tolerance),
    )


_TRUTHS = {"true": ("true", "True", "TRUE", "1"), "false": ("false", "False", "FALSE", "0")}


def _with_spellings(texts: Sequence[str]) -> frozenset[str]:
    """`true` is what other languages write for it too."""
    return frozenset(spelling for text in texts for spelling in _TRUTHS.get(text, (text,)))


def _reply_row(base: ReplyRow | None, model: ReplyModel) -> ReplyRow:
    """The row as documented, with what the file says laid over it."""
    outcome = Outcome(model.outcome) if model.outcome is not None else base.outcome if base else None
    then = model.then if model.then is not None else base.then if base else None
    assert outcome is not None
    assert then is not None
    deadline = model.deadline_seconds
    return ReplyRow(
        outcome=outcome,
        then=then,
        dead_letter=_either(model.dead_letter, base.dead_letter if base else False),
        messages=_either(model.messages, base.messages if base else None),
        hints=_either(model.hints, base.hints if base else None),
        deadline_seconds=float(deadline) if deadline is not None else base.deadline_seconds if base else None,
    )


def _either(given: T | None, otherwise: T) -> T:
    return given if given is not None else otherwise
