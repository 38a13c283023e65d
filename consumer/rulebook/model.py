"""The shape of a rules file: what can stand where. Performs no I/O.

`schemas/rules.v1.schema.json` is made of these models (`schema_text`). Unknown keys are
mistakes, and nothing is converted.
"""

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)

from consumer import schemas
from consumer.core.coupons import MetadataFormat, State
from consumer.core.fields import FieldType
from consumer.core.formats import scalar_text
from consumer.core.outcomes import Reason
from consumer.core.replies import Then
from consumer.core.sources import Missing


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _paths_alone(value: object) -> object:
    return {"paths": value} if isinstance(value, str | list) else value


def _decimal(value: object) -> object:
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _scalar(value: object) -> str:
    text = scalar_text(value)
    if text is None:
        raise ValueError("a text, number or truth value is needed")
    return text


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_SPAN = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?(s|m|h|d)")
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _span(value: object) -> Decimal:
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a time span is needed, such as 90s, 30m, 24h or 7d")
    return Decimal(match[1]) * _SPAN_SECONDS[match[2]]


def _span_or_off(value: object) -> Decimal | None:
    return None if value == "off" else _span(value)


def _step_alone(value: object) -> object:
    return {value: True} if isinstance(value, str) else value


def _instant(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time with its offset is needed, such as 2026-01-31T08:00:00+08:00")
    return text


NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
FIELD_NAME = r"^[a-z][a-z0-9_]{0,63}$"
URL = r"^https?://[^\s/]\S*$"

Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Texts = Annotated[
    list[Text],
    BeforeValidator(_one_or_many, json_schema_input_type=Text | list[Text]),
    Field(min_length=1),
]
Scalar = Annotated[str, BeforeValidator(_scalar, json_schema_input_type=str | int | float | bool)]
Scalars = Annotated[
    list[Scalar],
    BeforeValidator(_one_or_many, json_schema_input_type=Scalar | list[Scalar]),
    Field(min_length=1),
]
Name = Annotated[str, StringConstraints(pattern=NAME)]
FieldName = Annotated[str, StringConstraints(pattern=FIELD_NAME)]
Parameters = dict[Text, Text]
Span = Annotated[Decimal, BeforeValidator(_span, json_schema_input_type=str)]
Deadline = Annotated[Decimal | None, BeforeValidator(_span_or_off, json_schema_input_type=str)]
SkipReason = Literal[
    "policy", "below_threshold", "not_a_charge", "not_finished", "reversal", "delete", "stop_reason"
]


class Model(BaseModel):
    """What all parts of the file have in common: unknown keys are mistakes, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


TO_FILL_IN = "FILL-IN-"
"""What a draft's placeholders begin with, where only the parking platform knows what to write."""

TO_CONFIRM = "confirm:"
"""What the comments above a draft's guesses begin with."""


class AccountModel(Model):
    """An identity at the parking platform."""

    app_id: Text
    """As the platform allotted it."""
    secret: Text
    """Name of the secret that signs; the settings hold the secret itself."""
    api_type: Text
    """The kind of coupon, as the platform allotted it."""
    url: Annotated[str, StringConstraints(pattern=URL)] | None = None
    """Where its requests go, instead of the settings' gateway URL."""
    parameters: Parameters = {}
    """Further fields of each request (merchant, store_code, coupon_code ...), signed like the others."""
    metadata_format: Annotated[MetadataFormat, Field(strict=False)] = MetadataFormat.JSON
    """How `metadata` travels: one JSON text, or one form field for each part. `charging-coupon probe` finds out which."""
    state: Annotated[State, Field(strict=False)] = State.ON
    """`shadow` does everything but the request; on `hold` the orders wait in the retry topics until it is released."""
    rate: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False, strict=False)] | None = None
    """Requests a second for this account, all members of the group together. Default: no bound of its own."""
    max_in_flight: Annotated[int, Field(gt=0, le=100_000)] | None = None
    """Requests under way at once for this account, all members together. Default: no bound of its own."""
    timestamp: bool = False
    """Whether each request carries `timestamp`, the Unix time at which it is sent in milliseconds, signed like the other fields. The platform knows it and does not ask for it."""


class FieldModel(Model):
    """Where a field stands and how it is read; a path or a list of paths alone is `paths`."""

    paths: Texts | None = None
    """Where the value stands; the first path with a value counts. Missing, null and empty text are no value. Text on the way is JSON."""
    template: Text | None = None
    """Instead of paths: text with `{path}` placeholders."""
    computed: Text | None = None
    """What it is where the event has no value, from other fields: `ended_at - charging_seconds`."""
    minus: Texts | None = None
    """Where the number stands that is subtracted from it, such as a meter's reading at the start."""
    sum: Literal[True] | None = None
    """The numbers at all places that the first path with any leads to, together: `details[*].energy`."""
    value: Texts | None = None
    """Where `paths` (and `minus`) lead to objects: where the number stands in there."""
    unit_from: Texts | None = None
    """Where in there its unit stands, such as `Wh` or `KWH`; `unit` is that of those without one. Without `value` it is in the order, and has to be; `unit` is not needed then."""
    units: dict[Text, Text] = {}
    """What the texts at `unit_from`, or behind the numbers of `in_text`, mean where they are no units: `{1: kWh, 2: Wh}`, `{Minuten: min}`."""
    exponent_from: Texts | None = None
    """Where in there the power of ten stands by which it is multiplied (OCPP's `multiplier`)."""
    decimals_from: Texts | None = None
    """Where in there stands how many decimal places it has: `{amount: 1250, scale: 2}` is 12.50."""
    rolls_over_at: (
        Annotated[Decimal, BeforeValidator(_decimal, json_schema_input_type=float), Field(gt=0)] | None
    ) = None
    """With `minus`: the reading at which the meter begins at 0 again, in `unit`. A reading that is less than the one at the start has passed it once."""
    type: Annotated[FieldType, Field(strict=False)] | None = None
    """How it is read; fixed for the fields that we know, else `string`. A `bool` is `true` or 1, also as text, yes, y, t, on or 是, or the opposite of one of these."""
    unit: Text | None = None
    """What the source counts in; energies become Wh, money fen, durations seconds. Needed for these. `in_text` where the unit stands behind each number, as in `18.6 kWh`, `￥4.20`, `1小时30分`; `HH:MM:SS`, `HH:MM`, `MM:SS` and `iso` (`PT1H30M`) for durations that are written so."""
    multiplier: (
        Annotated[Decimal, BeforeValidator(_decimal, json_schema_input_type=float), Field(gt=0)] | None
    ) = None
    """The number is this many units."""
    decimal: Literal[".", ","] | None = None
    """What stands before a number's fraction in text; default `.`, and `4,00` is a mistake then."""
    thousands: Literal[",", ".", "'", " "] | None = None
    """What stands between groups of three digits in text, where anything does: `1,234.50`; with `,` also `1,23,456.50`."""
    after: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """In text at `paths`, the value is what comes after this: `plate=`. Where it is not in there, there is no value."""
    before: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """What ends the value in text at `paths`: `&`. Where it is not in there, the text does."""
    split: Annotated[str, StringConstraints(min_length=1, max_length=10)] | None = None
    """Text at `paths` consists of parts with this between them, of which `part` is the value: `粤BD12345_绿`."""
    part: Annotated[int, Field(ge=-100, le=100)] | None = None
    """Which part, from 0; -1 is the last. Where there are not so many, there is no value."""
    encoding: Literal["hex", "base64", "url", "unicode", "html"] | None = None
    """What a text is encoded in: hexadecimal, such as a VIN that came as bytes, base64, `url` as in `%E7%B2%A4B`, `unicode` as in `\\u7ca4B` that was escaped twice, or `html` as in `&#31908;B`."""
    charset: Text | None = None
    """Of the bytes that `encoding` gives, where it is not UTF-8."""
    connect_scale: Annotated[int, Field(ge=0, le=40)] | None = None
    """The value is a Kafka Connect decimal without its schema: base64 of bytes with so many decimal places."""
    format: Texts | None = None
    """A timestamp's: iso (default; also `20260301T113000Z` and `2026-W09-7T11:30`), epoch_s (also `{seconds: ..., nanos: ...}`), epoch_ms, epoch_us, epoch_ns, epoch_min, epoch_d (days), ticks (.NET's, since the year 1) and filetime (Windows', since 1601), the same with `_local` for clocks that took local time for UTC, excel (days by the clock, as spreadsheets count them), array (`[2026, 6, 3, 9, 0]`), cp56time2a (seven bytes in hexadecimal, of charging piles), dotnet (`/Date(1772335800000)/`), or patterns like `yyyy-MM-dd HH:mm:ss`, in which `a` is am, pm, 上午, 下午, 晚上 ..., `MMM` a month's English name, or 三月, `EEE` a weekday, `Z` an offset, `z` UTC or GMT+8, `VV` a zone's name, and text stands in quotes: `EEE MMM dd HH:mm:ss 'CST' yyyy`."""
    zone: Text | None = None
    """Of timestamps without an offset: `Asia/Shanghai`, `+08:00`, or `station` for the station's own."""
    zone_from: Texts | None = None
    """Where in the order the zone of timestamps without an offset stands: `Asia/Shanghai`, `GMT+8`, `+08:00`, or a number of hours, minutes, seconds or milliseconds east of UTC: which of them, its size tells. Where nothing stands there, `zone` counts."""
    precision: Literal["s", "min"] | None = None
    """A timestamp's: with `min` its seconds are noise and cut off."""
    not_before: FieldName | None = None
    """A timestamp that would lie before this field is of the next day: for an end that is a time of day."""
    not_after: FieldName | None = None
    """A timestamp that would lie after this field is of the day before."""
    empty: Scalars | None = None
    """Values that mean "no value"."""
    default: Scalar | None = None
    """The value where the event has none, written as the event would: `0` for a discount that is left out. Not for what names an order or a car, nor for times."""
    required: bool = False
    """Without it the order is invalid, even if it has no plate."""


class SkipModel(Model):
    """A gate: one value of a row, and those for which the row is no finished, real charge."""

    paths: Texts
    """Where the value stands; the first path with a value counts."""
    values_in: Scalars | None = Field(None, alias="in")
    """Skip these values."""
    not_in: Scalars | None = None
    """Skip all other values."""
    present: Literal[True] | None = None
    """Instead: skip whatever has anything there, also an object or a list."""
    reason: SkipReason
    """What its outcome says."""
    missing: Annotated[Missing, Field(strict=False)] | None = None
    """What happens without a value, as where a path is wrong: keep, which lets the row pass (default of `in` and `present`), invalid (default of `not_in`), skip (which can stand without `in` and `not_in`)."""
    reverses: Text | None = None
    """Number of the order that a reversal takes back: text with `{path}` placeholders."""

    @property
    def without_a_value(self) -> Missing:
        """`missing`, or its default: a gate that lists what may pass does not let through what it cannot see."""
        return self.missing or (Missing.KEEP if self.not_in is None else Missing.INVALID)


class StepModel(Model):
    """A wrapping that is taken off before an event is read: one key."""

    skip_bytes: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """So many bytes before the text."""
    schema_registry: Literal[True] | None = None
    """A schema registry's frame before JSON, where there is one: a zero byte and four of an id."""
    gzip: Literal[True] | None = None
    """The bytes are gzip or zlib, where they begin like it. What `base64` gives is unpacked without being asked."""
    lines: Literal[True] | None = None
    """Each line is a text of JSON; the event is the list of these."""
    charset: Text | None = None
    """Of the text, where it is not UTF-8."""
    unwrap: Texts | None = None
    """The event is what stands there; text there is JSON again, as are bytes that became a list of numbers. With `records[*].value` it is the list of all of them."""
    base64: Texts | None = None
    """The event stands there as base64 of JSON; `$`, first of the steps, is the whole value also where it is base64 and no JSON."""
    form: Texts | None = None
    """The event is the fields of the form that stands there as text, `order=A1&plate=%E7%B2%A4B12345`; `$`, first of the steps, is the whole value."""
    cloudevents: Literal[True] | None = None
    """A structured CloudEvent, or a batch; those in binary mode pass as they are."""
    connect: Literal[True] | None = None
    """Kafka Connect's `schema` and `payload`; its decimals become numbers."""


Doubt = Literal["set_aside", "send"]


class PlausibilityModel(Model):
    """What cannot be: `set_aside` (suspect, with a dead letter) or `send` (with the suspicion in its outcome)."""

    end_before_start: Doubt | None = None
    """Default `set_aside`."""
    in_future: Doubt | None = None
    """It ends later than now and `future_tolerance`. Default `set_aside`."""
    before_2000: Doubt | None = None
    """Default `set_aside`."""
    too_much_energy: Doubt | None = None
    """More than `max_kw` for as long as it lasted, and a minute. Default `set_aside`."""
    durations_disagree: Doubt | None = None
    """It charged for longer than from start to end, and `duration_tolerance`. Default `send`."""
    plate_doubtful: Doubt | None = None
    """The plate looks like none. Default `send`."""
    future_tolerance: Span | None = None
    """Default 10m."""
    max_kw: (
        Annotated[Decimal, BeforeValidator(_decimal, json_schema_input_type=float), Field(gt=0, le=100_000)]
        | None
    ) = None
    """More than any charger gives. Default 1000."""
    duration_tolerance: Span | None = None
    """Default 60s."""


FieldModels = dict[
    FieldName,
    Annotated[
        FieldModel, BeforeValidator(_paths_alone, json_schema_input_type=Text | list[Text] | FieldModel)
    ],
]


class OverrideModel(Model):
    """What is read in another way at some stations."""

    stations: Texts
    """Names of `stations`."""
    zone: Text | None = None
    """Of timestamps without an offset."""
    fields: FieldModels = {}
    """By field name; a field that names no place keeps its place and changes only what it says."""


class SourceModel(Model):
    """How the events of some topics are read."""

    extends: Texts | None = None
    """Presets or other sources, the later ones first to be heard; `fields` and `skip` are merged, the rest replaced."""
    topics: Texts | None = None
    """Left out: any topic that no other source names."""
    envelope: (
        list[
            Annotated[
                StepModel,
                BeforeValidator(
                    _step_alone,
                    json_schema_input_type=Literal[
                        "schema_registry", "gzip", "lines", "cloudevents", "connect"
                    ]
                    | StepModel,
                ),
            ]
        ]
        | None
    ) = None
    """What is taken off first, the outermost first; what `extends` takes off comes after that."""
    orders: Texts | None = None
    """Where the orders stand: a list of them, or one; text there is JSON again. `$` (default) is the event itself. With `stations[*].orders` they are those of all lists, and `$above.id` is of the station that a list stands in; with `orders.*` all that stands in an object, and `$above.key` is the name that it has there. Where each order is a list itself, its fields are `[0]`, `[1]` ..."""
    skip: list[SkipModel] | None = None
    """Gates, in order; the first that holds ends the row before any rule is asked. Those of `extends` come first, but for those over the same first path."""
    fields: FieldModels = {}
    """By field name; a field that names no place keeps that of `extends` and changes only what it says."""
    event_id: Text | None = None
    """What the platform deduplicates by: text with `{field}` placeholders. Default `{order_id}`."""
    zone: Text | None = None
    """Of timestamps without an offset; times are shown in it too. `station` for the station's own."""
    plausibility: PlausibilityModel | None = None
    """What becomes of orders that cannot be; merged with that of `extends` key by key."""
    deadline: Deadline = None
    """Instead of the file's."""
    overrides: list[OverrideModel] = []
    """Stations whose events are read in another way."""


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
    value: Annotated[Text, BeforeValidator(_number_as_text, json_schema_input_type=Text | int)]
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
    """What becomes of one order: a request, unless `outcome` says otherwise.

    Nobody looks at `state`, unless `outcome: shadow` or `reason: hold` is expected.
    """

    request: dict[Text, Text] | None = None
    """Fields of the request; those left out may be anything."""
    metadata: dict[Text, int] | None = None
    """All metadata values."""
    rule: Text | None = None
    """The rule that decided."""
    outcome: Literal["unmatched", "skipped", "invalid", "suspect", "expired", "shadow"] | None = None
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
    now: Annotated[Text, AfterValidator(_instant)] | None = None
    """When it is read, RFC 3339; default: just after the charge, whenever that was."""
    expect: Annotated[
        list[ExpectModel],
        BeforeValidator(_one_or_many, json_schema_input_type=ExpectModel | list[ExpectModel]),
        Field(min_length=1),
    ]
    """What becomes of each order."""


_STATION_FILES: dict[str, JsonValue] = {
    "properties": {
        "file": {
            "description": "CSV files, UTF-8, seen from this file, with a header of `id`, `api_store_code`, `zone`, `name`, `connectors` (separated by spaces), and further fields of the requests as `param.NAME`.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        }
    }
}
"""Taken out before the rest is looked at; a station's number cannot be `file`."""


class RulesModel(Model):
    """Charging-coupon rules: which charges are read how, and which coupon each of them gets."""

    version: Literal[1]
    """Of this shape."""
    deadline: Deadline = Decimal(86400)
    """How long after the end of charging (or the record's timestamp, if that is earlier) a coupon still makes sense; later orders are `expired`. `off` for ever, default 24h."""
    accounts: dict[Name, AccountModel] = {}
    sources: dict[Name, SourceModel] = {}
    stations: Annotated[dict[Text, StationModel], Field(json_schema_extra=_STATION_FILES)] = {}
    """By the charging platform's station number."""
    rules: list[RuleModel] = []
    """In order: the first that matches decides."""
    replies: dict[Text, ReplyModel] = {}
    """By response code; also `3xx`, `5xx`, no_json, connect, timeout, reset, other."""
    tests: list[CaseModel] = []


def schema_text() -> str:
    """The JSON Schema of a rules file, as `schemas/rules.v1.schema.json` has it."""
    return schemas.text_of(RulesModel.model_json_schema(ref_template="#/$defs/{model}"), "rules.v1")


def known_keys(location: tuple[str | int, ...]) -> list[str]:
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
    annotation = _without_none(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if hasattr(annotation, "__metadata__"):
        return _model_of(get_args(annotation)[0])
    return None
