"""What is said at start of a machine that cannot do the work."""

import hashlib
import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import codec
from structlog.testing import capture_logs

from consumer import selfcheck
from consumer.core.errors import ConfigurationError

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def problems() -> list[str]:
    try:
        selfcheck.check()
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_a_machine_that_can_do_the_work_is_not_spoken_of() -> None:
    assert problems() == []


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise ValueError("disabled for FIPS")

    def nowhere(key: str) -> Any:
        raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}")

    monkeypatch.setattr(hashlib, "md5", refuse)
    monkeypatch.setattr(codec, "cramjam", None)
    monkeypatch.setattr(selfcheck, "ZoneInfo", nowhere)
    md5, codecs, zones = problems()
    assert md5.startswith(
        "this machine: MD5, which the platform's signatures need, cannot be computed (disabled for FIPS); use"
    )
    assert "compressed with gzip, snappy, lz4 or zstd cannot be read" in codecs
    assert codecs.endswith("pip install --force-reinstall cramjam")
    assert "it has no time zones" in zones
    assert zones.endswith("pip install tzdata")


def test_expressions_without_zone_data_are_refused_with_where_to_find_some(tmp_path: Path) -> None:
    found = _elsewhere(TZDIR=str(tmp_path))
    assert 'the rules\' expressions have no time zones: getHours("Asia/Shanghai") gives' in found
    remedy = found.rsplit("TZDIR=", 1)[1].strip()
    assert _elsewhere(TZDIR=remedy) == ""


def test_signatures_work_where_openssl_allows_fips_algorithms_only(tmp_path: Path) -> None:
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        "openssl_conf = a\n[a]\nalg_section = b\n[b]\ndefault_properties = fips=yes\n", "utf-8"
    )
    script = (
        "import hashlib\n"
        "try:\n    hashlib.md5(b'')\nexcept ValueError:\n    print('fips', end='')\n"
        "from consumer.core.signing import sign\n"
        "assert sign({'a': '1'}, 's') == hashlib.md5(b'a=1&app_secret=s', usedforsecurity=False).hexdigest().upper()\n"
    )
    found = _elsewhere(script, OPENSSL_CONF=str(configuration))
    if not found.startswith("fips"):
        pytest.skip("this OpenSSL has no such switch")
    assert found == "fips"


def _elsewhere(first: str = "", **environ: str) -> str:
    """What a process of its own prints: the problems."""
    script = f"{first}\nfrom tests.test_selfcheck import problems\nprint('\\n'.join(problems()), end='')"
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Sun, 01 Mar 2026 12:00:20 GMT", None),
        ("Sun, 01 Mar 2026 12:01:00 GMT", -60),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 3600),
        ("yesterday", None),
        ("Sun, 01 Mar 2026 11:00:00", None),
        ("Sun, 01 Mar 99999999999 11:00:00 GMT", None),
        ("Sun, 01 Mar 2026 11:00:00 +99999999999999", None),
    ],
)
def test_a_clock_that_differs_from_the_platforms_is_told_once_in_ten_minutes(
    date: str, ahead: int | None
) -> None:
    clock = selfcheck.Clock(lambda: NOW)
    with capture_logs() as lines:
        clock.note(date)
        clock.note(date)
    assert [line["seconds_ahead"] for line in lines] == ([] if ahead is None else [ahead])
