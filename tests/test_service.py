"""What the service does with rules that come while it runs, only those that fit, all at once; what it says of itself."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from consumer import rulebook
from consumer import service as services
from consumer.core.errors import ConfigurationError
from consumer.core.events import Coordinates, Record
from consumer.core.outcomes import Outcome, OutcomeContext, Resolution
from consumer.core.replies import Answered, ReplyTable
from consumer.core.status import State, sentences
from consumer.ledger import Encoder, EndedRecord
from consumer.link import TopicPartition
from consumer.service import Service
from consumer.settings import load_settings
from tests.permits import permit_of

SETTINGS = """
kafka:
  bootstrap_servers: [localhost:9092]
  topics: {events: [charges]}
gateway: {url: "https://platform/event"}
rules: rules.yaml
secrets_dir: secrets
privacy: {plates: clear}
"""
RULES = """
version: 1
accounts:
  main: {app_id: app-1, secret: main, api_type: charging}
sources: {charges: {extends: canonical, topics: [charges]}}
rules: [{name: none, skip: policy}]
"""
OTHER = "  other: {app_id: app-2, secret: other, api_type: charging}\n"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "main").write_text("the first secret")
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    (tmp_path / "rules.yaml").write_text(RULES)
    return Service(load_settings(tmp_path / "settings.yaml", {}), rules=rulebook.parse(RULES))


def with_other() -> str:
    return RULES.replace("sources:", f"{OTHER}sources:")


def info(service: Service) -> dict[str, float]:
    (family,) = service.metrics.rules.collect()
    return {sample.labels["hash"]: sample.value for sample in family.samples}


def test_new_rules_are_in_force_and_told(service: Service) -> None:
    book = rulebook.parse(RULES.replace("app-1", "app-9"))

    service._use(book)

    assert service.rules is book
    assert info(service) == {book.hash: 1}


def test_a_new_accounts_secret_is_looked_up(service: Service, tmp_path: Path) -> None:
    before, book = service.rules, rulebook.parse(with_other())
    with pytest.raises(ConfigurationError, match="'other'"):
        service._use(book)
    assert service.rules is before
    assert info(service) == {before.hash: 1}

    (tmp_path / "secrets" / "other").write_text("another secret")
    service._use(book)

    assert service.rules is book
    assert service._credentials.secrets == {"main": "the first secret", "other": "another secret"}


def test_a_corrected_secret_is_read_with_the_rules(service: Service, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "main").write_text("the right secret")

    service._use(rulebook.parse(RULES))

    assert service._credentials.secrets == {"main": "the right secret"}


async def test_a_refused_account_is_tried_at_once_when_its_secret_was_exchanged(
    service: Service, tmp_path: Path
) -> None:
    refused = ReplyTable.defaults().classify(Answered(401, b'{"code":"401"}'), datetime.now(UTC))
    async with permit_of(service._flow, "main") as permit:
        permit.report(refused)
    assert service.ready()[1]["halted_accounts"] == {"main": "401"}

    async def probe() -> None:
        async with permit_of(service._flow, "main"):
            pass

    probing = asyncio.create_task(probe())
    await asyncio.sleep(0.05)
    assert not probing.done(), "the next probe is due in half a minute"

    (tmp_path / "secrets" / "main").write_text("the right secret")
    await service._credentials.read_again("main")

    await asyncio.wait_for(probing, 5)


def test_rules_that_read_a_topic_no_more_are_refused(service: Service) -> None:
    before = service.rules
    with pytest.raises(ConfigurationError, match="no source of the rules reads this topic"):
        service._use(rulebook.parse(RULES.replace("topics: [charges]", "topics: [others]")))

    assert service.rules is before


def test_a_topic_that_a_source_names_and_the_settings_do_not_is_named_too(service: Service) -> None:
    rules = rulebook.parse(RULES.replace("topics: [charges]", "topics: [huabei-orders]"))

    with pytest.raises(ConfigurationError) as raised:
        service._use(rules)

    assert str(raised.value.problems[0]).endswith(
        "leave topics out of the source that is for all, "
        "or put huabei-orders, which source charges reads, into kafka.topics.events"
    )


def test_a_file_that_holds_no_rules_any_more_is_refused(service: Service) -> None:
    before = service.rules
    with pytest.raises(ConfigurationError, match="no rules: every charge would end as unmatched"):
        service._use(rulebook.parse(RULES.split("rules:", maxsplit=1)[0]))

    assert service.rules is before


def test_a_service_whose_rules_have_no_files_ignores_a_wish_to_read_them(service: Service) -> None:
    service.reload()

    assert service.ready()[1]["rules_refused"] == []


# -- The status page --------------------------------------------------------------------------------


def ended(number: int) -> EndedRecord:
    """A record with one order that was granted."""
    record = Record(Coordinates("charges", 0, number), 0, None, b"{}")
    at = datetime(2026, 3, 1, tzinfo=UTC)
    values = {"plate": "粤B12345", "order_id": f"A{number}"}
    resolution = Resolution(record, 0, Outcome.GRANTED, at, values=values)
    encoder = Encoder("outcomes", "dead", OutcomeContext("cluster"))
    return EndedRecord(record, TopicPartition("charges", 0), [resolution], encoder.encode(resolution))


def test_of_many_orders_that_are_committed_the_latest_are_kept(service: Service) -> None:
    passed: list[int] = []

    for first in (0, 500, 1000):
        service._committed(
            [ended(number) for number in range(first, first + 500)], lambda done: passed.append(len(done))
        )
    service._committed([ended(2000)], lambda done: passed.append(len(done)))

    recent = service.status().recent
    assert [each.order_id for each in recent] == [
        "A2000",
        *(f"A{last - number}" for last in (1499, 999, 499) for number in range(10)),
    ][:30]
    assert {each.plate for each in recent} == {"粤B****5"}
    assert passed == [500, 500, 500, 1]
    assert service.status().ledger.committed_at is not None


def test_a_service_that_has_not_reached_kafka_yet_tells_what_it_waits_for(service: Service) -> None:
    status = service.status()

    assert sentences(status, UTC)[0] == (State.STARTING, "Waiting for Kafka: starting")
    assert (status.ready, status.partitions, status.recent) == (False, [], [])
    assert status.rules.hash == service.rules.hash
    assert [account.endpoint for account in status.accounts] == ["https://platform/event"]


def test_no_secret_and_no_plate_gets_into_the_status_by_whatever_way(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.logs._in_use", ["the first secret"])
    service._waiting.what = "topic the first secret: 粤BD12345 is \ud800"
    url = "https://platform/event?key=the-first-key"
    service._use(rulebook.parse(RULES.replace("api_type: charging", f'api_type: charging, url: "{url}"')))

    status = service.status()

    assert status.waiting_for == "topic ***: *** is ?"
    assert status.accounts[0].endpoint == "https://platform/event"


# -- Traces -----------------------------------------------------------------------------------------


def test_traces_without_the_package_for_them_are_a_mistake_in_the_settings(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = load_settings(
        tmp_path / "settings.yaml", {"CHARGING_COUPON__TRACING__ENDPOINT": "http://collector:4318"}
    )
    monkeypatch.delitem(sys.modules, "consumer.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)

    with pytest.raises(ConfigurationError, match=r"tracing\.endpoint: .*opentelemetry.*\[tracing\]"):
        Service(traced, rules=service.rules)


def test_all_secrets_of_the_ways_out_are_known_so_that_no_line_holds_them(
    service: Service, tmp_path: Path
) -> None:
    variables = {
        "SECRETS__PROXY": "us:pw",
        "GATEWAY__PROXY": "http://p:1",
        "GATEWAY__PROXY_CREDENTIALS": "proxy",
    }
    variables |= {"SECRETS__COLLECTOR": "api-key=k", "TRACING__HEADERS": "collector"}
    chosen = load_settings(
        tmp_path / "settings.yaml", {f"CHARGING_COUPON__{name}": text for name, text in variables.items()}
    )

    assert set(Service(chosen, rules=service.rules).secrets) == {"the first secret", "us:pw", "api-key=k"}


def test_who_asks_for_no_traces_has_nobody_who_makes_them(service: Service) -> None:
    assert service._tracing is None


async def test_a_bug_in_what_is_done_beside_all_else_is_told_and_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "BESIDE_SECONDS", 0.01)
    begun = 0
    goes_on = asyncio.Event()

    async def watch() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ZeroDivisionError
        goes_on.set()
        await asyncio.Event().wait()

    with capture_logs() as lines:
        async with services._beside(watch), asyncio.timeout(5):
            await goes_on.wait()
    assert [line["event"] for line in lines] == ["service.beside_failed"] * 2
    assert all("watch" in line["work"] for line in lines)
