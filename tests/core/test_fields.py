"""Values of an event -> values of an order, in base units."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.core.events import Value
from consumer.core.fields import (
    CLOCK,
    EPOCHS,
    UNITS,
    WRITTEN_DURATIONS,
    Field,
    FieldType,
    TimeFormat,
    UnreadableError,
    Zone,
    placed,
    readers_of,
    take,
)
from consumer.core.formats import Event, Path
from consumer.core.outcomes import Reason

SHANGHAI = Zone("Asia/Shanghai", ZoneInfo("Asia/Shanghai"))
TOKYO = ZoneInfo("Asia/Tokyo")


def read(raw: object, type_: FieldType, unit: str = "", multiplier: str = "1") -> Value:
    scale = UNITS[type_][unit] * Decimal(multiplier) if type_ in UNITS else Decimal(1)
    field = Field("f", type_, scale=scale, written=unit if unit in WRITTEN_DURATIONS else "")
    return field.read(raw, None)


def refused(raw: object, type_: FieldType, unit: str = "") -> Reason:
    with pytest.raises(UnreadableError) as caught:
        read(raw, type_, unit)
    return caught.value.reason


@pytest.mark.parametrize(
    ("raw", "unit", "wh"),
    [
        (Decimal("18.6"), "kWh", 18600),
        ("27.305", "kWh", 27305),
        (7350, "Wh", 7350),
        (186, "0.1kWh", 18600),
        (1860, "0.01kWh", 18600),
        (7100, "0.001kWh", 7100),
        (324567, "0.0001kWh", 32457),
        (Decimal("-6.4"), "kWh", -6400),
        (0, "kWh", 0),
        ("３０.０", "kWh", 30000),
        ("1.5e1", "kWh", 15000),
        (" 12.341 ", "kWh", 12341),
        (Decimal("0.0005"), "kWh", 0),
        (Decimal("0.0015"), "kWh", 2),
        (Decimal("0E+99999"), "kWh", 0),
    ],
)
def test_energy_is_exact_and_halves_round_to_even(raw: object, unit: str, wh: int) -> None:
    assert read(raw, FieldType.ENERGY, unit) == wh


@pytest.mark.parametrize("yuan", ["19.99", "8.20", "17.08", "4.35", "0.29", "1.13", "2.30"])
def test_money_is_never_one_fen_low(yuan: str) -> None:
    assert read(Decimal(yuan), FieldType.MONEY, "yuan") == int(yuan.replace(".", ""))
    assert read(yuan, FieldType.MONEY, "yuan") == int(yuan.replace(".", ""))


def test_a_multiplier_scales_the_unit() -> None:
    assert read("31.5", FieldType.ENERGY, "Wh", multiplier="1000") == 31500


@pytest.mark.parametrize(
    ("raw", "unit", "seconds"),
    [
        (Decimal("1.973"), "h", 7102),
        (45, "min", 2700),
        (5_339_999, "ms", 5339),
        (Decimal("1799.999"), "s", 1799),
        ("03:10:31", CLOCK, 11431),
        ("100:00:00", CLOCK, 360000),
        ("00:00:59.9", CLOCK, 59),
    ],
)
def test_durations_are_cut_to_whole_seconds(raw: object, unit: str, seconds: int) -> None:
    assert read(raw, FieldType.DURATION, unit) == seconds


@pytest.mark.parametrize(
    "raw", ["4,00", "1,234.5", "abc", "1_000", "0x10", "1e", "--1", "nan", {}, [1], True]
)
def test_what_is_no_number_is_never_guessed(raw: object) -> None:
    assert refused(raw, FieldType.MONEY, "yuan") is Reason.SCHEMA


@pytest.mark.parametrize(
    "raw", [Decimal("1E+1000000"), Decimal("1E-1000000"), "1e9999", 10**60, "9" * 50, 10**30]
)
def test_numbers_beyond_all_charges_overflow_at_once(raw: object) -> None:
    assert refused(raw, FieldType.ENERGY, "kWh") is Reason.OVERFLOW


@pytest.mark.parametrize("raw", ["25:61:00", "1:2:3", "90", 90, "-01:00:00"])
def test_what_is_no_clock_is_refused(raw: object) -> None:
    assert refused(raw, FieldType.DURATION, CLOCK) is Reason.SCHEMA


def test_plain_types_are_read_as_what_they_are() -> None:
    assert read(5, FieldType.STRING) == "5"
    assert read(True, FieldType.STRING) == "true"
    assert read("7", FieldType.INT) == 7
    assert read(Decimal("7.0"), FieldType.INT) == 7
    assert refused(Decimal("7.5"), FieldType.INT) is Reason.SCHEMA
    assert read("true", FieldType.BOOL) is True
    assert read(0, FieldType.BOOL) is False
    assert read("yes", FieldType.BOOL) is True
    assert refused("paid", FieldType.BOOL) is Reason.SCHEMA
    assert read("1.50", FieldType.DECIMAL) == Decimal("1.50")
    assert refused({"a": 1}, FieldType.STRING) is Reason.SCHEMA
    assert refused("x" * 1001, FieldType.STRING) is Reason.SCHEMA


def moment(raw: object, *formats: str, zone: Zone | None = None) -> datetime:
    field = Field("f", FieldType.TIMESTAMP, formats=tuple(map(TimeFormat.parse, formats)), zone=zone)
    value = field.read(raw, None)
    assert isinstance(value, datetime)
    assert value.tzinfo is not None
    return value


@pytest.mark.parametrize(
    ("raw", "written", "utc"),
    [
        ("2026-06-29T21:39:09Z", "iso", "2026-06-29T21:39:09"),
        ("2026-06-29T21:39:09z", "iso", "2026-06-29T21:39:09"),
        ("2026-07-08T04:17:06.000+05:00", "iso", "2026-07-07T23:17:06"),
        ("2026-07-08 04:17:06 +0500", "iso", "2026-07-07T23:17:06"),
        ("2026-08-08T21:40:12.345678901+02:00", "iso", "2026-08-08T19:40:12.345678"),
        ("2026-06-03 09:00:00", "iso", "2026-06-03T01:00:00"),
        ("2026-06-03 09:00:00", "yyyy-MM-dd HH:mm:ss", "2026-06-03T01:00:00"),
        ("2026/3/8 9:05:00", "yyyy/MM/dd HH:mm:ss", "2026-03-08T01:05:00"),
        ("20260503104500", "yyyyMMddHHmmss", "2026-05-03T02:45:00"),
        ("２０２６-06-03 09:00:00", "yyyy-MM-dd HH:mm:ss", "2026-06-03T01:00:00"),
        ("2026-06-03T09:00:00.250", "yyyy-MM-ddTHH:mm:ss.SSS", "2026-06-03T01:00:00.250000"),
        (1777678800, "epoch_s", "2026-05-01T23:40:00"),
        ("1777678800035", "epoch_ms", "2026-05-01T23:40:00.035000"),
        (29673600, "epoch_min", "2026-06-02T16:00:00"),
        (Decimal("1777678800.035"), "epoch_s", "2026-05-01T23:40:00.035000"),
        (1777678800035000, "epoch_us", "2026-05-01T23:40:00.035000"),
        ("1777678800035000000", "epoch_ns", "2026-05-01T23:40:00.035000"),
        (1777707600000, "epoch_ms_local", "2026-05-01T23:40:00"),
        ("2026-06-03T09:00:00+08:00[Asia/Shanghai]", "iso", "2026-06-03T01:00:00"),
        ("2026-06-03T24:00", "iso", "2026-06-03T16:00:00"),
        ("2028-02-29T23:59:59,5Z", "iso", "2028-02-29T23:59:59.500000"),
        ("2026-06-03T09:00:00-0330", "iso", "2026-06-03T12:30:00"),
        (20260503104500, "yyyyMMddHHmmss", "2026-05-03T02:45:00"),
        ("3/8/26 9:05 PM", "M/d/yy h:mm a", "2026-03-08T13:05:00"),
        ("2026-03-08 下午09:05", "yyyy-MM-dd ahh:mm", "2026-03-08T13:05:00"),
        ("08 Mar 2026 12:05:00 am", "dd MMM yyyy hh:mm:ss a", "2026-03-07T16:05:00"),
        ("2026-06-03T09:00:00+0500", "yyyy-MM-dd'T'HH:mm:ssXXX", "2026-06-03T04:00:00"),
        ("2026年6月3日 09:00", "yyyy年M月d日 HH:mm", "2026-06-03T01:00:00"),
        ("2026-W23-3T09:00:00Z", "iso", "2026-06-03T09:00:00"),
        ("2026W233T0900", "iso", "2026-06-03T01:00:00"),
        ("20260603T090000.5+0800", "iso", "2026-06-03T01:00:00.500000"),
        ("20260603T0900Z", "iso", "2026-06-03T09:00:00"),
        ("2026-154T09:00:00Z", "iso", "2026-06-03T09:00:00"),
        (20607, "epoch_d", "2026-06-03T00:00:00"),
        (20607, "epoch_d_local", "2026-06-02T16:00:00"),
    ],
)
def test_times_are_read_in_their_format_and_zone(raw: object, written: str, utc: str) -> None:
    assert moment(raw, written, zone=SHANGHAI) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


def test_the_first_format_that_fits_is_taken() -> None:
    found = moment("2026/03/08 09:05:00", "yyyy-MM-dd HH:mm:ss", "yyyy/MM/dd HH:mm:ss", zone=SHANGHAI)

    assert found == datetime(2026, 3, 8, 1, 5, tzinfo=UTC)


def test_a_time_keeps_its_own_offset_whatever_zone_is_configured() -> None:
    assert moment("2026-03-08T09:00:00+05:00", "iso", zone=SHANGHAI).utcoffset() == timedelta(hours=5)


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("2026-02-30 09:00:00", "yyyy-MM-dd HH:mm:ss"),
        ("2026-06-03", "iso"),
        ("2026-W54-3T09:00:00Z", "iso"),
        ("2026-W23-8T09:00:00Z", "iso"),
        ("2026-366T09:00:00Z", "iso"),
        ("2026-000T09:00:00Z", "iso"),
        ("20261303T090000Z", "iso"),
        ("20260603090000", "iso"),
        ("2026-06-03T25:00:00Z", "iso"),
        ("2026113104500", "yyyyMMddHHmmss"),
        ("soon", "epoch_s"),
        ("2026-06-03T24:00:01Z", "iso"),
        ("2027-02-29T09:00:00Z", "iso"),
        ("3/8/26 13:05 PM", "M/d/yy h:mm a"),
        ("2026-06-03T09:00:00Zulu", "iso"),
        (10**14, "epoch_s"),
        (1777678800, "iso"),
        (True, "epoch_s"),
        ([], "iso"),
    ],
)
def test_what_is_no_time_is_refused(raw: object, written: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        moment(raw, written, zone=SHANGHAI)

    assert caught.value.reason in (Reason.SCHEMA, Reason.OVERFLOW, Reason.NOT_FINISHED)


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("0001-01-01T00:00:00Z", "iso"),
        ("0001-01-01 00:00:00", "yyyy-MM-dd HH:mm:ss"),
        ("0000-00-00 00:00:00", "yyyy-MM-dd HH:mm:ss"),
        ("9999-12-31T23:59:59-12:00", "iso"),
        (-62135596800000, "epoch_ms"),
        (0, "epoch_ms"),
        ("0", "epoch_s"),
    ],
)
def test_a_time_that_means_none_is_told_from_one_that_cannot_be_read(raw: object, written: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        moment(raw, written, zone=SHANGHAI)

    assert caught.value.reason is Reason.NOT_FINISHED


def test_a_clock_that_was_never_set_is_a_time() -> None:
    assert moment("1970-01-01T00:00:00Z", "iso").year == 1970


def test_seconds_that_are_noise_are_cut_off() -> None:
    field = Field(
        "f", FieldType.TIMESTAMP, formats=(TimeFormat.parse("iso"),), to_minutes=True, zone=SHANGHAI
    )

    assert field.read("2026-06-03T09:00:59.9Z") == datetime(2026, 6, 3, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "unit", "seconds"),
    [
        ("PT1H30M", "iso", 5400),
        ("P1DT0.5S", "iso", 86400),
        ("PT90M", "iso", 5400),
        ("1.03:10:31", CLOCK, 97831),
        ("190:31", "HH:MM", 685860),
    ],
)
def test_written_durations_are_read(raw: str, unit: str, seconds: int) -> None:
    assert read(raw, FieldType.DURATION, unit) == seconds


@pytest.mark.parametrize(("raw", "unit"), [("P", "iso"), ("PT", "iso"), ("P1M", "iso"), ("1:5", "HH:MM")])
def test_what_is_none_is_refused(raw: str, unit: str) -> None:
    assert refused(raw, FieldType.DURATION, unit) is Reason.SCHEMA


def test_a_wall_clock_without_a_zone_is_refused() -> None:
    with pytest.raises(UnreadableError) as caught:
        moment("2026-06-03 09:00:00", "yyyy-MM-dd HH:mm:ss")

    assert caught.value.reason is Reason.ZONE_MISSING
    assert caught.value.detail.endswith("give the source `zone: Asia/Shanghai`, or `zone: station`")


def test_a_field_can_be_in_its_stations_zone() -> None:
    field = Field("f", FieldType.TIMESTAMP, formats=(TimeFormat.parse("iso"),), station_zone=True)
    urumqi = Zone("+06:00", timezone(timedelta(hours=6)))

    assert field.read("2026-06-03T09:00:00", urumqi) == datetime(2026, 6, 3, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "YYYY-MM-DD",
        "HH:mm",
        "yyyy-MM",
        "yyyy-MM-dd dd",
        "yyyy-MM-dd d",
        "yyyy-MM-dd hh:mm",
        "yyyy-MM-dd HH:mm a",
        "iso8601",
        "",
    ],
)
def test_what_is_no_time_format_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time format"):
        TimeFormat.parse(text)


def test_the_first_path_with_a_value_counts_and_nothing_is_not_zero() -> None:
    field = Field("f", FieldType.INT, paths=tuple(map(Path.parse, ("a", "b", "c"))))

    assert field.find({"a": None, "b": "", "c": 0}, Event({})) == 0
    assert field.find({"b": "  ", "c": 5}, Event({})) == 5
    assert field.find({"a": "", "b": None}, Event({})) is None


def test_values_that_mean_nothing_can_be_listed() -> None:
    field = Field("f", FieldType.INT, paths=(Path.parse("a"), Path.parse("b")), empty=frozenset({"-1"}))

    assert field.find({"a": -1, "b": 7}, Event({})) == 7
    assert field.find({"a": "-1"}, Event({})) is None


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


@given(_json, st.sampled_from(FieldType), st.sampled_from(["", *WRITTEN_DURATIONS]), st.booleans())
def test_any_value_is_read_or_refused(raw: object, type_: FieldType, written: str, comma: bool) -> None:
    formats = tuple(map(TimeFormat.parse, ("iso", "yyyy-MM-dd HH:mm:ss", "epoch_ms")))
    field = Field(
        "f", type_, scale=Decimal("0.0001"), written=written, comma=comma, formats=formats, zone=SHANGHAI
    )

    value: Value | None = None
    with suppress(UnreadableError):
        value = field.read(raw, None)

    assert value is None or isinstance(value, str | int | Decimal | datetime)


NUMBERS = (
    st.integers()
    | st.integers(-(2**54), 2**54)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.decimals(-1000, 1000, places=4)
    | st.booleans()
    | st.integers(-99, 99).map(str)
    | st.text(max_size=3)
)
NUMERIC = [(type_, unit) for type_, units in UNITS.items() for unit in units if unit not in WRITTEN_DURATIONS]


@pytest.mark.parametrize(("type_", "unit"), NUMERIC)
@given(raw=NUMBERS, multiplier=st.sampled_from(["1", "0.001", "40", "1E+20", "1E-20"]))
def test_a_number_is_read_row_after_row_as_it_is_read_plainly(
    type_: FieldType, unit: str, raw: object, multiplier: str
) -> None:
    scale = UNITS[type_][unit] * Decimal(multiplier)

    agree(Field("f", type_, paths=(Path.parse("a"),), scale=scale), {"a": raw})


NEW_YORK = Zone("America/New_York", ZoneInfo("America/New_York"))
YEARS = datetime.fromisoformat("1999-01-01"), datetime.fromisoformat("2040-01-01")
TIMES = (
    st.datetimes().map(str)
    | st.datetimes(*YEARS).map(lambda time: time.isoformat()[:19])
    | st.datetimes(*YEARS).map(lambda time: f"{time:%Y/%m/%d %H:%M:%S}")
    | st.integers(-1, 10**17)
    | st.sampled_from(
        [0, "0", "-", "2026-W23-3T09:00:00", "20260603T090000", "2026-06-03T24:00:00", "2026-06-03"]
    )
)
TAILS = st.sampled_from(
    [
        *("", "Z", "z", "+08:00", "-05:30", "+0800", "+08", ".5", ".", ",5", ".123456789Z", ".000+08:00"),
        *("+25:00", "+08:00:30", "-00:00", " +08:00", "[Asia/Tokyo]", "\n", "１"),
    ]
)
FORMATS = [
    "iso",
    "yyyy-MM-dd HH:mm:ss",
    "yyyy/MM/dd HH:mm:ss",
    "yyyy-MM-dd'T'HH:mm:ss",
    "yyyy-dd-MM HH:mm:ss",
]


@given(
    TIMES,
    TAILS,
    st.lists(st.sampled_from([*FORMATS, *EPOCHS]), min_size=1, max_size=3),
    st.sampled_from([None, SHANGHAI, NEW_YORK]),
    st.booleans(),
)
@example("2026-06-03T09:00:00", "+08:00", ["iso"], None, False)
@example("2026-06-03 09:00:00", "", ["epoch_ms", "yyyy-MM-dd HH:mm:ss"], SHANGHAI, False)
@example(1777678800000, "", ["epoch_ms_local"], NEW_YORK, True)
def test_a_time_is_read_row_after_row_as_it_is_read_plainly(
    time: str | int, tail: str, formats: list[str], zone: Zone | None, station_zone: bool
) -> None:
    written = tuple(map(TimeFormat.parse, formats))
    field = Field(
        "ended_at",
        FieldType.TIMESTAMP,
        paths=(Path.parse("a"),),
        formats=written,
        zone=zone,
        station_zone=station_zone,
    )
    raw = f"{time}{tail}" if isinstance(time, str) else time

    agree(field, {"a": raw}, zone)
    agree(field, {"a": raw}, zone)  # and when it comes again


@given(
    st.dictionaries(
        st.sampled_from("abc"), _json | TIMES | st.sampled_from(["null", "--", " x "]), max_size=3
    ),
    st.sampled_from(FieldType),
    st.lists(st.sampled_from(["a", "b", "c.a", "c[*]", "$.b", "$key"]), min_size=1, max_size=3),
    st.sampled_from(
        [
            {},
            {"empty": frozenset({"x", "0"})},
            {"split": "-"},
            {"encoding": "hex"},
            {"encoding": "url", "charset": "gb18030"},
            {"total": True},
            {"unit_from": (Path.parse("b"),)},
        ]
    ),
)
def test_any_field_is_read_row_after_row_as_it_is_read_plainly(
    row: dict[str, object], type_: FieldType, paths: list[str], more: dict[str, Any]
) -> None:
    formats = (TimeFormat.parse("iso"), TimeFormat.parse("epoch_ms"))
    if ("total" in more or "unit_from" in more) and type_ not in UNITS:
        more = {}

    agree(Field("f", type_, paths=tuple(map(Path.parse, paths)), formats=formats, zone=SHANGHAI, **more), row)


@pytest.mark.parametrize(
    ("zone", "near"),
    [
        ("America/New_York", "2026-11-01 01:59:30"),  # then it is one o'clock again
        ("America/New_York", "2026-03-08 01:59:30"),  # and there is no two o'clock
        ("Australia/Lord_Howe", "2026-04-05 01:59:30"),  # half an hour
        ("America/St_Johns", "2010-11-07 00:00:30"),  # at a minute past midnight
        ("Pacific/Apia", "2011-12-29 23:59:30"),  # a whole day
        ("Africa/Monrovia", "1972-01-06 23:59:30"),  # 44 minutes and 30 seconds
        ("Europe/Amsterdam", "1937-06-30 23:59:30"),  # 28 seconds
        ("Asia/Shanghai", "1927-12-31 23:53:30"),  # 352 seconds
        ("Asia/Shanghai", "2026-06-03 09:00:00"),
    ],
)
def test_the_seconds_about_a_clock_that_is_set_are_read_as_plainly(zone: str, near: str) -> None:
    begins = datetime.fromisoformat(near)
    rules = ZoneInfo(zone)
    written = Field(
        "f",
        FieldType.TIMESTAMP,
        paths=(Path.parse("t"),),
        formats=(TimeFormat.parse("iso"),),
        zone=Zone(zone, rules),
    )

    for minutes in range(-70, 71):
        for seconds in (0, 15, 30, 45, 59):
            at = begins + timedelta(minutes=minutes, seconds=seconds)
            agree(written, {"t": at.isoformat()}, shown=rules)
            agree(written, {"t": f"{at.isoformat()}+00:00"}, shown=rules)


def agree(field: Field, row: dict[str, object], zone: Zone | None = None, shown: tzinfo = TOKYO) -> None:
    """What `take` finds is what `Field.get` finds, or refuses, to the letter; and a moment, what `placed` makes of it."""
    event = Event(row, row, b"key")
    value: object = None
    with suppress(UnreadableError):
        value = field.get(row, event, zone)
    values: dict[str, Value] = {}
    problems: dict[str, UnreadableError] = {}

    moments = take(readers_of([field], zone, shown), row, event, values, problems)

    for name, moment in moments.items():
        assert isinstance(value, datetime)
        written = None if isinstance(value.tzinfo, timezone) else value
        assert repr(moment) == repr((*placed(value, shown), written))
        assert repr(values.pop(name)) == repr(moment[1])
        values[name] = value
    assert repr(values.get(field.name)) == repr(value)
    assert {name: (error.reason, error.detail) for name, error in problems.items()} == _refusal(
        field, row, zone
    )


def _refusal(field: Field, row: dict[str, object], zone: Zone | None) -> dict[str, tuple[Reason, str]]:
    try:
        field.get(row, Event(row, row, b"key"), zone)
    except UnreadableError as error:
        if error.reason is not Reason.NOT_FINISHED or field.name == "ended_at":
            return {field.name: (error.reason, error.detail)}
    return {}


@given(
    st.datetimes(
        *YEARS,
        timezones=st.sampled_from(
            [UTC, SHANGHAI.rules, NEW_YORK.rules, timezone(timedelta(hours=-4)), timezone(timedelta(hours=8))]
        ),
        allow_imaginary=True,
    ),
    st.booleans(),
    st.sampled_from([None, SHANGHAI.rules, NEW_YORK.rules, timezone(timedelta(hours=8))]),
)
@example(datetime(2026, 11, 1, 1, 30, tzinfo=NEW_YORK.rules, fold=0), False, SHANGHAI.rules)
@example(datetime(2026, 11, 1, 1, 30, tzinfo=NEW_YORK.rules, fold=1), False, SHANGHAI.rules)
@example(datetime(2026, 11, 1, 1, 30, tzinfo=timezone(timedelta(hours=-4))), False, NEW_YORK.rules)
@example(datetime(2026, 3, 8, 2, 30, tzinfo=NEW_YORK.rules), False, SHANGHAI.rules)
def test_an_instant_is_the_same_since_1970_and_in_a_zone(
    moment: datetime, whole: bool, rules: tzinfo | None
) -> None:
    moment = moment.replace(microsecond=0) if whole else moment
    shown = moment if rules is None or moment.tzinfo is rules else moment.astimezone(rules)

    since, local = placed(moment, rules)

    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since) == moment.astimezone(UTC)
    assert (local.replace(tzinfo=None), local.fold, local.utcoffset()) == (
        shown.replace(tzinfo=None),
        shown.fold,
        shown.utcoffset(),
    )
