"""Podman, and the image that .ci/image built. Runs commands."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

IMAGE = os.environ.get("CHARGING_COUPON_IMAGE", "")

needs_image = pytest.mark.skipif(
    not IMAGE or shutil.which("podman") is None,
    reason="podman is not on the PATH, or CHARGING_COUPON_IMAGE names no image; .ci/image has both",
)
RESTRICTED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges")
"""As the chart's pods are: not even /tmp can be written to."""


def podman(*arguments: str, given: str = "", fails: bool = False) -> subprocess.CompletedProcess[str]:
    """A command of it, whose failure is the test's unless it may fail."""
    done = subprocess.run(["podman", *arguments], input=given, capture_output=True, text=True, check=False)
    assert fails or done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done


def inspect(name: str) -> dict[str, Any]:
    """Of a container or an image, everything."""
    found: dict[str, Any] = orjson.loads(podman("inspect", name).stdout)[0]
    return found


def run(*arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """The image's own entry point, in a container that is gone afterwards."""
    return podman("run", "--rm", *RESTRICTED, IMAGE, *arguments, fails=fails)


def python(script: str) -> Any:
    """What a script prints as JSON, run by the image's Python."""
    options: Sequence[str] = ("run", "--rm", *RESTRICTED, "--entrypoint", "/app/bin/python3")
    return orjson.loads(podman(*options, IMAGE, "-c", script).stdout)
