"""A valid rules model -> a RuleBook; everything that does not fit together becomes a problem. Reads only the presets."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta, timezone
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from consumer.core import expressions
from consumer.core.coupons import LARGEST_VALUE, OWN_PARAMETERS, Account
from consumer.core.documents import Document
from consumer.core.errors import Problem
from consumer.core.expressions import Kind
from consumer.core.fields import (
    CLOCK,
    DERIVED_FIELDS,
    EPOCHS,
    KNOWN_FIELDS,
    UNITS,
    Field,
    FieldType,
    TimeFormat,
    Zone,
)
from consumer.core.formats import Path
from consumer.core.outcomes import Outcome, Reason
from consumer.core.replies import ReplyRow, ReplyTable, is_row_name
from consumer.core.rules import Metadatum, Rule, RuleBook
from consumer.core.sources import Gate, Missing, Source, Station
from consumer.core.templates import DERIVED, Template, TemplateError
from consumer.rulebook.bundle import Bundle, Location, did_you_mean
from consumer.rulebook.cases import differences_of
from consumer.rulebook.model import (
    AccountModel,
    CaseModel,
    FieldModel,
    MetadatumModel,
    ReplyModel,
    RuleModel,
    RulesModel,
    SkipModel,
    SourceModel,
    StationModel,
)

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
_ALWAYS = ("order_id", "plate", "station_id", "api_store_code", "seconds")
"""Fields that an order can have though its source maps none: from the station table or from others."""

_CEL_WORDS = """
as break const continue else false for function if import in let loop namespace null package return true var void
while math strings bool bytes double duration dyn int list map null_type string timestamp type uint
"""
_RESERVED = frozenset([expressions.PRESENT, *_CEL_WORDS.split()])
"""Names that no field can have."""

_STATION = "station"
_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


@cache
def _preset(name: str) -> tuple[Mapping[str, object], SourceModel] | None:
    file = resources.files("consumer.presets") / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9_-]+", name) or not file.is_file():
        return None
    data = Document(file.read_text("utf-8"), f"preset {name}").data
    assert isinstance(data, dict)
    return data, SourceModel.model_validate(data)


def preset_names() -> list[str]:
    """The presets that a source can extend."""
    files = (file.name for file in resources.files("consumer.presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


class Compilation:
    """A valid model -> a rule book; everything that does not fit together becomes a problem."""

    def __init__(self, model: RulesModel, bundle: Bundle) -> None:
        self._model = model
        self._bundle = bundle
        self._problem = bundle.problem
        self._presets_used: dict[str, object] = {}
        self._without_base: set[str] = set()

    def book(self) -> RuleBook | None:
        """None where there are problems."""
        accounts = {name: self._account(name, account) for name, account in self._model.accounts.items()}
        sources = [self._source(name) for name in self._model.sources]
        self._check_topics(sources)
        stations = [self._station(name, station) for name, station in self._model.stations.items()]
        variables = self._variables(sources)
        self._compiler = expressions.compiler(variables)
        self._variable_names = sorted(variables)
        connectors = self._connectors()
        rules = [self._rule(number, rule, accounts) for number, rule in enumerate(self._model.rules)]
        self._check_rule_names()
        replies = self._replies()
        if self._bundle.problems or replies is None:
            return None
        book = RuleBook(
            hash=self._hash(),
            accounts=accounts,
            sources=sources,
            stations=stations,
            connectors=connectors,
            rules=rules,
            replies=replies,
            compiler=self._compiler,
        )
        self._run_tests(book)
        return book

    def _hash(self) -> str:
        content = json.dumps([self._bundle.data, self._presets_used], ensure_ascii=False, default=str)
        return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:12]

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
        )

    def _check_parameters(self, location: Location, given: Mapping[str, str]) -> None:
        for name in given:
            if name in OWN_PARAMETERS or name.startswith(("metadata.", "metadata[")):
                remedy = "leave it out" if name in ("sign", "app_secret") else "use the key of its own"
                self._problem((*location, name), f"`{name}` is no free parameter", remedy, key=True)

    def _station(self, name: str, model: StationModel) -> Station:
        self._check_parameters(("stations", name, "parameters"), model.parameters)
        zone = self._zone(("stations", name, "zone"), model.zone)
        return Station(name, model.api_store_code, zone, model.name, model.parameters)

    def _connectors(self) -> dict[str, str]:
        """Station by connector."""
        found: dict[str, str] = {}
        for name, model in self._model.stations.items():
            for number, connector in enumerate(model.connectors):
                if found.setdefault(connector, name) != name:
                    message = f"the connector `{connector}` belongs to {found[connector]} too"
                    location = ("stations", name, "connectors", number)
                    self._problem(location, message, "leave it with one station")
        return found

    def _zone(self, location: Location, name: str | None) -> Zone | None:
        if name is None:
            return None
        offset = _OFFSET.fullmatch(name)
        if offset is not None and int(offset[2]) < 24 and int(offset[3]) < 60:
            shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
            return Zone(name, timezone(-shift if offset[1] == "-" else shift))
        try:
            return Zone(name, ZoneInfo(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self._problem(location, f"`{name}` is no time zone", "write it like `Asia/Shanghai` or `+08:00`")
            return None

    # -- sources

    def _source(self, name: str) -> Source:
        location = ("sources", name)
        model = self._extended(name, ())
        zone = self._zone((*location, "zone"), model.zone)
        fields = [self._field(location, field, spec, zone) for field, spec in model.fields.items()]
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
        return Source(
            name=name,
            topics=tuple(model.topics or ()),
            orders=tuple(self._paths((*location, "orders"), model.orders)),
            gates=tuple(
                self._gate((*location, "skip", number), gate) for number, gate in enumerate(model.skip or [])
            ),
            fields=tuple(sorted(fields, key=lambda field: field.type is FieldType.TIMESTAMP)),
            event_id=template,
            zone=zone,
        )

    def _extended(self, name: str, seen: tuple[str, ...]) -> SourceModel:
        """The source with what it extends laid under it."""
        model = self._model.sources[name]
        if model.extends is None:
            return model
        preset = _preset(model.extends)
        if preset is not None:
            data, base = preset
            self._presets_used[model.extends] = data
        elif model.extends in self._model.sources and model.extends not in (*seen, name):
            base = self._extended(model.extends, (*seen, name))
        else:
            known = [*preset_names(), *(other for other in self._model.sources if other != name)]
            message = f"there is no source or preset `{model.extends}`"
            remedy = did_you_mean(model.extends, known)
            if model.extends in self._model.sources:
                message = f"{name} extends itself, through others or at once"
                remedy = "end the circle in a preset"
            self._problem(("sources", name, "extends"), message, remedy)
            self._without_base.add(name)
            return model
        own = {key: getattr(model, key) for key in model.model_fields_set}
        if model.extends in self._without_base:
            self._without_base.add(name)
        # Topics say where events are, not how they are read: they are not inherited.
        return base.model_copy(update={"topics": None, **own, "fields": {**base.fields, **model.fields}})

    def _field(self, source: Location, name: str, model: FieldModel, source_zone: Zone | None) -> Field:
        location = (*source, "fields", name)
        type_ = self._field_type(location, name, model)
        if (model.paths is None) is (model.template is None):
            self._problem(location, f"{name} needs either paths or a template", "give one of them", key=True)
        for key in ("format", "zone"):
            if getattr(model, key) is not None and type_ is not FieldType.TIMESTAMP:
                self._problem((*location, key), f"{name} is no timestamp", "leave this out", key=True)
        if model.multiplier is not None and type_ not in UNITS:
            self._problem((*location, "multiplier"), f"{name} has no unit", "leave this out", key=True)
        from_station = model.zone == _STATION
        zone = None if from_station else self._zone((*location, "zone"), model.zone)
        return Field(
            name=name,
            type=type_,
            paths=tuple(self._paths((*location, "paths"), model.paths)),
            template=self._path_template((*location, "template"), model.template),
            scale=self._scale(location, name, type_, model),
            clock=model.unit == CLOCK,
            formats=tuple(self._formats((*location, "format"), model.format or ["iso"])),
            zone=zone or source_zone,
            station_zone=from_station,
            empty=frozenset(model.empty or ()),
            required=model.required,
        )

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
                self._problem((*location, "unit"), f"{name} has no unit", "leave this out", key=True)
            return Decimal(1)
        if model.unit is None:
            remedy = f"add `unit`, one of {', '.join(units)}"
            self._problem(location, f"{name} needs a unit", remedy, key=True)
        elif model.unit not in units:
            remedy = did_you_mean(model.unit, list(units))
            self._problem((*location, "unit"), f"`{model.unit}` is no unit of {type_}", remedy)
        return units.get(model.unit or "", Decimal(1)) * (model.multiplier or Decimal(1))

    def _formats(self, location: Location, texts: Sequence[str]) -> Iterator[TimeFormat]:
        for text in texts:
            try:
                yield TimeFormat.parse(text)
            except ValueError as error:
                known = ["iso", *EPOCHS, "yyyy-MM-dd HH:mm:ss"]
                self._problem(location, str(error), f"use {', '.join(known)} or another pattern")

    def _gate(self, location: Location, model: SkipModel) -> Gate:
        if (model.values_in is None) is (model.not_in is None):
            self._problem(location, "a gate needs either `in` or `not_in`", "give one of them")
        inverted = model.values_in is None
        return Gate(
            paths=tuple(self._paths((*location, "paths"), model.paths)),
            values=frozenset((model.not_in if inverted else model.values_in) or ()),
            inverted=inverted,
            reason=Reason(model.reason),
            missing=model.missing or (Missing.INVALID if inverted else Missing.KEEP),
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
        list(self._paths(location, template.names))
        return template

    def _template(self, location: Location, text: str, known: Sequence[str] | None) -> Template:
        try:
            template = Template.parse(text)
        except TemplateError as error:
            self._problem(location, str(error), "write {field}, or {{ and }} for the braces themselves")
            return Template.parse("")
        for name in template.names if known is not None else ():
            if name not in (known or ()):
                self._problem(location, f"there is no field `{name}`", did_you_mean(name, known or ()))
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
        self._check_names((*location, "sources"), model.sources, list(self._model.sources), "source")
        self._check_names((*location, "stations"), model.stations, list(self._model.stations), "station")
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
        known: list[str],
        what: str,
    ) -> None:
        keys = isinstance(given, Mapping)
        for number, name in enumerate(given or ()):
            if name not in known:
                remedy = did_you_mean(name, known)
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
            place = self._bundle.place_in_text(location, error.line, error.column)
            unknown = re.search(r"undeclared reference to '(\w+)'", error.message)
            remedy = did_you_mean(unknown[1], self._variable_names) if unknown else "correct the expression"
            caret = "".join(f"\n    {line}" for line in error.caret.splitlines())
            self._bundle.problems.append(Problem(place, f"{location[-1]}: {error.message}", remedy + caret))
            return None

    def _check_rule_names(self) -> None:
        seen: set[str] = set()
        for number, rule in enumerate(self._model.rules):
            if rule.name in seen:
                message = f"a second rule is called `{rule.name}`"
                self._problem(("rules", number, "name"), message, "give each rule a name of its own")
            seen.add(rule.name)

    # -- replies

    def _replies(self) -> ReplyTable | None:
        table = ReplyTable.defaults()
        rows: dict[str, ReplyRow] = {}
        for name, model in self._model.replies.items():
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
        for name, model in self._model.replies.items():
            for key, meanings in (("messages", model.messages), ("hints", model.hints)):
                for text, target in (meanings or {}).items():
                    if target not in known:
                        location = ("replies", name, key, text)
                        self._problem(location, f"there is no row `{target}`", f"add replies.{target}")
        return None if self._bundle.problems else table.with_rows(rows)

    # -- the file's own tests

    def _run_tests(self, book: RuleBook) -> None:
        for number, case in enumerate(self._model.tests):
            location = ("tests", number)
            source = self._case_source(location, case, book)
            if source is None:
                continue
            for wrong in differences_of(book, source, case):
                self._problem(location, f"test `{case.name}`: {wrong}", "correct the rules, or the test")

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
