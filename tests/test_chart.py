"""The chart agrees with the code, and what helm renders with what the service needs.

`python tests/test_chart.py` writes what is made from elsewhere: the chart's README and its schema's settings.
"""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer import rulebook
from consumer.settings import Settings, load_settings
from consumer.settings import schema_text as settings_schema_text
from consumer.topics import Command, Right, plan, rights

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm/charging-coupon-consumer"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
KUBERNETES = "1.37.0"

CHARTS_OWN = {"rules", "secrets", "secrets_dir", "web"}
"""Settings that the chart makes, or that would put a secret into a ConfigMap."""


# -- What is made from elsewhere --------------------------------------------------------------------


def settings_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the settings that a chart's user may write, and of their groups.

    Nothing is required, for Helm checks the chart's defaults too; what is missing, the templates tell.
    """
    document = json.loads(settings_schema_text())
    groups = {name: _structure(group) for name, group in document.pop("$defs").items()}
    of_settings = _structure(
        {name: document[name] for name in ("type", "additionalProperties", "properties")}
    )
    for name in CHARTS_OWN:
        del of_settings["properties"][name]
    del groups["Web"]
    return of_settings, groups


def _structure(schema: Any) -> Any:
    """Without what only tells: that stands in schemas/settings.v1.schema.json."""
    if isinstance(schema, list):
        return [_structure(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: {key: _structure(each) for key, each in inner.items()}
        if name == "properties"
        else _structure(inner)
        for name, inner in schema.items()
        if name not in {"description", "default", "required", "title"}
    }


def values_table() -> str:
    """A row for each value that has a comment `# -- `."""
    text = (CHART / "values.yaml").read_text("utf-8")
    lines = text.splitlines()
    rows = ["| Value | Default | |", "|---|---|---|"]
    for path, key, value in _described(yaml.compose(text), ()):
        comment = _comment_above(lines, key.start_mark.line)
        default = json.dumps(yaml.safe_load(yaml.serialize(value)), ensure_ascii=False)
        if comment is not None:
            shown = f"`{default}`" if not isinstance(value, yaml.MappingNode) or value.flow_style else ""
            rows.append(f"| `{'.'.join(path)}` | {shown} | {comment} |")
    return "\n".join(rows)


def _described(node: Any, here: tuple[str, ...]) -> Any:
    for key, value in node.value:
        path = (*here, key.value)
        yield path, key, value
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _described(value, path)


def _comment_above(lines: list[str], line: int) -> str | None:
    comment: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        comment.insert(0, lines[line].lstrip().removeprefix("#").strip())
        if comment[0].startswith("-- "):
            return " ".join(comment).removeprefix("-- ")
    return None


def readme() -> str:
    """The chart's README, its table made anew."""
    text = (CHART / "README.md").read_text("utf-8")
    return re.sub(
        r"(?s)(<!-- values: .*? -->\n).*?(<!-- end of values -->)",
        lambda found: f"{found[1]}\n{values_table()}\n\n{found[2]}",
        text,
    )


def schema() -> str:
    """The values' schema, its settings made anew."""
    text = (CHART / "values.schema.json").read_text("utf-8")
    document = json.loads(text)
    of_settings, groups = settings_schema()
    of_chart = {name: each for name, each in document["$defs"].items() if name.islower()}
    document["$defs"] = {**of_chart, **groups, "settings": of_settings}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


ANEW = "write it anew: .venv/bin/python tests/test_chart.py"


def test_its_readme_is_made_from_the_comments_of_its_values() -> None:
    assert readme() == (CHART / "README.md").read_text("utf-8"), ANEW


def test_its_schema_knows_the_settings_that_there_are() -> None:
    assert schema() == (CHART / "values.schema.json").read_text("utf-8"), ANEW


def test_every_value_is_described() -> None:
    text = (CHART / "values.yaml").read_text("utf-8")
    lines = text.splitlines()
    described = {
        path
        for path, key, _ in _described(yaml.compose(text), ())
        if _comment_above(lines, key.start_mark.line)
    }
    leaves = [
        path
        for path, _, value in _described(yaml.compose(text), ())
        if not isinstance(value, yaml.MappingNode) or value.flow_style
    ]

    assert [path for path in leaves if not any(path[:length] in described for length in range(1, 9))] == []


def test_its_app_version_and_the_images_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == project["version"]
    assert f"ARG VERSION={project['version']}\n" in (ROOT / "Dockerfile").read_text("utf-8")


def test_its_schema_is_closed_wherever_the_values_are_ours() -> None:
    document = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    theirs = {"global"}  # a parent chart's

    assert [name for name, found in _open(document) if name not in theirs] == []


def _open(schema: dict[str, Any], name: str = "") -> Any:
    if "properties" in schema and schema.get("additionalProperties") is not False:
        yield name, schema
    for inner in [*schema.get("properties", {}).items(), *schema.get("$defs", {}).items()]:
        yield from _open(inner[1], inner[0])


# -- What helm renders ------------------------------------------------------------------------------

needs_helm = pytest.mark.skipif(
    shutil.which("helm") is None, reason="helm is not on the PATH; .ci/helm has it"
)
each_values_file = pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)


@cache
def rendered(values: Path, *options: str, chart: Path = CHART) -> list[dict[str, Any]]:
    command = ["helm", "template", "coupons", str(chart), "--namespace", "parking", "-f", str(values)]
    done = subprocess.run(
        [*command, "--kube-version", KUBERNETES, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def kinds(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def of_consumer(documents: list[dict[str, Any]], *kind: str) -> list[dict[str, Any]]:
    return [
        document
        for document in documents
        if document["kind"] in kind
        and document["metadata"]["labels"]["app.kubernetes.io/component"] == "consumer"
    ]


def config_map(documents: list[dict[str, Any]], ending: str) -> dict[str, str]:
    (found,) = [
        each for each in of_consumer(documents, "ConfigMap") if each["metadata"]["name"].endswith(ending)
    ]
    data: dict[str, str] = found["data"]
    return data


def settings_of(documents: list[dict[str, Any]], folder: Path) -> Settings:
    """As the service reads them from the ConfigMap, but for files that are only in a cluster."""
    file = folder / "settings.yaml"
    file.write_text(config_map(documents, "-settings")["settings.yaml"], "utf-8")
    return load_settings(
        file, {}, needed=["kafka.topics", "kafka.group_id", "retries", "drain_timeout", "guarantee"]
    )


@needs_helm
@each_values_file
def test_the_service_takes_the_settings_and_rules_that_are_rendered(values: Path, tmp_path: Path) -> None:
    documents = rendered(values)

    settings = settings_of(documents, tmp_path)
    assert str(settings.rules) == "/etc/charging-coupon/rules"
    assert str(settings.secrets_dir) == "/etc/charging-coupon/secrets"
    if "existingRulesConfigMap" not in values.read_text("utf-8"):
        (tmp_path / "rules").mkdir()
        for name, text in config_map(documents, "-rules").items():
            (tmp_path / "rules" / name).write_text(text, "utf-8")
        assert [rule.name for rule in rulebook.load(tmp_path / "rules").rules] == ["every-charge"]


@needs_helm
@each_values_file
def test_a_pod_is_given_the_time_that_a_drain_takes(values: Path, tmp_path: Path) -> None:
    documents = rendered(values)
    (workload,) = of_consumer(documents, "Deployment", "StatefulSet")

    grace = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace == settings_of(documents, tmp_path).drain_timeout + 10


@needs_helm
@each_values_file
def test_every_pod_meets_pod_security_restricted_and_gets_no_token(values: Path) -> None:
    pods = [
        document["spec"]["template"]["spec"]
        for document in rendered(values)
        if "template" in document.get("spec", {})
    ]

    assert pods
    for pod in pods:
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
        assert all(
            volume.keys() <= {"name", "configMap", "secret", "projected", "emptyDir"}
            for volume in pod.get("volumes", [])
        )


@needs_helm
@pytest.mark.parametrize("enabled", [True, False])
def test_a_parent_chart_hands_down_its_globals_and_can_leave_it_out(enabled: bool, tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "charts" / CHART.name)
    parent = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    dependency = {"name": CHART.name, "version": "*.*.*", "condition": f"{CHART.name}.enabled"}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent | {"dependencies": [dependency]}), "utf-8")
    ours = yaml.safe_load((CHART / "ci/subchart-values.yaml").read_text("utf-8"))
    handed_down = {"global": ours.pop("global"), CHART.name: ours | {"enabled": enabled}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(handed_down), "utf-8")

    documents = rendered(tmp_path / "values.yaml", chart=tmp_path)

    images = [
        container["image"]
        for document in of_consumer(documents, "Deployment")
        for container in document["spec"]["template"]["spec"]["containers"]
    ]
    assert images == (["mirror.example.com/charging-coupon:0.1.0"] if enabled else [])


@needs_helm
def test_strimzis_topics_are_those_of_the_service(tmp_path: Path) -> None:
    documents = rendered(CHART / "ci/strimzi-values.yaml")
    wanted = {
        topic.name: topic.spec(brokers=3) for topic in plan(settings_of(documents, tmp_path)) if topic.ours
    }
    found = {topic["spec"]["topicName"]: topic["spec"] for topic in kinds(documents, "KafkaTopic")}

    assert found.keys() == wanted.keys()
    for name, spec in found.items():
        assert (spec["partitions"], spec["replicas"]) == (wanted[name].partitions, wanted[name].replication)
        assert {key: str(value) for key, value in spec["config"].items()} == wanted[name].configuration()


@needs_helm
@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_strimzis_user_has_exactly_the_rights_that_the_service_needs(guarantee: str, tmp_path: Path) -> None:
    documents = rendered(CHART / "ci/strimzi-values.yaml", "--set", f"settings.guarantee={guarantee}")

    assert strimzis_rights(documents) == as_strimzi_writes(rights(settings_of(documents, tmp_path)))


@needs_helm
def test_strimzis_user_can_be_given_the_rights_of_the_runbooks_commands(tmp_path: Path) -> None:
    operator = "topics.strimzi.user.operator=true"
    documents = rendered(CHART / "ci/strimzi-values.yaml", "--set", operator)
    settings = settings_of(documents, tmp_path)
    commands: tuple[Command, ...] = ("run", "replay", "topics", "outcomes")

    wanted = as_strimzi_writes([right for each in commands for right in rights(settings, each)])
    by_the_services_prefix = {each for each in wanted if each[1].endswith("/replay")}
    assert strimzis_rights(documents) == wanted - by_the_services_prefix


def strimzis_rights(documents: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    """Resource, its name, how that is meant, operation."""
    (user,) = kinds(documents, "KafkaUser")
    return {
        (*(acl["resource"][each] for each in ("type", "name", "patternType")), operation)
        for acl in user["spec"]["authorization"]["acls"]
        for operation in acl["operations"]
    }


def as_strimzi_writes(needed: list[Right]) -> set[tuple[str, ...]]:
    return {
        (
            right.resource.replace("transactional-id", "transactionalId"),
            right.name,
            "prefix" if right.prefixed else "literal",
            operation,
        )
        for right in needed
        for operation in right.operations
    }


@needs_helm
@each_values_file
def test_two_renderings_are_the_same(values: Path) -> None:
    assert rendered(values) == rendered(values, "--is-upgrade")


@needs_helm
def test_the_readmes_four_values_are_enough(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(
        r"^helm install coupons \S+ (.*?)```", text.replace("\\\n", ""), re.DOTALL | re.MULTILINE
    )
    rules = re.search(r"`rules\.yaml`:\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert rules is not None
    (tmp_path / "rules.yaml").write_text(rules[1], "utf-8")
    options = [each.replace("rules.yaml", str(tmp_path / "rules.yaml")) for each in shlex.split(found[1])]

    documents = rendered(CHART / "values.yaml", *options)

    assert config_map(documents, "-rules")["rules.yaml"] == rules[1]
    assert settings_of(documents, tmp_path).kafka.bootstrap_servers == ("kafka-1:9092", "kafka-2:9092")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"tagged with the version ({version})" in text


@needs_helm
def test_only_settings_restart_the_pods() -> None:
    values = CHART / "ci/four-values-values.yaml"

    def pod(*options: str) -> Any:
        return kinds(rendered(values, *options), "Deployment")[0]["spec"]["template"]

    assert pod("--set", "rules=version: 1") == pod()
    assert pod("--set", "settings.drain_timeout=19s") != pod()


def main() -> None:
    (CHART / "README.md").write_text(readme(), "utf-8")
    (CHART / "values.schema.json").write_text(schema(), "utf-8")


if __name__ == "__main__":
    main()
