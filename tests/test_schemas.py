"""Everything on a topic or in a file has a schema; examples and code keep to it."""

import copy
import json
import re
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from consumer import cli, rulebook, schemas, settings
from consumer.core.coupons import CouponRequest
from consumer.core.events import NO_ATTEMPTS, Attempts, Coordinates, GatewayWords, Record, Replay, Wait
from consumer.core.headers import replay_headers
from consumer.core.inquiry import Charge, Charges, Inquiry
from consumer.core.letters import Receipt, receipt_headers
from consumer.core.outcomes import (
    Later,
    Message,
    Outcome,
    OutcomeContext,
    PlateMode,
    Privacy,
    Reason,
    Resolution,
    encode_dead_letter,
    encode_outcome,
    encode_retry,
    reduced,
)
from consumer.core.replies import ReplyTable
from consumer.core.status import State, Status, as_json
from tests.statuses import granting, held_up

SCHEMAS = Path(__file__).parents[1] / "schemas"
EXAMPLES = sorted(SCHEMAS.glob("examples/*/*/*.json"))


def schema_of(name: str, version: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.v{version}.schema.json").read_text("utf-8")))


OUTCOME = schema_of("coupon-outcome", "1")
STATUS = schema_of("status", "1")


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.schema.json")), ids=lambda path: path.name)
def test_every_schema_is_one(path: Path) -> None:
    Draft202012Validator.check_schema(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize(
    ("name", "text"), [("settings.v1", settings.schema_text()), ("rules.v1", rulebook.schema_text())]
)
def test_the_schemas_that_are_made_of_the_code_are_fresh(name: str, text: str) -> None:
    """If not: `charging-coupon schema settings > schemas/settings.v1.schema.json`, likewise for rules."""
    assert (SCHEMAS / f"{name}.schema.json").read_text("utf-8") == text


@pytest.mark.parametrize(
    ("name", "file"), [("settings", "settings.v1"), ("rules", "rules.v1"), *schemas.WRITTEN.items()]
)
def test_the_command_prints_each_of_them(name: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["schema", name])

    assert ended.value.code == 0
    assert capsys.readouterr().out == (SCHEMAS / f"{file}.schema.json").read_text("utf-8")


def test_an_installed_package_has_the_schemas_that_are_written_by_hand() -> None:
    project = tomllib.loads((SCHEMAS.parent / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert included == {
        f"schemas/{file}.schema.json": f"consumer/schemas/{file}.schema.json"
        for file in schemas.WRITTEN.values()
    }


SETTINGS: dict[str, Any] = {
    "kafka": {"bootstrap_servers": ["k:9092"], "topics": {"events": "a,b"}},
    "rules": "r",
}


def test_the_settings_schema_takes_what_settings_can_say() -> None:
    validator = schema_of("settings", "1")
    more = {
        "gateway": {"read_timeout": "8s", "total_timeout": 10, "max_response_size": "64KiB", "ca_file": None},
        "retries": {"delays": ["1m", "5m", 1800]},
        "secrets": {"main": "x"},
    }

    assert [error.message for error in validator.iter_errors(SETTINGS | more)] == []


@pytest.mark.parametrize(
    "mistake",
    [
        {"kafka": {"topics": {"events": ["a"]}}},
        {"gatewy": {}},
        {"gateway": {"read_timeout": "8 sec"}},
        {"gateway": {"max_response_size": "64K"}},
        {"gateway": {"max_in_flight": 0}},
        {"privacy": {"plates": "all"}},
    ],
)
def test_the_settings_schema_refuses_what_they_cannot(mistake: dict[str, Any]) -> None:
    assert schema_of("settings", "1").is_valid(SETTINGS)
    assert not schema_of("settings", "1").is_valid(SETTINGS | mistake)


def described_models(schema: dict[str, Any]) -> Iterable[tuple[str, bool]]:
    yield from described(schema)
    for name, model in schema["$defs"].items():
        yield from described(model, f"{name}.")


def test_every_setting_is_described_for_the_editor() -> None:
    assert [
        name for name, has_one in described_models(schema_of("settings", "1").schema) if not has_one
    ] == []


def test_every_schema_is_in_the_table_of_who_writes_and_who_reads() -> None:
    table = (SCHEMAS / "README.md").read_text("utf-8")

    assert [path.name for path in SCHEMAS.glob("*.schema.json") if f"`{path.name}`" not in table] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(SCHEMAS / "examples")))
def test_every_example_keeps_to_its_schema(path: Path) -> None:
    validator = schema_of(path.parent.parent.name, path.parent.name)

    assert [error.message for error in validator.iter_errors(json.loads(path.read_text("utf-8")))] == []


def described(schema: dict[str, Any], where: str = "") -> Iterable[tuple[str, bool]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{where}{name}", bool(field.get("description"))
        yield from described(field, f"{where}{name}.")
        yield from described(field.get("items", {}), f"{where}{name}.")


@pytest.mark.parametrize("schema", [OUTCOME, STATUS], ids=["outcome", "status"])
def test_every_field_is_described(schema: Draft202012Validator) -> None:
    assert [name for name, has_one in described(schema.schema) if not has_one] == []


def shape(schema: dict[str, Any], value: Any, where: str = "") -> Iterable[tuple[str, list[str], list[str]]]:
    """Of each object in the value: its keys, and those that the schema has."""
    schema = STATUS.schema["$defs"]["counted"] if "$ref" in schema else schema
    if isinstance(value, dict):
        yield where, list(value), list(schema["properties"])
        for name, inner in value.items():
            yield from shape(schema["properties"][name], inner, f"{where}.{name}")
    elif isinstance(value, list) and "items" in schema:
        for inner in value:
            yield from shape(schema["items"], inner, where)


def test_every_field_of_the_status_is_always_there_and_in_the_schemas_order() -> None:
    found = list(shape(STATUS.schema, status_as_written(granting())))

    assert len({where for where, _, _ in found}) >= 15
    assert [where for where, keys, known in found if keys != known] == []
    assert STATUS.schema["properties"]["state"]["enum"] == list(State)


def test_every_field_of_an_outcome_is_always_there_and_in_the_schemas_order() -> None:
    encoded = orjson.loads(encode_outcome(next(iter(examples().values())), CONTEXT).value or b"")

    assert list(encoded) == list(OUTCOME.schema["properties"]) == OUTCOME.schema["required"]


def test_the_schema_has_all_outcomes_and_reasons() -> None:
    properties = OUTCOME.schema["properties"]

    assert [each["const"] for each in properties["outcome"]["oneOf"]] == list(Outcome)
    assert [each["const"] for each in properties["reason"]["oneOf"]] == [*Reason, None]


def test_each_outcome_reason_and_code_is_told_in_chinese_too() -> None:
    properties = OUTCOME.schema["properties"]

    for each in (*properties["outcome"]["oneOf"], *properties["reason"]["oneOf"]):
        assert re.fullmatch(r"[A-Z].+\. .*[\u4e00-\u9fff].*。", each["description"]), each
    told = re.findall(r"\b(\d+) [\u4e00-\u9fff]", properties["code"]["description"])
    assert set(told) == {name for name in ReplyTable.defaults().rows if name.isdecimal()}


def test_every_outcome_has_an_example() -> None:
    shown = {
        json.loads(path.read_text("utf-8"))["outcome"]
        for path in (SCHEMAS / "examples/coupon-outcome/1").iterdir()
    }

    assert shown == set(Outcome)


instants = st.datetimes(timezones=st.timezones()).filter(lambda moment: 1 < moment.year < 9999)
text = st.text(st.characters(), max_size=20)
numbers = st.integers(min_value=0, max_value=2**53)


@given(
    st.builds(
        Resolution,
        record=st.builds(
            Record,
            coordinates=st.builds(Coordinates, text, numbers, numbers),
            timestamp_ms=st.integers(),
            key=st.none() | st.binary(),
            value=st.none() | st.binary(),
        ),
        index=numbers,
        outcome=st.sampled_from(Outcome),
        decided_at=instants,
        reason=st.none() | st.sampled_from(Reason),
        detail=text,
        source=st.none() | text,
        rule=st.none() | text,
        account=st.none() | text,
        rules_hash=text,
        values=st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "order_id": text,
                "plate": text,
                "station_id": text,
                "started_at": instants,
                "energy_wh": st.integers(),
                "fee_fen": st.decimals(),
            },
        ),
        suspicions=st.lists(st.sampled_from(Reason)).map(tuple),
        reverses=st.none() | text,
        request=st.none()
        | st.builds(
            CouponRequest,
            text,
            text,
            st.none(),
            st.dictionaries(st.sampled_from(["plate", "subject", "api_store_code"]), text),
            st.dictionaries(text, st.integers(-(2**31), 2**31 - 1)),
        ),
        attempts=st.builds(
            Attempts,
            count=numbers,
            first_at=st.none() | instants,
            last_at=st.none() | instants,
            seconds=st.none() | st.floats(),
            ambiguous=st.booleans(),
        ),
        words=st.builds(
            GatewayWords,
            code=st.none() | text,
            http_status=st.none() | st.integers(100, 599),
            message=st.none() | text,
            hint=st.none() | text,
            time_cost_ms=st.none() | st.integers(),
        ),
    ),
    st.sampled_from(PlateMode),
)
def test_every_outcome_that_is_written_keeps_to_the_schema(resolution: Resolution, mode: PlateMode) -> None:
    message = encode_outcome(resolution, OutcomeContext("cluster", Privacy(mode, b"key")))

    for written in (message, reduced(message)):
        OUTCOME.validate(orjson.loads(written.value or b""))


def headers_described(heading: str) -> set[str]:
    """The headers of ours that a section of the schemas' README names."""
    text = (SCHEMAS / "README.md").read_text("utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`(coupon_\w+)(?:: true)?`", section))


def headers_written(message: Message) -> set[str]:
    return {name for name, _ in message.headers if name.startswith("coupon_")}


def test_the_dead_letters_headers_are_all_headers_described() -> None:
    rejected = replace(examples()["rejected"], reason=Reason.POLICY, detail="why", traceparent="00-1-2-01")

    assert headers_described("Dead letters") == headers_written(
        encode_dead_letter(rejected, CONTEXT, 1_000_000)
    )


def test_the_retries_headers_are_all_headers_described() -> None:
    at = datetime(2026, 11, 25, tzinfo=UTC)
    words = GatewayWords("1002", 200, message="no", seqno="1", enter_time="2026")
    waiting = replace(examples()["granted"], words=words, label="1002", traceparent="00-1-2-01")
    later = Later(Wait.REPLY, 0, at, 1, 0, 0.0)

    assert headers_described("Retry topics") == headers_written(encode_retry(waiting, later, CONTEXT))


def test_the_replays_headers_are_all_headers_described() -> None:
    names = {name for name, _ in replay_headers(Replay("c/t/0/0/0", 1, 0, release=True))}

    assert headers_described("Replays") == names


def test_the_receipts_headers_are_all_headers_described() -> None:
    names = {name for name, _ in receipt_headers(Receipt("c/t/0/0/0", 0, 5), to="t", count=1, at=AT)}

    assert headers_described("Receipts") == names


# -- The folding rule of schemas/README.md ----------------------------------------------------------


def fold(outcomes: Iterable[dict[str, Any]]) -> dict[str | None, Charge]:
    """Outcomes as they were read -> one charge for each order."""
    charges = Charges(Inquiry())
    for outcome in outcomes:
        charges.add(outcome)
    return {charge.order_id: charge for charge in charges.meant()}


AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONTEXT = OutcomeContext("MkU3OEVBNTcwNTJENDM2Qk", Privacy(PlateMode.BOTH, b"an example's key"))


def written(
    outcome: Outcome,
    offset: int,
    order: str | None,
    reverses: str | None = None,
    *,
    event_id: str | None = None,
    at: datetime | None = None,
    attempts: Attempts = NO_ATTEMPTS,
) -> dict[str, Any]:
    record = Record(Coordinates("charging-completed", 0, offset), 0, None, b"{}")
    values = None if order is None else {"order_id": order, "event_id": event_id or order}
    resolution = Resolution(record, 0, outcome, at or AT, values=values, reverses=reverses, attempts=attempts)
    body: dict[str, Any] = orjson.loads(encode_outcome(resolution, CONTEXT).value or b"")
    return body


def test_a_grant_beats_a_later_already_granted_whatever_is_repeated() -> None:
    granted, again = written(Outcome.GRANTED, 1, "A"), written(Outcome.ALREADY_GRANTED, 2, "A")

    charge = fold([granted, again, copy.deepcopy(granted), again])["A"]

    assert (charge.outcome, charge.coupons, charge.pushes) == ("granted", 1, 2)


def test_the_last_word_counts_where_nothing_was_granted() -> None:
    before = written(Outcome.NOT_ENTERED, 1, "A")
    later = written(Outcome.EXPIRED, 0, "A", at=AT + timedelta(minutes=1))

    charge = fold([later, before])["A"]

    assert (charge.outcome, charge.coupons) == ("expired", 0)


def test_a_coupon_stays_one_whatever_a_later_push_ends_as() -> None:
    before, late = written(Outcome.ALREADY_GRANTED, 1, "A"), written(Outcome.EXPIRED, 2, "A")

    assert fold([before, late])["A"].outcome == "already_granted"


def test_a_reversal_is_listed_beside_its_order() -> None:
    reversal = written(Outcome.SKIPPED, 2, "A-credit", reverses="A")

    charges = fold([reversal, written(Outcome.GRANTED, 1, "A")])

    assert list(charges) == ["A"]
    assert charges["A"].outcome == "granted"
    assert charges["A"].reversed_by == {reversal["outcome_id"]}


def test_a_reversal_alone_is_all_that_is_known_of_its_order() -> None:
    charge = fold([written(Outcome.SKIPPED, 2, "A-credit", reverses="A")])["A"]

    assert (charge.outcome, charge.coupons, len(charge.reversed_by)) == ("skipped", 0, 1)


def test_what_could_not_be_read_stands_alone() -> None:
    charges = Charges(Inquiry())
    for offset in (1, 2):
        charges.add(written(Outcome.INVALID, offset, None))

    assert [(charge.order_id, charge.outcome) for charge in charges.meant()] == [(None, "invalid")] * 2


def test_a_call_without_an_answer_leaves_a_charge_in_doubt_until_its_event_id_is_granted() -> None:
    lost = written(Outcome.PLATFORM_FAILED, 1, "A", attempts=Attempts(1, AT, AT, 0.1, ambiguous=True))
    other = written(Outcome.GRANTED, 2, "A", event_id="A-2")
    found = written(Outcome.ALREADY_GRANTED, 3, "A")

    assert [fold(read)["A"].ambiguous for read in ([lost], [lost, other], [lost, found])] == [
        True,
        True,
        False,
    ]
    assert fold([lost, other, found])["A"].coupons == 2  # the platform grants one for each event_id


def test_a_charge_is_asked_for_by_what_counts_of_it() -> None:
    asked = Charges(Inquiry(outcomes={"expired"}))
    for outcome in (
        written(Outcome.EXPIRED, 2, "A"),
        written(Outcome.GRANTED, 1, "A"),
        written(Outcome.EXPIRED, 3, "B"),
    ):
        asked.add(outcome)

    assert [charge.order_id for charge in asked.meant()] == ["B"]


@given(st.data())
def test_charges_are_the_same_in_whatever_order_their_outcomes_are_read(data: st.DataObject) -> None:
    kinds = (Outcome.GRANTED, Outcome.ALREADY_GRANTED, Outcome.EXPIRED, Outcome.INVALID)
    some = st.tuples(
        st.sampled_from(kinds), st.sampled_from(["A", "B", None]), st.sampled_from([None, "A"]), st.booleans()
    )
    outcomes = [
        written(outcome, offset, order, reverses, attempts=Attempts(1, AT, AT, 0.1, ambiguous=lost))
        for offset, (outcome, order, reverses, lost) in enumerate(data.draw(st.lists(some, max_size=8)))
    ]
    shuffled = data.draw(st.permutations(outcomes + outcomes[:3]))

    def charges(read: Iterable[dict[str, Any]]) -> list[Charge]:
        found = Charges(Inquiry())
        for outcome in read:
            found.add(outcome)
        return found.meant()

    assert charges(shuffled) == charges(outcomes)


# -- The examples, as the code writes them ----------------------------------------------------------


def example(outcome: Outcome, offset: int, **changes: Any) -> Resolution:
    """An order of a charge from 19:10 to 20:40 in Shenzhen, answered by the platform unless changed."""
    ended = datetime(2026, 3, 1, 12, 40, tzinfo=UTC)
    order = f"MA5DA00120260301191000{offset:05}"
    values = {
        "order_id": order,
        "event_id": order,
        "plate": "粤BD12345",
        "station_id": "SZ-0017",
        "started_at": ended - timedelta(minutes=90),
        "ended_at": ended,
        "energy_wh": 31_250,
        "seconds": 5400,
        "fee_fen": 3875,
    }
    answered: dict[str, Any] = {
        "record": Record(
            Coordinates("charging-completed", 4, offset),
            1_772_368_803_000,
            b"\xe7\xb2\xa4BD12345",
            order.encode(),
        ),
        "index": 0,
        "outcome": outcome,
        "decided_at": ended + timedelta(seconds=4),
        "source": "charging",
        "rule": "two-hours-free",
        "account": "main",
        "rules_hash": "5f0c9b1a2c3d",
        "values": values,
        "request": CouponRequest(
            "main",
            "two-hours-free",
            None,
            {
                "app_id": "app-1",
                "api_store_code": "store-17",
                "api_type": "5",
                "event_id": order,
                "plate": "粤BD12345",
                "subject": "【粤BD12345】充电 31.25 kWh",
                "metadata": '{"minutes":{"name":"充电时长","value":90}}',
            },
            {"minutes": 90},
        ),
        "attempts": Attempts(
            1, ended + timedelta(seconds=3.7), ended + timedelta(seconds=3.982), seconds=0.281_904
        ),
    }
    return Resolution(**(answered | changes))


def unasked(outcome: Outcome, offset: int, reason: Reason, **changes: Any) -> Resolution:
    """An order that ended without a request."""
    nothing = {"request": None, "attempts": Attempts(), "account": None, "rule": None}
    return example(outcome, offset, reason=reason, **(nothing | changes))


def said(code: str, message: str, status: int = 200, **more: Any) -> GatewayWords:
    return GatewayWords(
        code, status, message, seqno=f"2026030120400{code}", data_node="node-2", time_cost_ms=214, **more
    )


def examples() -> dict[str, Resolution]:
    twice = Attempts(2, AT, AT + timedelta(seconds=11), seconds=0.19, ambiguous=True)
    return {
        "granted": example(
            Outcome.GRANTED,
            1,
            words=said("1001", "success", grant_serial="G20260301000017", enter_time="2026-03-01 19:02:11"),
        ),
        "already-granted-after-a-timeout": example(
            Outcome.ALREADY_GRANTED, 2, attempts=twice, words=said("1403", "重复发放")
        ),
        "not-entered": example(Outcome.NOT_ENTERED, 3, words=said("1002", "车辆未入场")),
        "limited": example(Outcome.LIMITED, 4, words=said("1003", "已达上限")),
        "not-configured": example(Outcome.NOT_CONFIGURED, 5, words=said("1401", "未配置第三方优惠")),
        "lot-failed": example(Outcome.LOT_FAILED, 6, words=said("1405", "车场发放失败")),
        "platform-failed-without-an-answer": example(Outcome.PLATFORM_FAILED, 7, attempts=twice),
        "rejected": example(Outcome.REJECTED, 8, dead_letter=True, words=said("400", "参数错误", 400)),
        "unknown": example(Outcome.UNKNOWN, 9, dead_letter=True, words=said("1999", "?")),
        "unmatched": unasked(Outcome.UNMATCHED, 10, Reason.NO_RULE, detail="no rule wants this order"),
        "skipped-reversal": unasked(
            Outcome.SKIPPED, 11, Reason.REVERSAL, reverses="MA5DA0012026030119100000001", detail="a credit"
        ),
        "invalid": unasked(
            Outcome.INVALID,
            12,
            Reason.NOT_JSON,
            values=None,
            rules_hash="",
            source="charging",
            detail="the value is not JSON: invalid character at byte 17",
            dead_letter=True,
        ),
        "suspect": unasked(
            Outcome.SUSPECT,
            13,
            Reason.END_BEFORE_START,
            detail="it ended before it started",
            dead_letter=True,
        ),
        "expired": unasked(
            Outcome.EXPIRED, 14, Reason.DEADLINE, detail="the charge ended more than 24 hours before"
        ),
        "shadow": example(Outcome.SHADOW, 15, attempts=Attempts(), detail="the rule's state is shadow"),
    }


@pytest.mark.parametrize("name", examples())
def test_the_examples_are_what_the_code_writes(name: str) -> None:
    path = SCHEMAS / "examples" / "coupon-outcome" / "1" / f"{name}.json"

    assert json.loads(path.read_text("utf-8")) == orjson.loads(
        encode_outcome(examples()[name], CONTEXT).value or b""
    )


MOMENTS = {"granting": granting, "held-up": held_up}


def status_as_written(status: Status) -> Any:
    return orjson.loads(orjson.dumps(as_json(status, UTC), option=orjson.OPT_UTC_Z))


@pytest.mark.parametrize("name", MOMENTS)
def test_the_examples_of_the_status_are_what_the_code_writes(name: str) -> None:
    path = SCHEMAS / "examples" / "status" / "1" / f"{name}.json"

    assert json.loads(path.read_text("utf-8")) == status_as_written(MOMENTS[name]())


def write_examples() -> None:
    """Run `python -m tests.test_schemas` after a wanted change."""
    for name, moment in MOMENTS.items():
        path = SCHEMAS / "examples" / "status" / "1" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = status_as_written(moment())
        path.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    for name, resolution in examples().items():
        path = SCHEMAS / "examples" / "coupon-outcome" / "1" / f"{name}.json"
        body = orjson.loads(encode_outcome(resolution, CONTEXT).value or b"")
        path.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    write_examples()
