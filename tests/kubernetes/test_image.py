"""The image: what is in it, what is not, and that it runs as the least of users."""

import re
import time
import tomllib
from pathlib import Path
from signal import SIGTERM, Signals

import pytest
from packaging.markers import Marker

from tests.kubernetes.podman import IMAGE, RESTRICTED, inspect, needs_image, podman, python, run

pytestmark = [pytest.mark.podman, pytest.mark.long, needs_image]

ROOT = Path(__file__).parents[2]


def test_it_tells_the_version_and_the_commit_that_its_labels_tell() -> None:
    labels = inspect(IMAGE)["Labels"]
    version, commit = (labels[f"org.opencontainers.image.{name}"] for name in ("version", "revision"))

    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert commit
    assert run("--version").stdout == f"charging-coupon {version} ({commit})\n"


def test_it_runs_as_a_user_who_is_not_root() -> None:
    assert python("import os; print([os.getuid(), os.getgid()])") == [10001, 10001]


def test_it_has_all_that_the_service_looks_for_on_a_machine() -> None:
    done = run("run", fails=True)

    assert done.returncode == 2
    assert "kafka.bootstrap_servers" in done.stderr
    assert "this machine" not in done.stderr  # time zones, MD5, codecs: consumer/selfcheck.py


def test_it_trusts_the_public_certificate_authorities() -> None:
    script = "import json, ssl; print(json.dumps(ssl.create_default_context().cert_store_stats()))"

    assert python(script)["x509_ca"] > 50


def test_nothing_is_compiled_when_it_starts() -> None:
    script = """
import importlib.util, json, os, sys
import consumer.cli, consumer.cli.run, consumer.service, consumer.selfcheck, consumer.cli.sandbox, consumer.sandbox.gateway
print(json.dumps([
    name for name, module in sys.modules.items()
    if (getattr(module, "__file__", None) or "").endswith(".py")
    and not os.path.exists(importlib.util.cache_from_source(module.__file__))
]))
"""
    assert python(script) == []


def test_its_bill_of_materials_lists_what_is_locked_with_licences() -> None:
    lock = re.findall(
        r"^([a-z0-9.-]+)==(\S+)(?: ; (.*?))? \\$",
        (ROOT / "requirements/run.txt").read_text("utf-8"),
        re.MULTILINE,
    )
    locked = {(name, version) for name, version, marker in lock if not marker or Marker(marker).evaluate({})}

    bill = python("print(open('/app/sbom.cdx.json').read())")
    found = {(re.sub("[._]", "-", each["name"].lower()), each["version"]) for each in bill["components"]}
    assert found == locked
    assert bill["metadata"]["component"]["name"] == "charging-coupon-consumer"
    assert [each["name"] for each in bill["components"] if not each.get("licenses")] == []


def test_nothing_of_what_built_it_is_in_it() -> None:
    paths = ["/build", "/src", "/wheel", "/etc/pip.conf", "/run/secrets/ca", "/app/bin/pip"]

    assert (
        python(f"import json, os; print(json.dumps([each for each in {paths} if os.path.exists(each)]))")
        == []
    )
    history = podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE).stdout
    assert "COPY" in history
    assert not re.search("PIP_|secret", history)


def test_a_command_that_waits_ends_when_it_is_told_to() -> None:
    """The kernel has a container's first process ignore what it does not handle: it would be killed, after the grace period."""
    options = ("--detach", "--interactive", "--name", "charging-coupon-waits", *RESTRICTED)
    podman("run", *options, IMAGE, "check", "/dev/stdin")  # nothing comes
    try:
        until_it_handles(SIGTERM, inspect("charging-coupon-waits")["State"]["Pid"])
        podman("stop", "--time", "20", "charging-coupon-waits")

        assert inspect("charging-coupon-waits")["State"]["ExitCode"] == 128 + SIGTERM
    finally:
        podman("rm", "--force", "charging-coupon-waits")


def test_the_sandbox_runs_in_it_too_and_ends_in_order() -> None:
    podman(
        "run",
        "--detach",
        "--name",
        "charging-coupon-sandbox",
        *RESTRICTED,
        IMAGE,
        "sandbox",
        "--app",
        "app-1=secret",
    )
    try:
        give_up = time.monotonic() + 60
        look = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8088/').status)"
        while podman("exec", "charging-coupon-sandbox", "python3", "-c", look, fails=True).stdout != "200\n":
            assert time.monotonic() < give_up, podman("logs", "charging-coupon-sandbox").stderr
            time.sleep(0.3)
        podman("stop", "--time", "20", "charging-coupon-sandbox")

        assert inspect("charging-coupon-sandbox")["State"]["ExitCode"] == 0
    finally:
        podman("rm", "--force", "charging-coupon-sandbox")


def until_it_handles(number: Signals, pid: int) -> None:
    """Before, Python itself is still starting."""
    give_up = time.monotonic() + 60
    while True:
        caught = re.findall(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text("ascii"))
        if int(caught[0], 16) >> number - 1 & 1:
            return
        assert time.monotonic() < give_up
        time.sleep(0.05)
