"""Kubernetes' kinds and custom resource definitions -> JSON Schemas for kubeconform, each whole in one file.

Reads and writes files. Arguments: the folder to write into, then kubernetes-validate's schemas (`.json`, beside
their `_definitions.json`) and custom resource definitions (`.yaml`).
"""
# ruff: noqa: INP001  # a script, started by its path

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml


def with_definitions(file: Path) -> dict[str, Any]:
    """The schema with the definitions that it leads to, which stand in another file."""
    text = _refer_within(file.read_text("utf-8"))
    definitions = _definitions(file.parent)
    needed: dict[str, Any] = {}
    names = _names(text)
    while names:
        name = names.pop()
        if name not in needed:
            needed[name] = definitions[name]
            names |= _names(json.dumps(definitions[name]))
    return {**json.loads(text), "$defs": needed}


@cache
def _definitions(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_refer_within((folder / "_definitions.json").read_text("utf-8")))[
        "$defs"
    ]
    return found


def _refer_within(text: str) -> str:
    return re.sub(r'"\$ref": "[^"#]*#/', '"$ref": "#/', text)


def _names(text: str) -> set[str]:
    return set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text))


def closed(schema: Any) -> Any:
    """The same, refusing names that it does not know, as the API server's field validation does."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    made = {name: closed(inner) for name, inner in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def main() -> None:
    """Writes `<kind>-<group>-<version>.json` for each, with the first word of the group."""
    folder = Path(sys.argv[1])
    for file in map(Path, sys.argv[2:]):
        if file.suffix == ".json":
            (folder / file.name).write_text(json.dumps(with_definitions(file)), "utf-8")
            continue
        spec = yaml.safe_load(file.read_text("utf-8"))["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            name = f"{spec['names']['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
            (folder / name).write_text(json.dumps(schema), "utf-8")


if __name__ == "__main__":
    main()
