"""The chart scales on work that members could do: an outage of the platform asks for none, a backlog does.

promtool evaluates the rendered query (`.ci/helm` has it and helm).
"""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.test_chart import CI, kinds, rendered

pytestmark = pytest.mark.skipif(
    shutil.which("helm") is None or shutil.which("promtool") is None,
    reason="helm or promtool is not on the PATH; .ci/helm has them",
)

PARTITIONS = range(4)
LAG = "2x2 600+600x29 12000-1000x12 0x60"
"""It begins after two minutes and lasts half an hour; ten records a second come."""

CAN_BE_DONE = "2x2 300 0x29 12000-1000x12 0x60"
"""The breaker opens within a minute; the backlog is what remains when it closes."""


def series(
    name: str, values: str, *, topic: str = "events", pod: str = "a", partition: int = 0
) -> dict[str, str]:
    pod = f"coupons-charging-coupon-consumer-{pod}"
    labels = f'namespace="parking", pod="{pod}", topic="{topic}", partition="{partition}"'
    return {"series": f"{name}{{{labels}}}", "values": values}


def can_be_done(values: str, *, pod: str = "a", partition: int = 0) -> dict[str, str]:
    return series("coupon_partition_admissible_records", values, pod=pod, partition=partition)


def trigger() -> dict[str, str]:
    """What KEDA is told."""
    values = next(file for file in CI if file.stem == "keda-values")
    (scaled,) = kinds(rendered(values), "ScaledObject")
    metadata: dict[str, str] = scaled["spec"]["triggers"][0]["metadata"]
    return metadata


def asked_for(tmp_path: Path, given: list[dict[str, str]], expected: dict[str, int]) -> list[int]:
    """Replicas at these times; promtool holds the query's values against the expected ones."""
    metadata = trigger()
    tests = [
        {"expr": metadata["query"], "eval_time": at, "exp_samples": [{"labels": "{}", "value": value}]}
        for at, value in expected.items()
    ]
    file = tmp_path / "scaling.yaml"
    case = {"interval": "1m", "input_series": given, "promql_expr_test": tests}
    file.write_text(yaml.safe_dump({"tests": [case]}), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [math.ceil(value / int(metadata["threshold"])) for value in expected.values()]


def test_half_an_hour_without_the_platform_and_full_retry_topics_ask_for_no_replica(tmp_path: Path) -> None:
    given = [can_be_done(CAN_BE_DONE, partition=number) for number in PARTITIONS]
    given += [series("coupon_partition_lag", LAG, partition=number) for number in PARTITIONS]
    given += [
        series("coupon_partition_lag", "50000+0x90", topic=topic, partition=number)
        for topic in ("coupon-retries.1m", "coupon-retries.5m", "coupon-retries.30m")
        for number in PARTITIONS
    ]

    outage = {f"{minute}m": 0 for minute in range(4, 32, 3)}
    assert set(asked_for(tmp_path, given, outage)) == {0}


def test_what_has_gathered_by_then_is_a_backlog_until_it_is_done(tmp_path: Path) -> None:
    given = [can_be_done(CAN_BE_DONE, partition=number) for number in PARTITIONS]

    assert asked_for(tmp_path, given, {"36m": 2000, "42m": 2000, "50m": 0}) == [4, 4, 0]


def test_a_backlog_asks_for_replicas_up_to_the_partitions(tmp_path: Path) -> None:
    given = [can_be_done("100000+0x30", partition=number) for number in PARTITIONS]
    small = [can_be_done("300+0x30", partition=number) for number in PARTITIONS]

    assert asked_for(tmp_path, given, {"10m": 2000}) == [len(PARTITIONS)]
    assert asked_for(tmp_path, small, {"10m": 1200}) == [3]


def test_a_backlog_of_one_partition_asks_for_one_since_no_second_could_help(tmp_path: Path) -> None:
    given = [
        can_be_done("100000+0x30"),
        *(can_be_done("0+0x30", partition=number) for number in PARTITIONS[1:]),
    ]

    assert asked_for(tmp_path, given, {"10m": 500}) == [1]


def test_a_partition_that_moves_is_counted_once(tmp_path: Path) -> None:
    given = [can_be_done("400+0x10 stale"), can_be_done("_x10 400+0x10", pod="b")]

    assert asked_for(tmp_path, given, {"9m": 400, "11m": 400, "15m": 400}) == [1, 1, 1]
