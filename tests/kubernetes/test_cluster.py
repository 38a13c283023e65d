"""The chart on a cluster: what an API server and its controllers make of it. `KUBECONFIG=... pytest -m cluster`.

Each test has a namespace of its own, in which PodSecurity `restricted` is enforced, and asks the sandbox for coupons.
`CHARGING_COUPON_VALUES` names a values file that says where the cluster finds the image and a Kafka. On the stand-in for
a node (`stand_in.py`, .ci/cluster) no container runs, and neither is needed; what only a container can show is not
looked at there.
"""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.stand_in import LABELS
from tests.test_chart import CHART, CI, rendered

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG"),
        reason="KUBECONFIG names no cluster; .ci/cluster makes one without containers",
    ),
    pytest.mark.skipif(
        shutil.which("kubectl") is None or shutil.which("helm") is None,
        reason="kubectl or helm is not on the PATH",
    ),
]

FOUR_VALUES = CHART / "ci/four-values-values.yaml"
RULES: str = yaml.safe_load(FOUR_VALUES.read_text("utf-8"))["rules"]
NAME = "coupons-charging-coupon-consumer"


def command(*arguments: str, given: str = "", fails: bool = False) -> str:
    """What it prints; what it says is wrong, where it may fail."""
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=False)
    assert fails or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout if done.returncode == 0 else done.stderr


def is_live() -> bool:
    """Containers run there."""
    nodes = json.loads(command("kubectl", "get", "nodes", "--output=json"))["items"]
    return any(LABELS.items() - each["metadata"]["labels"].items() for each in nodes)


class Namespace:
    """One of the cluster's, with the Secret, and the release `coupons` once it is installed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.rules = folder / "rules.yaml"
        self.rules.write_text(RULES, "utf-8")

    def kubectl(self, *arguments: str, given: str = "", fails: bool = False) -> str:
        return command("kubectl", "--namespace", self.name, *arguments, given=given, fails=fails)

    def helm(self, *arguments: str) -> str:
        return command("helm", "--namespace", self.name, *arguments)

    def install(self, *options: str) -> None:
        """Or upgrade; returns once everything is ready."""
        own = os.environ.get("CHARGING_COUPON_VALUES")
        given = ["--values", str(FOUR_VALUES), *(["--values", own] if own else [])]
        sandbox = [
            "--set",
            "sandbox.enabled=true,sandbox.apps.app-1=main",
            "--set-file",
            f"rules={self.rules}",
        ]
        how = ["upgrade", "coupons", str(CHART), "--install", "--wait", "--timeout", "5m"]
        self.helm(*how, *given, *sandbox, *options)

    def all(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.kubectl("get", kinds, "--selector", selector, "--output=json")
        )["items"]
        return found

    def members(self) -> dict[str, dict[str, Any]]:
        """The consumer's pods that are not on their way out, by name."""
        pods = self.all("pods", "app.kubernetes.io/component=consumer")
        return {
            each["metadata"]["name"]: each for each in pods if "deletionTimestamp" not in each["metadata"]
        }

    def ready(self) -> int:
        return sum(
            {"type": "Ready", "status": "True"}.items() <= condition.items()
            for pod in self.members().values()
            for condition in pod["status"].get("conditions", [])
        )

    def everything(self) -> set[str]:
        """What is in it, but for what Kubernetes itself puts there."""
        kinds = command("kubectl", "api-resources", "--namespaced", "--verbs=list,delete", "--output=name")
        wanted = [each for each in kinds.split() if not each.startswith("events")]
        found = self.kubectl("get", ",".join(wanted), "--output=name", "--ignore-not-found").split()
        return set(found) - {"configmap/kube-root-ca.crt", "serviceaccount/default"}


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    name = f"charging-coupon-{secrets.token_hex(3)}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    command("kubectl", "create", "--filename=-", given=json.dumps(document))
    try:
        namespace = Namespace(name, tmp_path)
        namespace.kubectl(
            *("create", "secret", "generic", "charging-coupon"),
            *("--from-literal=main=a secret of the sandbox", "--from-literal=plate_hash=a key for plates"),
        )
        until(lambda: "serviceaccount/default" in namespace.kubectl("get", "sa", "--output=name"))
        yield namespace
    finally:
        command("kubectl", "delete", "namespace", name, "--wait=false")


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.3)


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_the_api_server_takes_every_shape_field_for_field(values: Path, namespace: Namespace) -> None:
    known = set(command("kubectl", "api-resources", "--no-headers", "--output=wide").split())
    documents = [
        # what another namespace is to hold is tried in this one
        each | {"metadata": each["metadata"] | {"namespace": namespace.name}}
        for each in rendered(values)
        if each["kind"] in known
    ]
    left_out = {each["kind"] for each in rendered(values)} - known
    assert left_out <= {"KafkaTopic", "KafkaUser", "PodMonitor", "PrometheusRule", "ScaledObject"}

    told = namespace.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--filename=-"),
        given=yaml.safe_dump_all(documents, allow_unicode=True),
    )

    assert told.count("(server dry run)") == len(documents)


@pytest.mark.parametrize(
    "shape",
    [(), ("staticMembership=true",), ("topics.mode=hook",), ("networkPolicy.enabled=true",)],
    ids=["four-values", "static-members", "hook", "closed-in"],
)
def test_it_becomes_ready_with_the_least_rights_and_leaves_nothing_when_it_goes(
    shape: tuple[str, ...], namespace: Namespace
) -> None:
    before = namespace.everything()

    namespace.install(*(option for each in shape for option in ("--set", each)))
    assert namespace.ready() == len(namespace.members()) == 2
    if shape == ("topics.mode=hook",):
        assert namespace.all("jobs") == []

    namespace.helm("uninstall", "coupons", "--wait", "--timeout", "5m")
    until(lambda: namespace.everything() == before)


def test_new_rules_reach_pods_that_go_on_and_new_settings_replace_them(namespace: Namespace) -> None:
    namespace.install()
    pods = namespace.members()

    namespace.rules.write_text(RULES.replace("every-charge", "each-charge"), "utf-8")
    namespace.install()

    found = json.loads(namespace.kubectl("get", "configmap", f"{NAME}-rules", "--output=json"))["data"]
    assert found == {"rules.yaml": namespace.rules.read_text("utf-8")}
    now = namespace.members()
    assert {each["metadata"]["uid"] for each in now.values()} == {
        each["metadata"]["uid"] for each in pods.values()
    }
    if is_live():  # a kubelet brings a ConfigMap within two minutes
        hashes = {rules_in_force(namespace, name) for name in now}
        until(lambda: hashes.isdisjoint({rules_in_force(namespace, name) for name in now}), 150)

    namespace.install("--set", "settings.drain_timeout=19s")
    until(lambda: len(namespace.members()) == 2)
    assert not namespace.members().keys() & pods.keys()


def rules_in_force(namespace: Namespace, pod: str) -> str:
    page = command(
        "kubectl", "get", "--raw", f"/api/v1/namespaces/{namespace.name}/pods/{pod}:8080/proxy/readyz"
    )
    return str(json.loads(page)["rules"])


@pytest.mark.parametrize("kind", ["deployment", "statefulset"])
def test_it_is_scaled_and_rolled_back(kind: str, namespace: Namespace) -> None:
    static = ("--set", f"staticMembership={str(kind == 'statefulset').lower()}")
    namespace.install(*static)
    namespace.install(*static, "--set", "replicas=3")
    assert namespace.ready() == 3

    namespace.helm("rollback", "coupons", "1", "--wait", "--timeout", "5m")
    until(lambda: len(namespace.members()) == 2)
    assert namespace.ready() == 2

    namespace.kubectl("scale", f"{kind}/{NAME}", "--replicas=0")
    until(lambda: namespace.all("pods", "app.kubernetes.io/component=consumer") == [])


def test_a_node_is_drained_one_pod_at_a_time_each_with_the_time_that_its_drain_takes(
    namespace: Namespace,
) -> None:
    namespace.install("--set", "settings.drain_timeout=5s")
    first, second = namespace.members()
    assert namespace.members()[second]["spec"]["terminationGracePeriodSeconds"] == 5 + 10

    # No other pod takes the first one's place.
    namespace.kubectl("create", "quota", "nothing-new", "--hard=pods=0")
    evict(namespace, first)
    assert "disruption budget" in evict(namespace, second, fails=True)

    namespace.kubectl("delete", "quota", "nothing-new")
    until(lambda: "disruption budget" not in evict(namespace, second, fails=True), 120)
    until(lambda: namespace.ready() == 2 and not namespace.members().keys() & {first, second}, 120)


def evict(namespace: Namespace, pod: str, *, fails: bool = False) -> str:
    """As `kubectl drain` does."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace.name},
    }
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    return command(
        "kubectl", "create", "--raw", path, "--filename=-", given=json.dumps(eviction), fails=fails
    )
