"""What the service does with rules that come while it runs: only those that fit its settings, all at once."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer import rulebook
from consumer.core.errors import ConfigurationError
from consumer.core.replies import Answered, ReplyTable
from consumer.service import Service
from consumer.settings import load_settings

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
    async with service._flow.permit("main") as permit:
        permit.report(refused)
    assert service.ready()[1]["halted_accounts"] == {"main": "401"}

    async def probe() -> None:
        async with service._flow.permit("main"):
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


def test_a_file_that_holds_no_rules_any_more_is_refused(service: Service) -> None:
    before = service.rules
    with pytest.raises(ConfigurationError, match="no rules: every charge would end as unmatched"):
        service._use(rulebook.parse(RULES.split("rules:", maxsplit=1)[0]))

    assert service.rules is before


def test_a_service_whose_rules_have_no_files_ignores_a_wish_to_read_them(service: Service) -> None:
    service.reload()

    assert service.ready()[1]["rules_refused"] == []
