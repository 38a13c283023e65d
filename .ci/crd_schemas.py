"""Custom resource definitions -> JSON Schemas for kubeconform, closed. Reads and writes files.

Arguments: the folder to write into, then the definitions' files.
"""
# ruff: noqa: INP001  # a script, started by its path

import json
import sys
from pathlib import Path
from typing import Any

import yaml


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
    """Writes `<group>/<kind>_<version>.json` for each."""
    folder = Path(sys.argv[1])
    for file in map(Path, sys.argv[2:]):
        spec = yaml.safe_load(file.read_text("utf-8"))["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            target = folder / spec["group"] / f"{spec['names']['kind'].lower()}_{version['name']}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(schema), "utf-8")


if __name__ == "__main__":
    main()
