"""Rules file or folder -> RuleBook, with all its mistakes at once. Reads those files, and does no other I/O.

The models below are the file's shape; `schemas/rules.v1.schema.json` is made of them
(`schema_text`). What they cannot say (names that must exist, expressions, templates,
the file's own tests) is checked while compiling.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from consumer.core import expressions, formats, plates
from consumer.core.coupons import OWN_PARAMETERS, Account, CouponRequest, MetadataFormat, State
from consumer.core.documents import Document, DocumentError
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.events import Coordinates, Order, Record
from consumer.core.expressions import Kind
from consumer.core.formats import FieldType, Missing, Source, Station, TimeFormat, Zone
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.replies import ReplyRow, ReplyTable, Then, is_row_name
from consumer.core.rules import Metadatum, Rule, RuleBook
from consumer.core.templates import DERIVED, Template, TemplateError, text_of

# -- The file's shape -------------------------------------------------------------------------------


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _paths_alone(value: object) -> object:
    return {"paths": value} if isinstance(value, str | list) else value


def _decimal(value: object) -> object:
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


T = TypeVar("T")
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Texts = Annotated[
    list[Text], BeforeValidator(_one_or_many, json_schema_input_type=Text | list[Text]), Field(min_length=1)
]
Scalar = Annotated[str, BeforeValidator(formats.scalar_text, json_schema_input_type=str | int | float | bool)]
Scalars = Annotated[
    list[Scalar],
    BeforeValidator(_one_or_many, json_schema_input_type=Scalar | list[Scalar]),
    Field(min_length=1),
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Parameters = dict[Text, Text]
SkipReason = Literal[
    "policy", "below_threshold", "not_a_charge", "not_finished", "reversal", "delete", "stop_reason"
]


class Model(BaseModel):
    """What all parts of the file have in common: unknown keys are mistakes, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class AccountModel(Model):
    """An identity at the parking platform."""

    app_id: Text
    """As the platform allotted it."""
    secret: Text
    """Name of the secret that signs; the settings hold the secret itself."""
    api_type: Text
    """The kind of coupon, as the platform allotted it."""
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = None
    """Where its requests go, instead of the settings' gateway URL."""
    parameters: Parameters = {}
    """Further fields of each request (merchant, store_code, coupon_code ...), signed like the others."""
    metadata_format: Annotated[MetadataFormat, Field(strict=False)] = MetadataFormat.JSON
    """How `metadata` travels: one JSON text, or one form field for each part."""
    state: Annotated[State, Field(strict=False)] = State.ON
    """`shadow` does everything but the request; `hold` sets the orders aside as dead letters."""


class FieldModel(Model):
    """Where a field stands and how it is read; a path or a list of paths alone is `paths`."""

    paths: Texts | None = None
    """Where the value stands; the first path with a value counts. Missing, null and empty text are no value."""
    template: Text | None = None
    """Instead of paths: text with `{path}` placeholders."""
    type: Annotated[FieldType, Field(strict=False)] | None = None
    """How it is read; fixed for the fields that we know, else `string`."""
    unit: Text | None = None
    """What the source counts in; energies become Wh, money fen, durations seconds. Needed for these."""
    multiplier: (
        Annotated[Decimal, BeforeValidator(_decimal, json_schema_input_type=float), Field(gt=0)] | None
    ) = None
    """The number is this many units."""
    format: Texts | None = None
    """A timestamp's: iso (default), epoch_s, epoch_ms, epoch_min, or patterns like `yyyy-MM-dd HH:mm:ss`."""
    zone: Text | None = None
    """Of timestamps without an offset: `Asia/Shanghai`, `+08:00`, or `station` for the station's own."""
    empty: Scalars | None = None
    """Values that mean "no value"."""
    required: bool = False
    """Without it the order is invalid."""


class SkipModel(Model):
    """A reason for which a row is no finished, real charge."""

    paths: Texts
    """Where the value stands."""
    values_in: Scalars | None = Field(None, alias="in")
    """Skip these values."""
    not_in: Scalars | None = None
    """Skip all other values."""
    reason: SkipReason
    """What its outcome says."""
    missing: Annotated[Missing, Field(strict=False)] | None = None
    """What happens without a value: keep (default of `in`), invalid (default of `not_in`), skip."""
    reverses: Text | None = None
    """Number of the order that a reversal takes back: text with `{path}` placeholders."""


class SourceModel(Model):
    """How the events of some topics are read."""

    extends: Text | None = None
    """A preset (canonical, cec) or another source; `fields` are merged by name, the rest replaced."""
    topics: Annotated[list[Text], Field(min_length=1)] | None = None
    """Left out: any topic that no other source names."""
    orders: Texts | None = None
    """Where the orders stand: a list of them, or one. `$` (default) is the event itself."""
    skip: list[SkipModel] | None = None
    """In order; the first that holds decides."""
    fields: dict[
        FieldName,
        Annotated[
            FieldModel, BeforeValidator(_paths_alone, json_schema_input_type=Text | list[Text] | FieldModel)
        ],
    ] = {}
    """By field name."""
    event_id: Text | None = None
    """What the platform deduplicates by: text with `{field}` placeholders. Default `{order_id}`."""
    zone: Text | None = None
    """Of timestamps without an offset; times are shown in it too."""


class StationModel(Model):
    """A charging station."""

    api_store_code: Text | None = None
    """The parking platform's code of its lot."""
    zone: Text | None = None
    """Its local time, in which times are shown."""
    name: Text | None = None
    """For people."""
    connectors: list[Text] = []
    """Connector numbers by which it is found where events name no station."""
    parameters: Parameters = {}
    """Further fields of the requests for this lot."""


class MetadatumModel(Model):
    """A metadata entry; its value is a CEL expression or a whole number."""

    name: Text
    """Shown beside the value."""
    value: Annotated[int | Text, Field(union_mode="left_to_right")]
    """A 32-bit integer that is not negative."""


class RuleModel(Model):
    """Which orders get which coupon. The first rule that matches decides."""

    name: Name
    """In outcomes and metrics."""
    account: Text | None = None
    """Who asks for the coupon. Needed unless the rule skips."""
    sources: Texts | None = None
    """Only orders read by these."""
    stations: Texts | None = None
    """Only orders of these."""
    equals: dict[Text, Scalars] = {}
    """Only orders whose field is this, or one of these."""
    when: Text | None = None
    """CEL: only orders for which this holds."""
    skip: SkipReason | None = None
    """End the order without a request, for this reason."""
    subject: Text | None = None
    """What the coupon is for: text with `{field}` placeholders. Needed unless the rule skips."""
    metadata: dict[Text, MetadatumModel] = {}
    """What the platform computes the coupon from."""
    api_type: Text | None = None
    """Instead of the account's."""
    api_store_code: Text | None = None
    """For orders whose station has none."""
    parameters: Parameters = {}
    """Further fields of the request."""
    state: Annotated[State, Field(strict=False)] = State.ON
    """As an account's."""


class ReplyModel(Model):
    """A row of the reply table; what it leaves out stays as documented."""

    outcome: (
        Literal[
            "granted",
            "already_granted",
            "not_entered",
            "limited",
            "not_configured",
            "lot_failed",
            "platform_failed",
            "rejected",
            "unknown",
        ]
        | None
    ) = None
    """What the order becomes if this reply is the last word."""
    then: Annotated[Then, Field(strict=False)] | None = None
    """Whether and when to try again."""
    dead_letter: bool | None = None
    """The original goes to the dead-letter topic if this is the last word."""
    messages: dict[Text, Text] | None = None
    """Part of the message -> the code that is really meant."""
    hints: dict[Text, Text] | None = None
    """Part of the hint -> the code that is really meant."""
    deadline_seconds: (
        Annotated[Decimal, BeforeValidator(_decimal, json_schema_input_type=float), Field(gt=0)] | None
    ) = None
    """How long after the end of charging a later try still makes sense."""


class ExpectModel(Model):
    """What becomes of one order: a request, unless `outcome` says otherwise."""

    request: dict[Text, Text] | None = None
    """Fields of the request; those left out may be anything."""
    metadata: dict[Text, int] | None = None
    """All metadata values."""
    rule: Text | None = None
    """The rule that decided."""
    outcome: Literal["unmatched", "skipped", "invalid", "suspect", "shadow"] | None = None
    """How the order ends without a request."""
    reason: Annotated[Reason, Field(strict=False)] | None = None
    """Why it ends so."""
    values: dict[Text, Scalar] | None = None
    """Fields as they were read, as templates show them; those left out may be anything."""
    suspicions: list[Annotated[Reason, Field(strict=False)]] | None = None
    """All doubts about the order."""


class CaseModel(Model):
    """A test of the rules: an event, and what becomes of it. Run whenever the file is loaded."""

    name: Text
    """What it proves."""
    topic: Text | None = None
    """Where the event was found; default: the first topic of the source."""
    source: Text | None = None
    """Who reads it; default: the source of the topic, or the only one."""
    event: Any = None
    """The event, as YAML."""
    raw: Text | None = None
    """Instead: the event's exact text."""
    now: Text | None = None
    """When it is read, RFC 3339; default: the present."""
    expect: Annotated[
        list[ExpectModel],
        BeforeValidator(_one_or_many, json_schema_input_type=ExpectModel | list[ExpectModel]),
        Field(min_length=1),
    ]
    """What becomes of each order."""


class RulesModel(Model):
    """Charging-coupon rules: which charges are read how, and which coupon each of them gets."""

    version: Literal[1]
    """Of this shape."""
    accounts: dict[Name, AccountModel] = {}
    sources: dict[Name, SourceModel] = {}
    stations: dict[Text, StationModel] = {}
    """By the charging platform's station number."""
    rules: list[RuleModel] = []
    """In order: the first that matches decides."""
    replies: dict[Text, ReplyModel] = {}
    """By response code; also `3xx`, `5xx`, no_json, connect, timeout, reset, other."""
    tests: list[CaseModel] = []


def schema_text() -> str:
    """The JSON Schema of a rules file, as `schemas/rules.v1.schema.json` has it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **RulesModel.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# -- Reading ----------------------------------------------------------------------------------------


def load(path: Path) -> RuleBook:
    """The rules of a file, or of all `*.yaml` files of a folder together. Raises ConfigurationError."""
    problems: list[Problem] = []
    documents: list[Document] = []
    for file in _files(path):
        try:
            documents.append(Document(file.read_bytes().decode("utf-8-sig"), str(file)))
        except DocumentError as error:
            problems += error.problems
        except UnicodeDecodeError as error:
            problems.append(Problem(str(file), f"not UTF-8 at byte {error.start}", "save it as UTF-8"))
        except OSError as error:
            problems.append(Problem(str(file), f"cannot be read: {error.strerror}", "check path and rights"))
    if problems:
        raise ConfigurationError(problems)
    return _build(documents)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # Kubernetes keeps a mounted ConfigMap's versions in hidden folders beside the links to them.
    found = sorted(
        file for file in path.iterdir() if file.suffix in (".yaml", ".yml") and not file.name.startswith(".")
    )
    if not found:
        raise ConfigurationError([Problem(str(path), "a folder without rules", "put a *.yaml file into it")])
    return found


def parse(text: str, place: str = "rules.yaml") -> RuleBook:
    """The rules in a text. Raises ConfigurationError."""
    try:
        return _build([Document(text, place)])
    except DocumentError as error:
        raise ConfigurationError(error.problems) from error


def _build(documents: Sequence[Document]) -> RuleBook:
    bundle = _Bundle(documents)
    try:
        model = RulesModel.model_validate(bundle.data)
    except ValidationError as error:
        bundle.problems += [_explained(details, bundle) for details in error.errors(include_url=False)]
        raise ConfigurationError(bundle.problems) from error
    book = _Compilation(model, bundle).book()
    if book is None or bundle.problems:
        raise ConfigurationError(bundle.problems)
    return book


Location = tuple[str | int, ...]


class _Bundle:
    """Several documents as one, and where each part of it came from.

    Attributes:
        data: the sections merged; lists one after the other.
        problems: all that was found, in every stage.

    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.data: dict[str, object] = {}
        self.problems: list[Problem] = []
        self._documents = documents
        self._origins: dict[tuple[str, str | int], tuple[Document, Location]] = {}
        for document in documents:
            self._add(document)

    def _add(self, document: Document) -> None:
        if not isinstance(document.data, dict):
            place = f"{document.place}:1:1"
            self.problems.append(Problem(place, "no rules", "start with `version: 1`"))
            raise ConfigurationError(self.problems)
        for section, content in document.data.items():
            present = self.data.get(section)
            if isinstance(content, dict) and isinstance(present, dict | None):
                merged = present if present is not None else self.data.setdefault(section, {})
                assert isinstance(merged, dict)
                for key, value in content.items():
                    if key in merged:
                        self._twice(document, (section, key))
                    merged[key] = value
                    self._origins[section, key] = (document, (section, key))
            elif isinstance(content, list) and isinstance(present, list | None):
                items = present if present is not None else self.data.setdefault(section, [])
                assert isinstance(items, list)
                for number, value in enumerate(content):
                    self._origins[section, len(items)] = (document, (section, number))
                    items.append(value)
            else:
                self.data[section] = content

    def _twice(self, document: Document, location: Location) -> None:
        line, column = document.key_spot(location)
        other = self._origins[str(location[0]), location[1]][0].place
        self.problems.append(
            Problem(f"{document.place}:{line}:{column}", f"`{location[1]}` stands in {other} too", "keep one")
        )

    def place(self, location: Location, *, key: bool = False) -> str:
        """Where this is: `file:line:column`."""
        document, path = self._find(location)
        line, column = document.key_spot(path) if key else document.spot(path)
        return f"{document.place}:{line}:{column}"

    def place_in_text(self, location: Location, line: int, column: int) -> str:
        """Where a line and column within the text at this location are."""
        document, path = self._find(location)
        line, column = document.text_spot(path, line, column)
        return f"{document.place}:{line}:{column}"

    def _find(self, location: Location) -> tuple[Document, Location]:
        if len(location) > 1 and (str(location[0]), location[1]) in self._origins:
            document, start = self._origins[str(location[0]), location[1]]
            return document, (*start, *location[2:])
        for document in self._documents:
            if location and isinstance(document.data, dict) and location[0] in document.data:
                return document, location
        return self._documents[0], location

    def problem(self, location: Location, message: str, remedy: str, *, key: bool = False) -> None:
        """Add what was found there."""
        self.problems.append(Problem(self.place(location, key=key), message, remedy))


# -- What the models find ---------------------------------------------------------------------------


def _explained(details: ErrorDetails, bundle: _Bundle) -> Problem:
    """One of pydantic's errors, in our words and with its place."""
    location = tuple(part for part in details["loc"] if part != "[key]")
    name = ".".join(map(str, location))
    last = str(location[-1]) if location else ""
    match details["type"]:
        case "extra_forbidden":
            known = _known_keys(location[:-1])
            return Problem(
                bundle.place(location, key=True), f"unknown key `{last}`", did_you_mean(last, known)
            )
        case "missing":
            where = ".".join(map(str, location[:-1])) or "the file"
            return Problem(bundle.place(location[:-1], key=True), f"{where} has no `{last}`", f"add `{last}`")
        case "string_type" if not isinstance(details["input"], dict | list | None):
            remedy = f'put it in quotes: "{_shown(details["input"])}"'
            return Problem(bundle.place(location), f"{name} is no text", remedy)
        case _:
            message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
            given = details["input"]
            shown = f", not {_shown(given)}" if isinstance(given, str | int | Decimal | None) else ""
            return Problem(bundle.place(location), f"{name}: {message}{shown}", "correct it")


def _shown(value: object) -> str:
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    return text or str(value)[:60]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A remedy for a name that does not exist."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(known)}" if known else "there is none to name yet"


def _known_keys(location: Location) -> list[str]:
    """The keys that the model at this location has."""
    annotation: Any = RulesModel
    for part in location:
        model = _model_of(annotation)
        if model is not None:
            by_key = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
            annotation = by_key.get(str(part))
        else:
            annotation = next(reversed(get_args(_without_none(annotation))), None)
    model = _model_of(annotation)
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def _without_none(annotation: Any) -> Any:
    options = [option for option in get_args(annotation) if option is not type(None)]
    if len(options) == 1 and len(get_args(annotation)) == 2 and not isinstance(annotation, type):
        return options[0]
    return annotation


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Annotated[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if hasattr(annotation, "__metadata__"):
        return _model_of(get_args(annotation)[0])
    return None


# -- Compiling --------------------------------------------------------------------------------------

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

_RESERVED = frozenset(
    ("present", "math", "strings")
    + ("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let")
    + ("loop", "namespace", "null", "package", "return", "true", "var", "void", "while")
)
_STATION = "station"
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


class _Compilation:
    """A valid model -> a rule book; everything that does not fit together becomes a problem."""

    def __init__(self, model: RulesModel, bundle: _Bundle) -> None:
        self._model = model
        self._bundle = bundle
        self._problem = bundle.problem
        self._presets_used: dict[str, object] = {}

    def book(self) -> RuleBook | None:
        """None where there are problems."""
        accounts = {name: self._account(name, account) for name, account in self._model.accounts.items()}
        sources = [self._source(name) for name in self._model.sources]
        self._check_topics(sources)
        stations = [self._station(name, station) for name, station in self._model.stations.items()]
        variables = self._variables(sources)
        self._compiler = expressions.compiler(variables)
        self._variable_names = sorted(variables)
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
            connectors=self._connectors(),
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
        return {
            connector: name for name, model in self._model.stations.items() for connector in model.connectors
        }

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
        names = {*model.fields, *_ALWAYS, *formats.DERIVED_FIELDS} - {"event_id", "zone"}
        event_id = model.event_id or "{order_id}"
        if "order_id" not in model.fields and "{order_id}" in event_id:
            self._problem(location, f"{name} has no field `order_id`", "add it, or extend a preset", key=True)
        if "plate" not in model.fields:
            self._problem(location, f"{name} has no field `plate`", "add it, or extend a preset", key=True)
        template = self._template((*location, "event_id"), event_id, sorted(names))
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
            message = f"there is no source or preset `{model.extends}` to extend"
            if model.extends in self._model.sources:
                message = f"`{model.extends}` and `{name}` extend each other"
            self._problem(("sources", name, "extends"), message, did_you_mean(model.extends, known))
            return model
        own = {key: getattr(model, key) for key in model.model_fields_set}
        # Topics say where events are, not how they are read: they are not inherited.
        return base.model_copy(update={"topics": None, **own, "fields": {**base.fields, **model.fields}})

    def _field(
        self, source: Location, name: str, model: FieldModel, source_zone: Zone | None
    ) -> formats.Field:
        location = (*source, "fields", name)
        type_ = self._field_type(location, name, model)
        if (model.paths is None) is (model.template is None):
            self._problem(location, f"{name} needs either paths or a template", "give one of them", key=True)
        for key, fitting in (
            ("format", type_ is FieldType.TIMESTAMP),
            ("zone", type_ is FieldType.TIMESTAMP),
        ):
            if getattr(model, key) is not None and not fitting:
                self._problem((*location, key), f"{name} is no timestamp", "leave this out", key=True)
        if model.multiplier is not None and type_ not in formats.UNITS:
            self._problem((*location, "multiplier"), f"{name} has no unit", "leave this out", key=True)
        from_station = model.zone == _STATION
        zone = None if from_station else self._zone((*location, "zone"), model.zone)
        return formats.Field(
            name=name,
            type=type_,
            paths=tuple(self._paths((*location, "paths"), model.paths)),
            template=self._path_template((*location, "template"), model.template),
            scale=self._scale(location, name, type_, model),
            clock=model.unit == formats.CLOCK,
            formats=tuple(self._formats((*location, "format"), model.format or ["iso"])),
            zone=zone or source_zone,
            station_zone=from_station,
            empty=frozenset(model.empty or ()),
            required=model.required,
        )

    def _field_type(self, location: Location, name: str, model: FieldModel) -> FieldType:
        known = formats.KNOWN_FIELDS.get(name)
        if name in formats.DERIVED_FIELDS or name in DERIVED or name in _RESERVED:
            self._problem(location, f"the name `{name}` is taken", "give the field another name", key=True)
        if known is not None and model.type not in (None, known):
            self._problem((*location, "type"), f"{name} is always `{known}`", "leave `type` out")
        return known or model.type or FieldType.STRING

    def _scale(self, location: Location, name: str, type_: FieldType, model: FieldModel) -> Decimal:
        units = formats.UNITS.get(type_)
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
                known = ["iso", *formats.EPOCHS, "yyyy-MM-dd HH:mm:ss"]
                self._problem(location, str(error), f"use {', '.join(known)} or another pattern")

    def _gate(self, location: Location, model: SkipModel) -> formats.Gate:
        if (model.values_in is None) is (model.not_in is None):
            self._problem(location, "a gate needs either `in` or `not_in`", "give one of them")
        inverted = model.values_in is None
        return formats.Gate(
            paths=tuple(self._paths((*location, "paths"), model.paths)),
            values=frozenset((model.not_in if inverted else model.values_in) or ()),
            inverted=inverted,
            reason=Reason(model.reason),
            missing=model.missing or (Missing.INVALID if inverted else Missing.KEEP),
            reverses=self._path_template((*location, "reverses"), model.reverses),
        )

    def _paths(self, location: Location, texts: Sequence[str] | None) -> Iterator[formats.Path]:
        for number, text in enumerate(texts or ()):
            try:
                yield formats.Path.parse(text)
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
        known = {**{name: formats.KNOWN_FIELDS[name] for name in _ALWAYS}, **formats.DERIVED_FIELDS}
        variables = {name: _KINDS[type_] for name, type_ in known.items()}
        for source in sources:
            for field in source.fields:
                kind = _KINDS[field.type]
                if variables.setdefault(field.name, kind) is not kind:
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
            metadata=tuple(
                self._metadatum((*location, "metadata", key), key, datum)
                for key, datum in model.metadata.items()
            ),
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

    def _metadatum(self, location: Location, key: str, model: MetadatumModel) -> Metadatum:
        if isinstance(model.value, int):
            if not 0 <= model.value < 2**31:
                self._problem((*location, "value"), f"{model.value} does not fit", "use 0 to 2147483647")
            return Metadatum(key, model.name, model.value)
        value = self._expression((*location, "value"), model.value, Kind.INT)
        return Metadatum(key, model.name, value if value is not None else 0)

    def _expression(
        self, location: Location, source: str | None, result: Kind
    ) -> expressions.Expression | None:
        if source is None:
            return None
        try:
            return self._compiler.compile(source, result)
        except expressions.ExpressionError as error:
            place = self._bundle.place_in_text(location, error.line, error.column)
            caret = f"\n{error.caret}\n" if error.caret else ""
            unknown = re.search(r"undeclared reference to '(\w+)'", error.message)
            remedy = did_you_mean(unknown[1], self._variable_names) if unknown else "correct the expression"
            self._bundle.problems.append(Problem(place, f"{location[-1]}: {error.message}{caret}", remedy))
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
            for wrong in _run_case(book, source, case):
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


# -- Running a test of the file ---------------------------------------------------------------------


def _run_case(book: RuleBook, source: Source, case: CaseModel) -> Iterator[str]:
    """What is not as the test expects it."""
    now = datetime.fromisoformat(case.now) if case.now else datetime.now(UTC)
    value = case.raw.encode() if case.raw is not None else event_bytes(case.event)
    topic = case.topic or next(iter(source.topics), "events")
    record = Record(Coordinates(topic, 0, 0), int(now.timestamp() * 1000), None, value)
    items = book.read_as(source, record, now)
    if len(items) != len(case.expect):
        yield f"{len(items)} orders, where {len(case.expect)} are expected"
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
            yield f"{name} is {_shown(actual)}, where {_shown(wanted)} is expected"


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
