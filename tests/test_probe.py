"""`charging-coupon probe`: what is sent after a yes, over real HTTP, and how the replies are told."""

import asyncio
import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumer import cli
from consumer.core.coupons import MetadataFormat
from consumer.sandbox.gateway import SandboxGateway
from consumer.sandbox.journal import Journal

RULES = """
version: 1
accounts:
  main: {app_id: op01, secret: main, api_type: "5", parameters: {merchant: m-1}}
sources: {charging: {extends: canonical, zone: Asia/Shanghai}}
stations: {S1: {api_store_code: store-1}}
rules:
  - {name: hardly-charged, when: seconds < 600, skip: below_threshold}
  - name: two-hours-free
    account: main
    subject: "【{plate}】充电 {minutes} 分钟"
    metadata: {minutes: {name: 充电时长, value: "math.least(minutes, 120)"}}
"""
SECRET = "the secret of op01"
EVENT = {
    "order_id": "A1",
    "plate": "粤BD12345",
    "station_id": "S1",
    "started_at": "2026-03-01 10:00:00",
    "ended_at": "2026-03-01 11:30:00",
}
PLATE = ("--plate", "粤B12345", "--store", "store-1")

pytestmark = pytest.mark.usefixtures("logging_as_before")


@contextmanager
def served(gateway: SandboxGateway) -> Iterator[str]:
    """On a loop and a thread of its own: the command has its own loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(gateway.start(), loop).result(10)
        yield gateway.url
    finally:
        asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHARGING_COUPON__SETTINGS", raising=False)
    (tmp_path / "rules.yaml").write_text(RULES, "utf-8")
    (tmp_path / "event.json").write_text(json.dumps(EVENT, ensure_ascii=False), "utf-8")
    return tmp_path


@pytest.fixture
def told(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def tell(url: str, *arguments: str) -> str:
        (folder / "settings.yaml").write_text(
            f"gateway: {{url: '{url}', connect_timeout: 1s, total_timeout: 2s}}\nrules: rules.yaml\nsecrets: {{main: {SECRET}}}\n"
        )
        with pytest.raises(SystemExit) as ended:
            cli.main(["probe", "--settings", "settings.yaml", *arguments])
        printed = capsys.readouterr()
        return f"{printed.out}{printed.err}exit {ended.value.code}\n"

    return tell


Told = Callable[..., str]
NOWHERE = "http://127.0.0.1:1/"


def forms_of(journal: Journal) -> list[str]:
    """In which forms it was asked."""
    names = (",".join(entry.parameters) for entry in journal.entries)
    return [
        "dotted" if "metadata." in each else "bracketed" if "metadata[" in each else "json" for each in names
    ]


def test_of_a_file_of_events_one_has_to_be_named(folder: Path, told: Told) -> None:
    line = json.dumps(EVENT)
    (folder / "events.jsonl").write_text(f"{line}\n{line}\n", "utf-8")

    assert told(NOWHERE, "events.jsonl", "--yes") == (
        "error: events.jsonl: holds 2 events, a line each; "
        "give it one: sed -n 1p events.jsonl | charging-coupon probe -\nexit 2\n"
    )


@pytest.mark.parametrize("form", MetadataFormat)
def test_the_one_form_that_a_platform_accepts_is_named_with_the_line_to_write(
    form: MetadataFormat, told: Told
) -> None:
    with served(gateway := SandboxGateway(apps={"op01": SECRET}, metadata_form=form)) as url:
        text = told(url, *PLATE, "--yes")

    tried = list(MetadataFormat)[: list(MetadataFormat).index(form) + 1]
    assert forms_of(gateway.journal) == tried
    assert [entry.granted for entry in gateway.journal.entries] == [*(False for _ in tried[1:]), True]
    has_it = "The platform accepts metadata as json: account main has that already (rules.yaml:4:9).\n"
    line = f"The platform accepts metadata as {form}. Write under account main (rules.yaml:4:9):\n  metadata_format: {form}\n"
    assert text.endswith(f"\n\n{has_it if form == 'json' else line}exit 0\n")
    assert text.count("The platform finds fault with the form. Nothing was granted.") == len(tried) - 1


@pytest.mark.parametrize("form", MetadataFormat)
def test_a_car_that_is_not_in_the_lot_tells_it_too_and_costs_no_coupon(
    form: MetadataFormat, told: Told
) -> None:
    with served(gateway := SandboxGateway(apps={"op01": SECRET}, metadata_form=form)) as url:
        text = told(url, "--plate", "粤BX1002", "--store", "store-1", "--yes")

    assert forms_of(gateway.journal) == ["json", "dotted", "bracketed"]
    assert gateway.journal.grants == {}
    assert f"\nThe platform accepts metadata as {form}" in text


def test_where_every_form_is_answered_alike_none_is_named(told: Told) -> None:
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        text = told(url, "--plate", "粤BX1002", "--store", "store-1", "--yes")

    assert text.endswith(
        "\nWhich form of metadata the platform accepts, these replies do not tell.\nexit 1\n"
    )
    assert len({entry.event_id for entry in gateway.journal.entries}) == 1


@pytest.mark.parametrize(
    ("ending", "told_", "exit_code"),
    [
        ("0401", "401 未授权 (app blocked)", 4),
        ("0403", "403 禁止访问 (app blocked)", 4),
        ("0302", "3xx", 4),
        ("1003", "1003 优惠限制", 1),
        ("0503", "503 服务不可用", 1),
        ("0429", "429 请求过于频繁", 1),
        ("1999", "1999 未知", 1),
        ("9003", "reset", 1),
        ("8403", "reset", 1),
    ],
)
def test_a_reply_that_says_nothing_of_the_form_ends_it(
    ending: str, told_: str, exit_code: int, told: Told
) -> None:
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        text = told(url, "--plate", f"粤BX{ending}", "--store", "store-1", "--yes")

    assert f"\n1 of 3, json: {told_}\n" in text
    assert gateway.journal.calls == 1
    assert text.endswith(f"these replies do not tell.\nexit {exit_code}\n")


def test_a_platform_that_is_not_there_ends_it(told: Told) -> None:
    text = told(NOWHERE, *PLATE, "--yes")

    assert "Nothing was sent: the platform was not reached." in text
    assert "2 of 3, dotted:" not in text
    assert text.endswith("exit 1\n")


def test_a_wrong_secret_is_suspected_where_every_signature_is_refused(told: Told) -> None:
    with served(gateway := SandboxGateway(apps={"op01": "another secret"})) as url:
        text = told(url, *PLATE, "--yes")

    assert gateway.journal.unverified == 3
    assert (
        text.count("= if it is so with every form, the secret is not the one that the platform allotted") == 3
    )
    assert text.endswith("exit 1\n")


def test_no_second_coupon_is_ever_granted(told: Told) -> None:
    """Neither after a reply that was lost, nor when it is asked again with the same event_id."""
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        first = told(url, "--plate", "粤BX8403", "--store", "store-1", "--yes")
        again = told(
            url, "--plate", "粤BX8403", "--store", "store-1", "--yes", "--event-id", *gateway.journal.grants
        )

    assert "Nobody knows whether the coupon was granted" in first
    assert "This event_id was granted before, so that no further coupon was." in again
    assert len(gateway.journal.grants) == 1
    assert [entry.granted for entry in gateway.journal.entries].count(True) == 1


# -- What is shown, and the yes -----------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "calls"), [("yes\n", 1), ("y\n", 0), ("\n", 0), ("", 0), ("no\n", 0)])
def test_only_a_typed_yes_sends(typed: str, calls: int, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        text = told(url, *PLATE)

    assert gateway.journal.calls == calls
    assert ("Nothing was sent.\nexit 0\n" in text) == (calls == 0)
    assert text.index(
        "Up to 3 requests are sent, of one event_id: one coupon at most is granted, a real one unless this is a sandbox.\n"
    ) < text.index("Type yes to send: ")


def test_where_nobody_can_be_asked_it_is_shown_and_not_sent(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        text = told(url, *PLATE)

    assert gateway.journal.calls == 0
    assert "3 of 3, metadata as bracketed\n" in text
    assert text.endswith(
        "error: probe: nobody can be asked: standard input is no terminal; add --yes to send what is shown\nexit 2\n"
    )


def test_what_is_shown_is_what_is_sent_and_holds_no_secret_and_no_whole_plate(told: Told) -> None:
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        whole = told(url, "event.json", "--yes", "--reveal", "--event-id", "E1")
        masked = told(url, "event.json", "--yes", "--event-id", "E2")

    shown = dict(
        re.findall(r"^    (\w+) +(.+)$", whole.split("1 of 3")[1].split("signed text")[0], re.MULTILINE)
    )
    first = gateway.journal.entries[0].parameters
    assert {name: text for name, text in shown.items() if name != "sign"} == dict(first)
    assert first["metadata"] == '{"minutes":{"name":"充电时长","value":90}}'
    assert (first["event_id"], first["merchant"], first["subject"]) == (
        "E1",
        "m-1",
        "【粤BD12345】充电 90 分钟",
    )
    assert "粤BD12345" in whole
    assert [word for word in ("粤BD12345", "BD12345", SECRET) if word in masked] == []
    assert SECRET not in whole


def test_an_events_request_can_be_for_another_car_and_another_lot(told: Told) -> None:
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        told(
            url,
            "event.json",
            "--yes",
            "--plate",
            "粤b·54321",
            "--store",
            "store-2",
            "--metadata",
            "minutes=7",
        )

    (entry,) = gateway.journal.entries
    assert entry.parameters["subject"] == "【粤B54321】充电 90 分钟"
    assert (entry.plate, entry.event_id, entry.parameters["api_store_code"]) == ("粤B54321", "A1", "store-2")
    assert entry.parameters["metadata"] == '{"minutes":{"name":"充电时长","value":7}}'


def test_without_metadata_there_is_one_request_which_tells_no_form(folder: Path, told: Told) -> None:
    (folder / "rules.yaml").write_text(re.sub(r"    metadata: .*\n", "", RULES), "utf-8")
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        text = told(url, *PLATE, "--yes")

    assert gateway.journal.calls == 1
    assert "One request is sent" in text
    assert text.endswith("its reply says nothing of the form; with --metadata it has.\nexit 0\n")


def test_forms_can_be_chosen_and_an_account_on_trial_asks_all_the_same(folder: Path, told: Told) -> None:
    (folder / "rules.yaml").write_text(RULES.replace("secret: main", "secret: main, state: shadow"), "utf-8")
    with served(gateway := SandboxGateway(apps={"op01": SECRET})) as url:
        text = told(url, *PLATE, "--yes", "--form", "bracketed", "--form", "json")

    assert "account  main, which is on shadow: this is sent all the same\n" in text
    assert "2 of 2, metadata as json\n" in text
    assert forms_of(gateway.journal) == ["bracketed"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "--plate: a coupon is for a car; give its plate, or a file with an event"),
        (("--plate", " - "), "--plate: a coupon is for a car; give its plate, or a file with an event"),
        (("--plate", "粤B12345"), "--store: a coupon is for a lot; give its api_store_code, such as store-1"),
        ((*PLATE, "--account", "mian"), "--account: there is no account `mian`; did you mean `main`?"),
        ((*PLATE, "--rule", "hardly-charged"), "--rule: no rule `hardly-charged` asks for coupons; known here: two-hours-free"),
        ((*PLATE, "--metadata", "minutes"), "--metadata: 'minutes' is no KEY=VALUE; write it like minutes=30"),
        ((*PLATE, "--metadata", "m=2147483648"), "--metadata: 'm=2147483648' is no KEY=VALUE; write it like minutes=30"),
        (("none.json",), "none.json: cannot be read: No such file or directory; name a file with one event"),
        (("short.json",), "short.json: no coupon is asked for it; `charging-coupon explain` tells why"),
    ],
)  # fmt: skip  # a line each
def test_what_cannot_be_asked_for_is_refused(
    arguments: tuple[str, ...], complaint: str, folder: Path, told: Told
) -> None:
    (folder / "short.json").write_text(json.dumps({**EVENT, "ended_at": EVENT["started_at"]}), "utf-8")

    assert told(NOWHERE, *arguments, "--yes") == f"error: {complaint}\nexit 2\n"
