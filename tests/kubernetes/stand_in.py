"""Stands in for a node and its kubelet on a cluster that has none: `python -m tests.kubernetes.stand_in`. It runs no container.

It is a fake: it takes each pod that waits for a node, says that it runs and is ready (that it succeeded, where it is a
Job's), and that it is gone when it is deleted. What the API server and the controllers make of that is real: admission,
PodSecurity, roll-outs, budgets, garbage. Reaches the cluster by `kubectl proxy`, so as kubectl does.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp

NODE = "charging-coupon-stand-in"
LABELS = {"kubernetes.io/hostname": NODE, "charging-coupon/stand-in": "true"}
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
LEASE_SECONDS = 40
_EVERY = 0.2
"""Seconds between looks."""


class Cluster:
    """The API server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> dict[str, Any]:
        async with self._session.get(path, raise_for_status=True) as response:
            found: dict[str, Any] = await response.json()
        return found

    async def send(self, method: str, path: str, body: Mapping[str, Any], *fine: int) -> None:
        """Raises ClientResponseError, but for statuses that are as fine as success."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        async with self._session.request(method, path, json=body, headers={"Content-Type": kind}) as response:
            if response.status not in fine:
                response.raise_for_status()


async def be_a_node(cluster: Cluster) -> None:
    """Until cancelled: ready, and heard of."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": LABELS}}
    await cluster.send("POST", "/api/v1/nodes", node, 409)
    capacity = {"cpu": "64", "memory": "256Gi", "pods": "500"}
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NODE},
        "spec": {"holderIdentity": NODE, "leaseDurationSeconds": LEASE_SECONDS},
    }
    await cluster.send("POST", LEASE, lease, 409)
    while True:
        now = datetime.now(UTC)
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "StandIn",
            "lastHeartbeatTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
        await cluster.send("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status})
        renewed = {"spec": {"renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
        await cluster.send("PATCH", f"{LEASE}/{NODE}", renewed)
        await asyncio.sleep(LEASE_SECONDS / 4)


async def run_pods(cluster: Cluster) -> None:
    """Until cancelled: each one's next step. A pod that changed meanwhile is looked at again."""
    while True:
        for pod in (await cluster.get("/api/v1/pods"))["items"]:
            await _step(cluster, pod)
        await asyncio.sleep(_EVERY)


async def _step(cluster: Cluster, pod: Mapping[str, Any]) -> None:
    meta, spec = pod["metadata"], pod["spec"]
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
    same = {"uid": meta["uid"]}
    if "nodeName" not in spec:
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"]},
            "target": target,
        }
        await cluster.send("POST", f"{path}/binding", binding, 404, 409)
    elif spec["nodeName"] != NODE:
        return
    elif "deletionTimestamp" in meta:
        await cluster.send("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": same}, 404, 409)
    elif pod["status"]["phase"] == "Pending":
        change = {"metadata": same, "status": _status(spec)}
        await cluster.send("PATCH", f"{path}/status", change, 404, 409)


def _status(spec: Mapping[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ends = spec["restartPolicy"] != "Always"
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
    return {
        "phase": "Succeeded" if ends else "Running",
        "startTime": now,
        "conditions": [
            {
                "type": kind,
                "status": "False" if ends and "Ready" in kind else "True",
                "lastTransitionTime": now,
            }
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
        "containerStatuses": [
            {
                "name": each["name"],
                "image": each["image"],
                "imageID": "",
                "ready": not ends,
                "restartCount": 0,
                "started": not ends,
                "state": ended if ends else {"running": {"startedAt": now}},
            }
            for each in spec["containers"]
        ],
    }


@asynccontextmanager
async def proxied() -> AsyncIterator[Cluster]:
    """The cluster that kubectl knows."""
    process = await asyncio.create_subprocess_exec(
        "kubectl", "proxy", "--port=0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        told = (await process.stdout.readline()).decode()
        if "127.0.0.1" not in told:
            raise RuntimeError("kubectl proxy does not start: see above")
        async with aiohttp.ClientSession(f"http://{told.split()[-1]}") as session:
            yield Cluster(session)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def main() -> None:
    """Until SIGTERM or Ctrl-C; then the node is gone."""
    work = asyncio.current_task()
    assert work is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    async with proxied() as cluster:
        nodes = (await cluster.get("/api/v1/nodes"))["items"]
        if others := [each["metadata"]["name"] for each in nodes if each["metadata"]["name"] != NODE]:
            sys.exit(f"this cluster has nodes of its own, and needs no stand-in: {', '.join(others)}")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(be_a_node(cluster))
                tasks.create_task(run_pods(cluster))
        finally:
            await cluster.send("DELETE", f"/api/v1/nodes/{NODE}", {}, 404)


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
