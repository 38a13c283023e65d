"""`charging-coupon draft`: raw messages in, a rules file out that reads them, every guess marked, no plate in it."""

import base64
import io
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer import cli, rulebook
from consumer.core import plates
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.events import Coordinates, Order, Record
from consumer.core.outcomes import LIKE_A_PLATE, Finding, Outcome
from consumer.core.rules import RuleBook
from consumer.core.templates import text_of
from consumer.rulebook import report, runs
from consumer.rulebook.drafting import Draft, draft, samples_of
from consumer.rulebook.drafting.pruning import PLATE
from consumer.rulebook.drafting.shapes import inside
from tests.payloads import CASES, PAYLOADS, bytes_of, differences

SHAPES: dict[str, dict[str, Any]] = yaml.safe_load((CASES / "drafts.yaml").read_text("utf-8"))


@cache
def draft_of(value: bytes) -> Draft:
    return draft(samples_of([("sample", value)]))


@cache
def book_of(text: str) -> RuleBook:
    return rulebook.parse(text)


# -- The payloads of platforms that are known ---------------------------------------------------------

CANNOT = {
    "PAY-007": "an encrypted envelope: nothing in it can be read",
    "PAY-045": "a tombstone: there is nothing in it",
    "PAY-057": "LZ4: no JSON",
    "PAY-011": "an occupancy order: nothing in it says that it is no charge, nor which of two order numbers is its own",
    "PAY-037": "a periodic message without an order number, a plate or a session: nothing in it says that it is no charge",
    "PAY-067": "one time and a duration: `timestamp_minutes` does not say that it is the start",
}
"""Which payloads a draft does not read right as it is, and why."""

ASSUMED = {
    "PAY-009": ("format: epoch_ms", "format: epoch_ms_local"),
    "PAY-051": ("zone: Asia/Shanghai", 'zone: "+16:00"'),
    "PAY-065": ("zone: Asia/Shanghai", "zone: Asia/Taipei"),
}
"""What no message shows of itself, and who confirms the draft knows: as the case's `assume` has it."""

WITHIN = {"PAY-009": timedelta(minutes=1)}
READ_RIGHT = 28


def read(text: str, value: bytes | None) -> tuple[Order | Finding, ...]:
    book = book_of(text)
    return book.read_as(book.sources[0], Record(Coordinates("t", 0, 0), -1, None, value), None)


def wrong(name: str) -> list[str]:
    """What is not right in the reading of a payload by its own draft."""
    case = PAYLOADS[name]
    try:
        text = draft_of(bytes_of(case) or b"null").text
    except ConfigurationError as error:
        return [str(error)]
    if name in ASSUMED:
        assert ASSUMED[name][0] in text
        text = text.split("\ntests:")[0].replace(*ASSUMED[name])
    right = case["right"]
    (item,) = read(
        text.replace("FILL-IN-STATION-1", (right.get("station") or "S1").split(" ")[0]), bytes_of(case)
    )
    found = list(
        differences(item.values or {}, right, getattr(item, "reverses", None), WITHIN.get(name, timedelta(0)))
    )
    skips = right["verdict"] in ("skip_not_a_charge", "skip_not_finished", "skip_reversal")
    if skips and getattr(item, "outcome", None) is not Outcome.SKIPPED:
        found.append("not skipped")
    if right["verdict"].startswith("send") and not isinstance(item, Order):
        found.append(f"{item.outcome}: {item.detail}")
    return found


@pytest.mark.parametrize("name", [name for name in PAYLOADS if name not in CANNOT])
def test_a_draft_reads_its_payload_as_it_is_right(name: str) -> None:
    assert wrong(name) == []


@pytest.mark.parametrize("name", CANNOT)
def test_what_a_draft_cannot_know_it_does_not_read_right(name: str) -> None:
    assert wrong(name) != []


def test_most_payloads_are_read_right() -> None:
    assert len(PAYLOADS) - len(CANNOT) == READ_RIGHT


# -- Messages of platforms never seen -------------------------------------------------------------------


def sampled(name: str) -> bytes:
    shape = SHAPES[name]
    if "samples" in shape:
        return str(shape["samples"]).encode()
    inner = json.dumps(shape["base64"], ensure_ascii=False).encode()
    return json.dumps({"v": 2, "payload": base64.b64encode(inner).decode()}).encode()


@pytest.mark.parametrize("name", SHAPES)
def test_a_draft_reads_messages_of_a_platform_never_seen(name: str) -> None:
    samples = samples_of([("sample", sampled(name))])
    text = draft_of(sampled(name)).text

    items = [item for sample in samples.messages for item in read(text, sample.value)]
    wanted = SHAPES[name]["reads"]
    found: list[dict[str, str | None]] = [
        {
            field: item.reason
            if field == "outcome" and isinstance(item, Finding)
            else text_of(item.values or {}, field)
            for field in expected
        }
        for item, expected in zip(items, wanted, strict=True)
    ]
    assert found == [{field: str(value) for field, value in each.items()} for each in wanted]


@pytest.mark.parametrize("name", SHAPES)
def test_a_draft_checks_and_tests_as_it_is(name: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(draft_of(sampled(name)).text, "utf-8")

    found = report.check(file).found
    marks = [
        number for number, line in enumerate(file.read_text("utf-8").splitlines(), 1) if "# confirm: " in line
    ]
    guessed = [each for each in found if each.message == "a draft's guess that nobody has confirmed"]
    assert [each.line for each in guessed] == marks
    warned = [each.message for each in found if each not in guessed]
    assert warned[:2] == [f"`FILL-IN-{what}` is a draft's placeholder" for what in ("APP-ID", "API-TYPE")]
    assert all(re.fullmatch(r"`FILL-IN-STORE-\d+` is a draft's placeholder", each) for each in warned[2:])
    assert [run.differences for run in runs.run(file)] == [()]


@pytest.mark.parametrize("name", SHAPES)
def test_every_guess_is_marked_and_a_preset_is_all_there_is_to_say(name: str) -> None:
    text = draft_of(sampled(name)).text

    lines = re.split(r"\n(?:stations|rules):", text.split("\nsources:")[1])[0].splitlines()
    said = [number for number, line in enumerate(lines) if re.match(r" +[a-z_]+: \S", line)]
    for number in said:
        above = next(line for line in reversed(lines[:number]) if not line.startswith("      #  "))
        assert "# confirm: " in above or "required: true}   #" in lines[number]
    assert ("extends: " in text) is ("preset" in SHAPES[name])
    if "preset" in SHAPES[name]:
        assert f"    extends: {SHAPES[name]['preset']}\n" in text


@pytest.mark.parametrize("name", [*SHAPES, *(name for name in PAYLOADS if name not in CANNOT)])
def test_no_plate_of_a_sample_is_in_its_draft_or_in_what_is_said_of_it(name: str) -> None:
    value = sampled(name) if name in SHAPES else bytes_of(PAYLOADS[name]) or b""
    drafted = draft_of(value)
    samples = samples_of([("sample", value)])
    real = {
        str(item.values["plate"])
        for sample in samples.messages
        for item in read(drafted.text, sample.value)
        if item.values and "plate" in item.values
    }

    everything = plates.normalise("\n".join([drafted.text, *drafted.told]))
    for text in re.findall(r'"([A-Za-z0-9+/]{24,}={0,2})"', drafted.text):
        found = inside(text)
        everything += plates.normalise(str(found[1])) if found is not None else ""
    assert [plate for plate in real - {PLATE} if plate in everything] == []
    assert {plates.normalise(found) for found in LIKE_A_PLATE.findall(drafted.text)} <= {PLATE}


# -- What decides -----------------------------------------------------------------------------------------


def drafted(*messages: object) -> str:
    lines = "\n".join(json.dumps(message, ensure_ascii=False) for message in messages)
    return draft_of(lines.encode()).text


def field_of(text: str, name: str) -> str:
    return next(
        line.strip().removeprefix(f"{name}: ")
        for line in text.splitlines()
        if line.strip().startswith(f"{name}: ")
    )


def comment_of(text: str, name: str) -> str:
    """What is said above a field, on one line."""
    lines = text.splitlines()
    number = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{name}: "))
    start = max(each for each in range(number) if "# confirm" in lines[each])
    return " ".join(line.strip().lstrip("# ") for line in lines[start:number])


CHARGE = {"no": "A1", "plate": "粤B12345", "start": "2026-03-01 10:00:00", "end": "2026-03-01 11:00:00"}


@pytest.mark.parametrize(
    ("energy", "unit", "said"),
    [
        (7.4, "kWh", "in kWh 7.4 kWh at 7.4 kW"),
        (7400, "Wh", "in Wh 7.4 kWh at 7.4 kW"),
        (3520, "0.01kWh", "in 0.01kWh 35.2 kWh at 35.2 kW"),
        (22.0, "kWh", "in 0.1kWh it would be 2.2 kWh at 2.2 kW"),
        ("19.5度", "in_text", "such as 19.5度, with its unit in it"),
    ],
)
def test_the_unit_of_an_energy_is_told_by_the_power_that_it_would_mean(
    energy: object, unit: str, said: str
) -> None:
    text = drafted({**CHARGE, "dianliang": energy})

    assert f"unit: {unit}" in field_of(text, "energy_wh").replace('"', "")
    assert said in comment_of(text, "energy_wh")


@pytest.mark.parametrize(("bare", "shown"), [("10.00", "10.00"), (7450, "7450")])
def test_among_values_that_say_their_unit_one_that_does_not_is_named_and_the_energy_still_read(
    bare: object, shown: str
) -> None:
    energies = ["18.62度", "6.10度", "22.00度", bare]
    lines = [
        json.dumps({**CHARGE, "no": f"A{number}", "dianliang": energy})
        for number, energy in enumerate(energies, 1)
    ]
    made = draft_of("\n".join(lines).encode())

    assert "unit: in_text" in field_of(made.text, "energy_wh")
    why = comment_of(made.text, "energy_wh")
    assert f"but 1 of 4 values says none, such as {shown}: such an order ends as `invalid`" in why
    kind = "text that is a number" if isinstance(bare, str) else "a number"
    assert f"sample:4: invalid (schema): energy_wh: {kind} without its unit" in made.told


@pytest.mark.parametrize(
    ("energies", "signs", "said", "wh"),
    [
        (["23,40", "3,80"], {"decimal": ","}, "with `,` before fractions: in kWh 23.4 kWh", [23400, 3800]),
        (["0,500", "23,400"], {"decimal": ","}, "with `,` before fractions: in kWh 0.5 kWh", [500, 23400]),
        (["23,40度", "7度"], {"decimal": ","}, "its unit in it, with `,` before fractions", [23400, 7000]),
        (["1.023,40", 7], {"decimal": ",", "thousands": "."}, "`,` before fractions and `.` between", [1023400, 7000]),
        (["12,340", "9,100"], {"thousands": ","}, '`,` between thousands, or before fractions (`decimal: ","`)?', [12340, 9100]),
        (["1,023.40度", "7度"], {"thousands": ","}, "its unit in it, with `,` between thousands", [1023400, 7000]),
    ],
)  # fmt: skip  # a case is a line
def test_commas_in_numbers_are_told_by_all_samples_together(
    energies: Sequence[object], signs: dict[str, str], said: str, wh: Sequence[int]
) -> None:
    messages = [{**CHARGE, "no": f"A{number}", "dl": energy} for number, energy in enumerate(energies)]
    text = drafted(*messages)

    spec = yaml.safe_load(field_of(text, "energy_wh"))
    assert {key: spec[key] for key in ("decimal", "thousands") if key in spec} == signs
    assert said in comment_of(text, "energy_wh")
    items = [item for each in messages for item in read(text, json.dumps(each).encode())]
    assert [(item.values or {}).get("energy_wh") for item in items] == wh


@pytest.mark.parametrize("name", ["zd", "zdbh", "zdid", "zdbm", "ZD_ID", "czbm", "tccbh"])
def test_a_station_is_found_by_what_pinyin_is_cut_short_to(name: str) -> None:
    text = drafted({**CHARGE, "zdmc": "高铁东站", name: "A07", "zdsj": "2026-03-01 09:59:00", "zdgl": 60})

    assert field_of(text, "station_id") == name


def test_few_short_values_under_a_name_that_begins_as_that_of_a_station_are_taken_for_it() -> None:
    stations = ["A07", "B11", "A07"]
    text = drafted(*({**CHARGE, "no": f"A{n}", "zdxx": each, "zdgl": 60} for n, each in enumerate(stations)))

    assert field_of(text, "station_id") == "zdxx"
    why = "such as A07, 2 different ones in 3 orders: only its first letters tell"
    assert why in comment_of(text, "station_id")
    assert "# station_id: PATH" in drafted({**CHARGE, "zdxx": "A07"}, {**CHARGE, "zdxx": "B11"})


def test_numbers_of_which_one_has_a_comma_where_another_has_a_point_are_none() -> None:
    assert "# energy_wh: {paths: PATH" in drafted({**CHARGE, "dl": "23,40"}, {**CHARGE, "dl": "3.80"})


def test_money_with_commas_between_thousands_is_read_as_the_draft_says() -> None:
    messages = [{**CHARGE, "je": "31.20元"}, {**CHARGE, "je": "1,031.20元"}]
    text = drafted(*messages)

    assert '# fee_fen: {paths: je, unit: in_text, thousands: ","}' in text
    taken = text.replace("# fee_fen:", "fee_fen:")
    items = [item for each in messages for item in read(taken, json.dumps(each).encode())]
    assert [(item.values or {}).get("fee_fen") for item in items] == [3120, 103120]


@pytest.mark.parametrize(
    ("field", "name", "values"),
    [
        ("charging_seconds", "shichang", ["1小时0分", "60分", "60"]),
        ("fee_fen", "totalFee", ["￥4.20", "4.20元", 4]),
    ],
)
def test_durations_and_money_that_say_their_unit_are_read_so_too(
    field: str, name: str, values: Sequence[object]
) -> None:
    lines = [
        json.dumps({**CHARGE, "no": f"A{number}", name: value}) for number, value in enumerate(values, 1)
    ]
    text = draft_of("\n".join(lines).encode()).text

    prefix = "# " if field == "fee_fen" else ""
    assert f"{prefix}{field}: {{paths: {name}, unit: in_text}}" in text
    assert "1 of 3 values says none" in comment_of(text, f"{prefix}{field}")


def test_a_time_in_hours_and_minutes_by_their_chinese_signs_is_read() -> None:
    text = drafted({**CHARGE, "start": "2026年11月30日 18时02分", "end": "2026年11月30日 18时52分"})

    assert all(
        'format: "yyyy年MM月dd日 HH时mm分"' in field_of(text, name) for name in ("started_at", "ended_at")
    )


def test_two_parts_of_a_fee_beside_each_other_may_be_the_fee_together() -> None:
    text = drafted({**CHARGE, "fee": {"elecFee": 420, "serviceFee": 200}})

    why = comment_of(text, "# fee_fen")
    assert "`fee.elecFee` and `fee.serviceFee` together" in why
    assert "`type: money`, and `computed: ONE + OTHER`" in why


def test_what_stands_in_a_fee_is_money_whatever_its_name() -> None:
    text = drafted({**CHARGE, "fee": {"electricity": 420, "service": 200}, "quantity": 7.4})

    assert "energy_wh: {paths: quantity, unit: kWh" in text
    assert "# fee_fen: {paths: fee.electricity, unit: fen}" in text
    assert "`fee.electricity` and `fee.service` together" in comment_of(text, "# fee_fen")
    assert "# energy_wh:" in drafted({**CHARGE, "fee": {"electricity": 420}})


def test_a_test_of_a_draft_has_numbers_as_numbers() -> None:
    (case,) = yaml.safe_load(drafted({**CHARGE, "dianliang": 7.4}))["tests"]

    assert case["expect"]["values"]["energy_wh"] == 7400
    assert case["expect"]["values"]["minutes"] == 60


def test_a_name_that_tells_the_unit_outweighs_the_power() -> None:
    assert "unit: Wh" in field_of(drafted({**CHARGE, "energy_wh_total": 310}), "energy_wh")


@pytest.mark.parametrize("name", ["totalMoney", "elecMoney", "电费", "chargeFee", "dianfei_jine"])
def test_money_is_not_taken_for_energy(name: str) -> None:
    text = drafted({**CHARGE, name: 21.5})

    assert "# energy_wh:" in text
    assert name in comment_of(text, "# fee_fen") or f"# fee_fen: {{paths: {name}" in text


def test_of_two_ends_the_one_that_the_duration_fits_is_taken_and_the_other_one_is_named() -> None:
    charge = {**CHARGE, "end": "2026-03-01 11:00:00"}
    del charge["end"]
    text = drafted(
        {**charge, "endTime": "2026-03-01 11:00:00", "finishTime": "2026-03-01 12:30:00", "duration": 60}
    )
    other = drafted(
        {**charge, "endTime": "2026-03-01 11:00:00", "finishTime": "2026-03-01 12:30:00", "duration": 150}
    )

    assert "paths: endTime" in field_of(text, "ended_at")
    assert "60 min after the start; or `finishTime`, 90 min later" in comment_of(text, "ended_at")
    assert "paths: finishTime" in field_of(other, "ended_at")


def test_of_several_numbers_the_one_that_differs_is_the_orders() -> None:
    text = drafted(
        {**CHARGE, "no": None, "order_no": "B", "order_code": "1"},
        {**CHARGE, "no": None, "order_no": "B", "order_code": "2"},
    )

    assert field_of(text, "order_id") == "order_code"
    assert "2 different ones in 2 orders; or `order_no`?" in comment_of(text, "order_id")


def test_without_a_number_the_car_and_its_time_are_one() -> None:
    charge = {name: value for name, value in CHARGE.items() if name != "no"}
    text = drafted(charge)

    assert field_of(text, "event_id") == '"{plate}/{started_at}"'
    (item,) = read(text, json.dumps(charge).encode())
    assert item.values is not None
    assert item.values["event_id"] == "粤B12345/2026-03-01 10:00:00"


def test_states_are_shown_for_a_gate_that_only_a_person_can_know() -> None:
    text = drafted({**CHARGE, "orderStatus": 4}, {**CHARGE, "no": "A2", "orderStatus": 2})

    assert '#   - {paths: orderStatus, not_in: ["4", "2"], reason: not_finished}' in text


STOP = {"evt": "CHG_STOP", "data": {
    "bill": "B1", "carNo": "粤B·88213", "kaishi": "2026-11-25 09:12:07", "jieshu": "2026-11-25 10:03:55", "dianliang": 2345,
    "shangbao": 1795572300123}}  # fmt: skip  # as a platform sends it
START = {"evt": "CHG_START", "data": {
    "bill": "B2", "carNo": "粤B·88214", "kaishi": "2026-11-25 10:12:07", "shangbao": 1795572800123}}  # fmt: skip  # as above
"""Neither an end nor an energy."""


def told_of(*messages: object) -> str:
    lines = "\n".join(json.dumps(message, ensure_ascii=False) for message in messages)
    return "\n".join(draft_of(lines.encode()).told)


def planned(text: str, message: object) -> str | None:
    """What becomes of a message by the draft as it is: the reason, or the rule of its request."""
    (item,) = read(text, json.dumps(message, ensure_ascii=False).encode())
    plan = book_of(text).plan(item) if isinstance(item, Order) else item
    return plan.reason if isinstance(plan, Finding) else plan.rule


@pytest.mark.parametrize("messages", [(STOP,), (STOP, START), (START, STOP)])
def test_a_charge_that_has_only_begun_is_skipped_by_the_kind_of_its_message(
    messages: Sequence[object],
) -> None:
    text = drafted(*messages)

    assert '      - {paths: "$.evt", not_in: CHG_STOP, reason: not_finished}\n' in text
    assert (planned(text, STOP), planned(text, START)) == ("charged", "not_finished")
    assert all("required: true" in field_of(text, name) for name in ("started_at", "ended_at", "energy_wh"))


def test_of_one_kind_of_message_it_is_asked_whether_there_are_others() -> None:
    assert "confirm skip: only evt = CHG_STOP was seen: is this topic only that?" in told_of(STOP)


def test_what_has_no_end_is_not_read_whole() -> None:
    told = told_of(*({**each, "data": {**each["data"], "site": "A"}} for each in (STOP, START)))  # type: ignore[dict-item]  # a dict of dicts

    assert told.startswith(
        "2 messages, 2 orders, 1 of them read whole: read plate, station and start in all, end and energy in 1"
        "\nsample:2: skipped (not_finished): `$.evt`"
    )
    assert "confirm skip: charges that have ended have evt = CHG_STOP, others CHG_START" in told


@pytest.mark.parametrize(
    "kind", ["event", "type", "status", "state", "messageType", "orderStatus", "msg_type", "eventType"]
)
def test_a_kind_of_message_is_found_by_any_usual_name_beside_the_order_and_in_it(kind: str) -> None:
    outside = [{kind: message["evt"], "data": message["data"]} for message in (STOP, START)]
    inside = [{kind: number, **message["data"]} for number, message in ((3, STOP), (1, START))]  # type: ignore[dict-item]  # a dict of dicts

    for first, second in (outside, inside):
        text = drafted(first, second)
        assert (planned(text, first), planned(text, second)) == ("charged", "not_finished")


def test_an_end_at_the_start_is_that_of_a_charge_that_has_only_begun() -> None:
    times = {"kaishi": "2026-11-25 10:12:07", "jieshu": "2026-11-25 10:12:07", "dianliang": 0}
    begun = {**START, "data": {**START["data"], **times}}  # type: ignore[dict-item]  # a dict of dicts
    text = drafted(STOP, begun)

    assert (planned(text, STOP), planned(text, begun)) == ("charged", "not_finished")


def test_without_its_kind_a_charge_that_has_only_begun_is_invalid() -> None:
    text = drafted(STOP["data"], START["data"])

    assert "skip:" not in text
    assert (planned(text, STOP["data"]), planned(text, START["data"])) == ("charged", "field_missing")


@pytest.mark.parametrize(
    "begun", [START, {**START, "data": {"bill": "B2", "carNo": "粤B·88214", "kaishi": "2026-11-25 10:12:07"}}]
)
def test_where_no_sample_surely_has_an_end_nothing_is_sent(begun: object) -> None:
    text = drafted(begun)

    assert planned(text, begun) == "charged"
    assert [rule.state for rule in book_of(text).rules] == ["shadow"]
    assert "      - {paths" not in text
    assert "0 of them read whole" in told_of(begun)


def test_a_kind_of_something_else_only_shows_a_line_that_may_be_taken_in() -> None:
    text = drafted({**CHARGE, "chargeType": "DC"})

    assert "    #   - {paths: chargeType, not_in: DC, reason: not_finished}" in text
    assert planned(text, {**CHARGE, "chargeType": "AC"}) == "charged"


def test_the_type_of_a_cloudevent_is_the_kind_of_its_message() -> None:
    around = {"specversion": "1.0", "id": "1", "source": "s"}
    done, begun = (
        {**around, "type": kind, "data": message["data"]}
        for kind, message in (("done", STOP), ("begun", START))
    )
    text = drafted(done, begun)

    assert '{paths: "$message.type", not_in: done, reason: not_finished}' in text
    assert (planned(text, done), planned(text, begun)) == ("charged", "not_finished")


def test_times_with_and_without_an_offset_are_compared_in_the_drafts_zone_and_begun_minutes_are_not_counted() -> (
    None
):
    assert "51 min after the start; or `shangbao`, 1 min later" in comment_of(drafted(STOP), "ended_at")


def test_whoever_takes_a_commented_line_in_gets_what_it_says() -> None:
    text = drafted({**CHARGE, "chargeType": 4, "totalMoney": 12.5})
    text = text.replace("    # skip:\n    #   -", "    skip:\n      -").replace("# fee_fen:", "fee_fen:")
    (item,) = read(text, json.dumps({**CHARGE, "chargeType": 4, "totalMoney": 12.5}).encode())

    assert "    skip:\n" in text
    assert isinstance(item, Order)
    assert item.values["fee_fen"] == 1250


def test_messages_in_another_charset_are_read() -> None:
    value = json.dumps({**CHARGE, "车场编号": "S1"}, ensure_ascii=False).encode("gb18030")
    text = draft_of(value).text
    (item,) = read(text, value)

    assert "envelope: [{charset: gb18030}]" in text
    assert isinstance(item, Order)
    assert item.plate == "粤B12345"


def test_a_schema_registrys_frame_is_taken_off() -> None:
    text = draft(samples_of([("sample", b"\0\0\0\0\x07" + json.dumps(CHARGE).encode())])).text

    assert "envelope: [schema_registry]" in text


# -- What is not found ---------------------------------------------------------------------------------------

STRANGE = {"hdr": {"ver": "2"}, "data": {**CHARGE, "wz": "A07", "xx": "7,4 / 3", "gun": 2, "kefu": "13800138000", "user": "李明"}}  # fmt: skip  # as a platform sends it
OTHER = {"hdr": {"ver": "2"}, "data": {**CHARGE, "no": "A2", "wz": "A07", "xx": "8", "gun": 1, "settled": "2026-03-01 11:00:02"}}  # fmt: skip  # as above


def test_where_a_field_is_not_found_those_that_are_left_over_are_shown_in_the_file_and_beside_it() -> None:
    left = [
        "`wz`: A07, in 2 of 2 orders; text, the same in all",
        "`xx`: 7,4 / 3, in 2 of 2 orders; text, 2 different ones",
        "`$.hdr.ver`: 2, in 2 of 2 orders; a number, the same in all",
        "`settled`: 19 characters, not shown here, in 1 of 2 orders; a time",
    ]
    text, told = drafted(STRANGE, OTHER), told_of(STRANGE, OTHER)

    lines = (
        text.split("# left over in the samples, if it is one of these:\n")[1].split("\n\n")[0].splitlines()
    )
    assert set(left) <= {line.removeprefix("      #   ") for line in lines}
    assert set(left) <= {line.strip() for line in told.splitlines()}
    assert all(path not in line for path in ("`no`", "`plate`", "`gun`") for line in lines)
    assert not [part for part in ("李明", "13800138000") if part in text + told]


def test_where_all_is_found_nothing_is_said_of_other_fields() -> None:
    found = {**CHARGE, "site": "S1", "kwh": 7.4, "more": "x"}

    assert "left over" not in drafted(found) + told_of(found)


def test_guns_that_every_station_has_are_given_to_none_and_it_is_said_that_any_station_is_granted() -> None:
    text, told = drafted(STRANGE, OTHER), told_of(STRANGE, OTHER)

    assert "connectors:" not in text
    assert "for whatever station a charge was at" in comment_of(text, "api_store_code")
    assert "for whatever station a charge was at" in told
    assert "read whole: read plate, start and end in all, station and energy in none" in told


def test_connectors_of_which_there_is_but_one_are_a_stations_that_check_names(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(drafted({**CHARGE, "gun": "440300-17"}), "utf-8")

    warned = [found.message for found in report.check(file).found]
    assert "`FILL-IN-STATION-1` is a draft's placeholder" in warned
    assert yaml.safe_load(file.read_text("utf-8"))["stations"]["FILL-IN-STATION-1"]["connectors"] == [
        "440300-17"
    ]
    told = comment_of(file.read_text("utf-8"), "FILL-IN-STATION-1")
    assert "those at any other end as `invalid`" in told
    assert ended_at("440300-17", file) is None
    assert ended_at("440300-18", file) == "invalid"


def ended_at(gun: str, file: Path) -> str | None:
    """How a charge at this connector ends by the drafted rules; None: with a request."""
    book = rulebook.load(file)
    value = json.dumps({**CHARGE, "gun": gun}).encode()
    (order,) = book.read_as(book.sources[0], Record(Coordinates("t", 0, 0), -1, None, value, ()), None)
    assert isinstance(order, Order)
    plan = book.plan(order)
    return plan.outcome.value if isinstance(plan, Finding) else None


# -- Whatever the JSON ------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "order_no",
        "plate",
        "车牌",
        "start_time",
        "endTime",
        "energy",
        "totalPower",
        "data",
        "orders",
        "id",
        "status",
        "duration",
        "stationId",
        "amount",
        "payload",
        "schema",
        "op",
        "after",
        "specversion",
        "type",
        "a.b",
        '"',
        "$",
    ]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from(["2026-03-01 10:00:00", "粤B12345", "10:30", "0001-01-01T00:00:00Z", '{"id": "1"}', "1772436000", "9e999"]),
    st.sampled_from([1772436000, 1772436000000, 10**25, -1, 0]),
)  # fmt: skip  # two kinds, on two lines
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=25,
)


def rules_or_problems(value: bytes) -> RuleBook | list[Problem]:
    try:
        text = draft_of(value).text
    except ConfigurationError as error:
        return error.problems
    return rulebook.parse(text)


@settings(max_examples=40)
@given(st.lists(JSON, min_size=1, max_size=3))
def test_any_json_is_a_file_that_loads_or_a_clear_error(messages: Sequence[object]) -> None:
    found = rules_or_problems("\n".join(map(json.dumps, messages)).encode())

    assert isinstance(found, RuleBook) or all(each.place.startswith("sample") for each in found)


def parts_of(body: Any) -> list[tuple[Any, Any]]:
    """All objects and lists of a message, with each of their keys or indexes."""
    inner = (
        list(body.items())
        if isinstance(body, dict)
        else list(enumerate(body))
        if isinstance(body, list)
        else []
    )
    return [(body, key) for key, _ in inner] + [part for _, value in inner for part in parts_of(value)]


REAL = [text for name in PAYLOADS if (text := bytes_of(PAYLOADS[name])) is not None and text[:1] == b"{"]


@settings(max_examples=25)
@given(st.sampled_from(REAL), st.lists(st.tuples(st.integers(0, 99), JSON), max_size=3))
def test_any_message_with_something_else_in_it_is_a_file_that_loads_or_a_clear_error(
    value: bytes, changes: Sequence[tuple[int, object]]
) -> None:
    body = json.loads(value)
    for number, other in changes:
        parts = parts_of(body)
        holder, key = parts[number % len(parts)] if parts else ({}, "")
        holder[key] = other

    found = rules_or_problems(json.dumps(body).encode())

    assert isinstance(found, RuleBook) or all(each.place.startswith("sample") for each in found)


def test_a_wrapping_without_anything_that_can_be_read_in_it_is_told() -> None:
    event = {"specversion": "1.0", "type": "charge.finished", "id": "1", "data_base64": "-"}

    with pytest.raises(ConfigurationError, match="sample:1: text in the envelope that is no base64"):
        draft_of(json.dumps(event).encode())


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_file_that_loads_or_a_clear_error(value: bytes) -> None:
    found = rules_or_problems(value)

    assert isinstance(found, RuleBook) or all(each.place.startswith("sample") for each in found)


# -- The command ------------------------------------------------------------------------------------------


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def test_a_draft_is_printed_and_what_is_left_to_do_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(CHARGE).encode())))

    assert exit_code("draft", "-") == 0

    printed = capsys.readouterr()
    rulebook.parse(printed.out)
    assert printed.err.splitlines()[0] == (
        "1 message, 1 order, 0 of them read whole: read plate, start and end in all, station and energy in none"
    )
    assert "not found: energy_wh" in printed.err.splitlines()
    assert "confirm zone: Asia/Shanghai: times come without an offset" in printed.err.splitlines()


def test_every_guess_that_is_marked_in_the_file_is_told_beside_it() -> None:
    wrapped = {"code": 0, "data": {**CHARGE, "dianliang": 3126, "zhandian": "ZD-3307", "zhuangtai": 2}}
    made = draft_of(json.dumps(wrapped).encode())

    told_ = {line.split(":")[0] for line in made.told if line.startswith("confirm ")}
    assert {"confirm orders", "confirm zone", "confirm plate", "confirm energy_wh"} <= told_


def test_a_file_that_is_there_is_overwritten_only_when_that_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, output = tmp_path / "m.json", tmp_path / "rules.yaml"
    sample.write_text(json.dumps(CHARGE), "utf-8")
    output.write_text("mine", "utf-8")

    assert exit_code("draft", str(sample), "--output", str(output)) == 2
    assert (
        f"error: --output: {output} is there already; name another file, or add --force"
        in capsys.readouterr().err
    )
    assert output.read_text("utf-8") == "mine"
    assert exit_code("draft", str(sample), "--output", str(output), "--force") == 0
    rulebook.load(output)
    assert exit_code("draft", str(sample), "--output", str(tmp_path / "none" / "r.yaml")) == 2
    assert "cannot be written: No such file or directory; name another file" in capsys.readouterr().err


def test_several_files_are_one_platforms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.json").write_text(
            json.dumps({**CHARGE, "no": f"A{number}", "site": "S", "kwh": 7.4}, indent=2), "utf-8"
        )

    assert exit_code("draft", str(tmp_path / "1.json"), str(tmp_path / "2.json")) == 0

    assert capsys.readouterr().err.splitlines()[0] == "2 messages, 2 orders, 2 of them read whole"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"a": }\n{"a": 2}\n[', ["{}:2:7: not JSON: Expecting value", "{}:4:2: not JSON: Expecting value"]),
        (b"order;plate\n1;2", ["{}:1:1: not JSON: Expecting value (perhaps separated values, such as CSV;", "{}:2:2: "]),
        (b"order=A1", ["{}:1:1: not JSON: Expecting value (a form; see `form: $` of `envelope`)"]),
        (b"", ["{}: there is no message in it"]),
        (b'{"a": NaN}', ["{}:1: NaN is not a number of JSON"]),
        (b"7", ["{}:1: a number where an object is expected"]),
        (b"null", ["{}:1: only null, which means deleted"]),
        (b"[" * 100_000, ["{}:1:1: not JSON: nested too deeply"]),
        (bytes_of(PAYLOADS["PAY-057"]), ["{}: neither JSON nor text (an LZ4 frame"]),
        ((PAYLOADS["PAY-007"]["payload"]).encode(), ["{}:1: an encrypted envelope, not an order; decrypt it upstream"]),
    ],
    ids=["broken lines", "CSV", "a form", "empty", "NaN", "a number", "null", "deep", "LZ4", "encrypted"],
)  # fmt: skip  # a case is a line
def test_what_is_no_message_is_told_with_its_place(
    content: bytes, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = tmp_path / "m.json"
    sample.write_bytes(content)

    assert exit_code("draft", str(sample)) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert [
        line.startswith(f"error: {start.format(sample)}") for line, start in zip(lines, said, strict=True)
    ] == [True] * len(said)


def test_a_file_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("draft", "nowhere.json") == 2

    assert capsys.readouterr().err == (
        "error: nowhere.json: cannot be read: No such file or directory; name a file of messages, or - for standard input\n"
    )
