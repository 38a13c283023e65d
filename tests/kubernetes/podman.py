"""Podman, and the image that .ci/image built: containers of it, and the chart's pod. Runs commands."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

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


class Pod:
    """The pod of a chart's Deployment, from what helm rendered, as it is but for what this podman needs.

    That is a port of this machine for the container's, which would else be the same one; and the
    Secret, which is not the chart's.
    """

    def __init__(
        self, rendered: Sequence[Mapping[str, Any]], secret: str, secrets: Mapping[str, str]
    ) -> None:
        documents = deepcopy([each for each in rendered if each["kind"] in {"ConfigMap", "Deployment"}])
        (deployment,) = [each for each in documents if each["kind"] == "Deployment"]
        self.template = deployment["spec"]["template"]["spec"]
        (self.container,) = self.template["containers"]
        with socket.socket() as free:
            free.bind(("", 0))
            self.container["ports"][0]["hostPort"] = self.port = free.getsockname()[1]
        kept = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "data": dict(secrets)}
        self._text = yaml.safe_dump_all([kept, *documents], allow_unicode=True)
        self._volumes = [each["metadata"]["name"] for each in (kept, *documents)]
        self._secret = secret
        self._pod = self._id = ""

    def play(self) -> None:
        """Starts it."""
        told = podman("kube", "play", "-", given=self._text).stdout
        self._pod, self._id = (told.split(f"{what}:\n")[1].split()[0] for what in ("Pod", "Container"))

    def inspect(self) -> dict[str, Any]:
        """Its container, as podman runs it."""
        return inspect(self._id)

    def execute(self, script: str) -> Any:
        """What a script prints as JSON, run by Python in it."""
        return orjson.loads(podman("exec", self._id, "/app/bin/python3", "-c", script).stdout)

    def log(self) -> list[dict[str, Any]]:
        """Its log lines."""
        done = podman("logs", self._id)
        lines = (done.stdout + done.stderr).splitlines()
        return [orjson.loads(line) for line in lines if line.startswith("{")]

    async def until_ready(self, seconds: float = 60) -> None:
        """Until its readiness probe succeeds."""
        probe = self.container["readinessProbe"]["httpGet"]
        give_up = time.monotonic() + seconds
        status, told = 0, ""
        while status != 200:
            assert time.monotonic() < give_up, f"not ready: {told}\n{self.log()}"
            try:
                status, told = await self.page(probe["path"])
            except aiohttp.ClientError as error:
                told = str(error)
            await asyncio.sleep(0.1)

    async def page(self, path: str) -> tuple[int, str]:
        """(status, body)."""
        address = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(address) as response:
            return response.status, await response.text()

    def write(self, volume: str, name: str, text: str) -> None:
        """Puts another file into a volume that came from a ConfigMap, as a kubelet does after an upgrade."""
        folder = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", volume).stdout.strip())
        (folder / ".new").write_text(text, "utf-8")
        (folder / ".new").replace(folder / name)

    async def delete(self) -> dict[str, Any]:
        """As Kubernetes does: SIGTERM, SIGKILL after the grace period, the network to the last. Its state then.

        (`podman pod stop` takes the network away first.) The test's loop goes on meanwhile.
        """
        grace = str(self.template["terminationGracePeriodSeconds"])
        await asyncio.to_thread(podman, "stop", "--time", grace, self._id)
        state: dict[str, Any] = self.inspect()["State"]
        return state

    def remove(self) -> None:
        """Nothing of it is left."""
        podman("pod", "rm", "--force", "--time", "0", self._pod, fails=True)
        podman("volume", "rm", "--force", *self._volumes, fails=True)
        podman("secret", "rm", self._secret, fails=True)
