"""The sandbox's platform: whom it grants a coupon, whom it refuses, and what its journal remembers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest
import typer

from consumer.cli.sandbox import _apps, sandbox
from consumer.core.errors import ConfigurationError
from consumer.core.outcomes import Outcome
from consumer.core.replies import Answered, AttemptEnd, NoAnswer, Reply, ReplyTable
from consumer.gateway import HttpGateway, Options
from consumer.sandbox.answers import ANSWERS, PLATE_ENDINGS, Answer, Call, Delivery, check_rates, load_script
from consumer.sandbox.gateway import DEMO_APP_ID, DEMO_APP_SECRET, SandboxGateway
from consumer.sandbox.scenarios import Phase, Scenario
from consumer.sandbox.verify import expected_sign


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session


def _form(event_id: str = "E1", plate: str = "粤B12345", **more: str) -> dict[str, str]:
    parameters = {
        "app_id": DEMO_APP_ID,
        "api_store_code": "S1",
        "api_type": "CHARGING",
        "event_id": event_id,
        "plate": plate,
        "subject": f"【{plate}】充电 减免+1% &=~*",
    } | more
    return parameters | {"sign": expected_sign(parameters, DEMO_APP_SECRET)}


async def _post(http: aiohttp.ClientSession, gateway: SandboxGateway, **form: str) -> tuple[int, str, bytes]:
    """HTTP status, code, body."""
    async with http.post(gateway.url, data=_form(**form), allow_redirects=False) as response:
        body = await response.read()
    try:
        return response.status, str(json.loads(body)["code"]), body
    except ValueError:
        return response.status, "", body


async def test_a_coupon_is_granted_once_for_each_event_id(http: aiohttp.ClientSession) -> None:
    async with SandboxGateway() as gateway:
        status, code, body = await _post(http, gateway)
        again = await _post(http, gateway)
        other = await _post(http, gateway, event_id="E2")

    assert (status, code) == (200, "1001")
    assert json.loads(body)["payload"]["grant_serial"] == gateway.journal.grants["E1"]
    assert again[:2] == (200, "1403")
    assert other[:2] == (200, "1001")
    assert [entry.granted for entry in gateway.journal.entries] == [True, False, True]


async def test_a_form_that_is_not_in_order_is_refused_and_grants_nothing(
    http: aiohttp.ClientSession,
) -> None:
    async with SandboxGateway() as gateway:
        async with http.post(gateway.url, data=_form() | {"plate": "粤B54321"}) as response:
            refused = await response.json()
        async with http.post(gateway.url, data={"plate": "粤B12345"}) as response:
            missing = await response.json()

    assert (refused["code"], refused["message"]) == ("401", "签名验证不通过")
    assert (missing["code"], missing["hint"]) == ("400", "`app_id` Required!")
    assert missing["path"] == "POST /gate/1.0/parking/mcoupon/event"
    assert gateway.journal.grants == {}
    assert gateway.journal.unverified == 1


METADATA = {
    "json": {"metadata": '{"minutes":{"name":"m","value":1}}'},
    "dotted": {"metadata.minutes.name": "m", "metadata.minutes.value": "1"},
    "bracketed": {"metadata[minutes].name": "m", "metadata[minutes].value": "1"},
}


@pytest.mark.parametrize("only", [*METADATA, None])
async def test_a_strict_platform_understands_metadata_in_one_form_only(
    http: aiohttp.ClientSession, only: str | None
) -> None:
    async with SandboxGateway(metadata_form=only) as gateway:
        codes = {form: (await _post(http, gateway, event_id=form, **METADATA[form]))[1] for form in METADATA}
        without = (await _post(http, gateway, event_id="none"))[1]

    assert codes == {form: "1001" if only in (form, None) else "400" for form in METADATA}
    assert without == "1001"


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        (ending, ANSWERS[names[0]].status, ANSWERS[names[0]].code)
        for ending, names in PLATE_ENDINGS.items()
        if ANSWERS[names[0]].delivery == "reply"
    ],
)
async def test_a_plate_chooses_its_answer(
    http: aiohttp.ClientSession, ending: str, status: int, code: str | None
) -> None:
    async with SandboxGateway() as gateway:
        assert (await _post(http, gateway, plate=f"粤BX{ending}"))[:2] == (status, code or "")


@pytest.mark.parametrize("ending", ["8002", "8401", "8405", "8429", "8500", "8503"])
async def test_plates_that_begin_with_8_meet_trouble_once(http: aiohttp.ClientSession, ending: str) -> None:
    async with SandboxGateway() as gateway:
        first = await _post(http, gateway, plate=f"粤BX{ending}")
        second = await _post(http, gateway, plate=f"粤BX{ending}")

    assert first[1] != "1001"
    assert second[1] == "1001"


@pytest.mark.parametrize(("ending", "granted"), [("9003", True), ("9004", False), ("8403", True)])
async def test_a_reply_that_is_cut_off_may_have_granted(
    http: aiohttp.ClientSession, ending: str, granted: bool
) -> None:
    async with SandboxGateway() as gateway:
        with pytest.raises(aiohttp.ClientError):
            await _post(http, gateway, plate=f"粤BX{ending}")

        assert ("E1" in gateway.journal.grants) == granted
        if granted:
            assert (await _post(http, gateway, plate=f"粤BX{ending}"))[1] == "1403"


async def test_a_call_that_hangs_does_not_hold_up_the_end(http: aiohttp.ClientSession) -> None:
    gateway = SandboxGateway()
    await gateway.start()
    call = asyncio.create_task(_post(http, gateway, plate="粤BX9005"))
    while not gateway.journal.calls:  # noqa: ASYNC110  # a test may poll
        await asyncio.sleep(0.01)

    async with asyncio.timeout(30):
        await gateway.stop()

    with pytest.raises(aiohttp.ClientError):
        await call


async def test_a_script_decides_before_the_plate(http: aiohttp.ClientSession) -> None:
    def script(call: Call) -> Answer | None:
        return ANSWERS["1003"] if call.event_id == "E1" and call.nth == 1 else None

    async with SandboxGateway(script=script) as gateway:
        assert (await _post(http, gateway, plate="粤BX1002"))[1] == "1003"
        assert (await _post(http, gateway, plate="粤BX1002"))[1] == "1002"


async def test_a_script_can_stand_in_a_file(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text(
        '- {plate: "^粤B", nth: 1, answer: "503", retry_after: 7}\n- {event_id: "-7$", answer: "1401"}\n',
        "utf-8",
    )

    async with SandboxGateway(script=load_script(file)) as gateway:
        async with http.post(gateway.url, data=_form("E-7")) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "7")
        assert (await _post(http, gateway, event_id="E-7"))[1] == "1401"
        assert (await _post(http, gateway, event_id="E-8", plate="川A12345"))[1] == "1001"


def test_a_script_that_cannot_be_used_names_every_line(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text('- {answer: "1234"}\n- {answer: "503", plate: "["}\n- {answer: "503", plates: x}\n- 1\n')

    with pytest.raises(ConfigurationError) as caught:
        load_script(file)

    lines = str(caught.value).splitlines()
    assert [line.split(", line ")[1].split(" of")[0] for line in lines] == ["1", "2", "3", "4"]
    assert "answer '1234' is none of 1001, 1002" in lines[0]
    assert "has unknown fields: plates" in lines[2]


@pytest.mark.parametrize(
    ("failures", "message"), [({"504": 0.1}, "failure 504=0.1"), ({"503": 0.7, "500": 0.7}, "add up to more")]
)
def test_failures_that_cannot_be_drawn_are_refused(failures: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SandboxGateway(failures=failures)


async def test_chance_is_the_same_for_the_same_seed_whatever_the_order(http: aiohttp.ClientSession) -> None:
    async def answers(seed: int, order: list[str]) -> dict[str, str]:
        async with SandboxGateway(failures={"1003": 0.5}, seed=seed) as gateway:
            return {event_id: (await _post(http, gateway, event_id=event_id))[1] for event_id in order}

    names = [f"E{number}" for number in range(20)]
    forwards = await answers(7, names)

    assert await answers(7, names[::-1]) == forwards
    assert await answers(8, names) != forwards
    assert set(forwards.values()) == {"1001", "1003"}


async def test_latency_is_kept_and_overlaps_are_counted(http: aiohttp.ClientSession) -> None:
    async with SandboxGateway(latency=0.1) as gateway:
        replies = await asyncio.gather(
            _post(http, gateway, event_id="E1"),
            _post(http, gateway, event_id="E1"),
            _post(http, gateway, event_id="E2"),
            _post(http, gateway, event_id="E3", plate="川A12345"),
        )
    journal = gateway.journal

    assert sorted(code for _, code, _ in replies) == ["1001", "1001", "1001", "1403"]
    assert all(entry.seconds >= 0.1 for entry in journal.entries)
    assert (journal.max_in_flight, journal.event_overlaps, journal.plate_overlaps) == (4, 1, 2)


async def test_the_journal_shows_every_call_and_no_whole_plate(http: aiohttp.ClientSession) -> None:
    async with SandboxGateway() as gateway:
        await _post(http, gateway, event_id="<script>alert(1)</script>")
        async with http.get(gateway.base_url + "/") as response:
            page = await response.text()
        async with http.get(gateway.base_url + "/journal") as response:
            text = await response.text()

    assert "12345" not in page + text
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    entry = json.loads(text)["entries"][0]
    assert (entry["plate"], entry["answer"], entry["verified"]) == ("粤B***", "1001", True)
    assert entry["parameters"]["subject"] == "【粤B***】充电 减免+1% &=~*"
    assert "sign" not in entry["parameters"]


async def test_a_wrong_path_or_method_is_answered_in_an_envelope(http: aiohttp.ClientSession) -> None:
    async with SandboxGateway() as gateway:
        async with http.post(gateway.url + "/create", data=_form()) as response:
            assert (await response.json())["code"] == "404"
        async with http.get(gateway.url) as response:
            assert (await response.json())["code"] == "405"


async def test_grants_survive_a_restart_with_a_journal_file(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "journal.jsonl"
    async with SandboxGateway(journal_file=file) as gateway:
        await _post(http, gateway, event_id="E1")
        await _post(http, gateway, event_id="E2", plate="粤BX8503")
    with file.open("a") as lines:
        lines.write('{"granted": "E9", "grant')  # killed while it wrote

    async with SandboxGateway(journal_file=file) as gateway:
        assert (await _post(http, gateway, event_id="E1"))[1] == "1403"
        assert (await _post(http, gateway, event_id="E2", plate="粤BX8503"))[1] == "1001"

    async with SandboxGateway(journal_file=file) as gateway:
        assert set(gateway.journal.grants) == {"E1", "E2"}


async def test_a_scenario_begins_with_the_first_call_and_fails_calls_before_the_plate_has_its_say(
    http: aiohttp.ClientSession,
) -> None:
    trouble = Phase("trouble", "fails everything", 0.5, (0.0, 0.0), failures={"503": 1.0})
    well = Phase("well", "answers", 1.0, (0.05, 0.05))
    scenario = Scenario("short", "first trouble", (trouble, well), events=1)
    async with SandboxGateway(scenario=scenario) as gateway:
        await asyncio.sleep(0.6)
        statuses = [(await _post(http, gateway, event_id=each, plate="粤BX1003"))[0] for each in ("E1", "E2")]
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        later = await _post(http, gateway, event_id="E1", plate="粤BX1003")

    assert statuses == [503, 503]
    assert later[1] == "1003"
    assert time.monotonic() - begun > 0.015  # 0.05 less its jitter


async def test_a_lost_reply_grants_only_what_the_plate_would_be_granted_and_only_once(
    http: aiohttp.ClientSession,
) -> None:
    losing = Phase("losing", "loses replies", 60.0, (0.0, 0.0), failures={"lost": 1.0})
    async with SandboxGateway(scenario=Scenario("lost", "", (losing,), events=1)) as gateway:
        for event_id, plate in (("E1", "粤B12345"), ("E1", "粤B12345"), ("E2", "粤BX1003")):
            with pytest.raises(aiohttp.ClientError):
                await _post(http, gateway, event_id=event_id, plate=plate)
        assert list(gateway.journal.grants) == ["E1"]
        assert [entry.answer for entry in gateway.journal.entries] == ["lost", "reset", "reset"]


async def test_calls_that_the_scenario_failed_do_not_count_for_what_the_plate_tells(
    http: aiohttp.ClientSession,
) -> None:
    trouble = Phase("trouble", "fails everything", 0.2, (0.0, 0.0), failures={"503": 1.0})
    well = Phase("well", "answers", 1.0, (0.0, 0.0))
    scenario = Scenario("short", "first trouble", (trouble, well), events=1)
    async with SandboxGateway(scenario=scenario) as gateway:
        await _post(http, gateway, plate="粤BX8002")
        await asyncio.sleep(0.25)
        codes = [(await _post(http, gateway, plate="粤BX8002"))[1] for _ in range(2)]

    assert codes == ["1002", "1001"]


_LOST = {
    Delivery.RESET: NoAnswer,
    Delivery.RESET_DURING: NoAnswer,
    Delivery.TRUNCATE: NoAnswer,
    Delivery.SHORT_LENGTH: Answered | NoAnswer,
    Delivery.LONG_LENGTH: NoAnswer,
    Delivery.OVERSIZED: Answered,
    Delivery.TRICKLE: NoAnswer,
    Delivery.HANG: NoAnswer,
}


async def _two_calls(delivery: Delivery) -> tuple[list[Reply], list[AttemptEnd], SandboxGateway]:
    """By the service's own client: for two orders, one after the other."""
    phase = Phase("wire", "misbehaves", 60.0, (0.0, 0.0), deliveries={delivery: 1.0})
    async with (
        SandboxGateway(scenario=Scenario("wire", "", (phase,), events=1)) as platform,
        HttpGateway(Options(total_seconds=0.5)) as client,
    ):
        forms = [urlencode(_form(event_id=each)).encode() for each in ("E1", "E2")]
        ends = [await client.post(platform.url, form) for form in forms]
    table = ReplyTable.defaults()
    return [table.classify(end, datetime.now(UTC)) for end in ends], ends, platform


@pytest.mark.parametrize("delivery", [Delivery.CHUNKED, Delivery.INTERIM, Delivery.STALE])
async def test_a_reply_in_a_seldom_but_lawful_way_is_heard(delivery: Delivery) -> None:
    replies, ends, platform = await _two_calls(delivery)

    assert [reply.outcome for reply in replies] == [Outcome.GRANTED] * 2
    assert [end.resent for end in ends if isinstance(end, Answered)] == [False, delivery is Delivery.STALE]
    assert len(platform.journal.entries) == 2


@pytest.mark.parametrize("delivery", _LOST)
async def test_a_reply_that_is_lost_on_its_way_leaves_it_open_whether_there_is_a_coupon(
    delivery: Delivery,
) -> None:
    replies, ends, platform = await _two_calls(delivery)

    assert all(isinstance(end, _LOST[delivery]) for end in ends)
    assert [(reply.outcome, reply.ambiguous) for reply in replies] == [(Outcome.PLATFORM_FAILED, True)] * 2
    assert len(platform.journal.grants) == 2
    assert {entry.delivery for entry in platform.journal.entries} == {delivery}


async def test_a_connection_that_is_reset_after_the_reply_may_or_may_not_have_been_heard() -> None:
    replies, _, platform = await _two_calls(Delivery.RESET_AFTER)

    assert all(reply.outcome is Outcome.GRANTED or reply.ambiguous for reply in replies)
    assert len(platform.journal.grants) == 2


async def test_on_a_half_open_connection_the_next_call_finds_nobody() -> None:
    replies, ends, platform = await _two_calls(Delivery.HALF_OPEN)

    assert replies[0].outcome is Outcome.GRANTED
    assert ends[1] == NoAnswer("timeout")
    assert set(platform.journal.grants) == {"E1"}


def test_a_scenario_and_a_latency_exclude_each_other() -> None:
    with pytest.raises(typer.BadParameter, match="--scenario sets latency and jitter"):
        sandbox(scenario="slow", latency=0.5)


@pytest.mark.parametrize(
    "ignored", [False, True], ids=["by a terminal", "as shells start it in the background"]
)
def test_the_command_serves_until_it_is_interrupted(*, ignored: bool) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    handler = "SIG_IGN" if ignored else "default_int_handler"
    program = (
        f"import signal, typer; signal.signal(signal.SIGINT, signal.{handler}); "
        "from consumer.cli.sandbox import sandbox; typer.run(sandbox)"
    )
    command = [sys.executable, "-c", program, "--port", "0", "--scenario", "brown-out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    said = b""
    while b"Ctrl-C" not in said:
        said += process.stdout.readline()
        assert process.poll() is None, said
    assert b"8 s   the platform fails most calls" in said

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)

    assert process.returncode == 0


def test_an_apps_secret_loses_the_newline_that_a_file_ends_with() -> None:
    assert _apps(["app-1=geheim\n", "app-2=a=b\r\n"]) == {"app-1": "geheim", "app-2": "a=b"}


def test_a_rate_that_is_none_is_one_mistake_and_not_told_again_as_their_sum() -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_rates({"503": 2.0})

    assert [problem.place for problem in refused.value.problems] == ["failure 503=2.0"]


def test_a_script_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"none\.yaml: cannot be read: No such file or directory; give"
    ):
        load_script(tmp_path / "none.yaml")
