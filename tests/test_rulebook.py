"""Rules files: what is accepted, what is refused and with which words."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from consumer import rulebook
from consumer.core.documents import Document
from consumer.core.errors import ConfigurationError
from consumer.core.formats import Event, decode
from consumer.core.replies import Then
from consumer.core.slices import ITEMS, at_once
from consumer.core.sources import Directory
from consumer.rulebook import Files, let_go
from consumer.rulebook.model import RulesModel

RULES = Path(__file__).parent / "rules"
SCHEMAS = Path(__file__).parents[1] / "schemas"
VALID = sorted((RULES / "valid").glob("*.yaml"))
INVALID = sorted((RULES / "invalid").glob("*.yaml"))
SMALLEST = "version: 1\nsources:\n  events: {extends: canonical}\n"


def problems_of(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        rulebook.load(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        rulebook.parse(text)
    return str(caught.value)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_file_is_accepted_and_keeps_to_the_schema(path: Path) -> None:
    schema = json.loads((SCHEMAS / "rules.v1.schema.json").read_text("utf-8"))

    rulebook.load(path)

    data = json.loads(json.dumps(Document(path.read_text("utf-8"), "f").data, default=float))
    assert [error.message for error in Draft202012Validator(schema).iter_errors(data)] == []


def test_every_key_of_the_schema_stands_in_a_valid_file() -> None:
    """The fuzzer starts from these."""
    schema = json.loads(rulebook.schema_text())
    models = {**schema["$defs"], "RulesModel": schema}
    keys = {f"{name}.{key}" for name, model in models.items() for key in model.get("properties", ())}
    seen: set[str] = set()

    def look(value: object) -> None:
        if isinstance(value, BaseModel):
            for name in value.model_fields_set:
                seen.add(f"{type(value).__name__}.{type(value).model_fields[name].alias or name}")
                look(getattr(value, name))
        elif isinstance(value, list | dict):
            for item in value.values() if isinstance(value, dict) else value:
                look(item)

    for path in VALID:
        look(rulebook.compiled(path)[0].model)

    assert keys == seen


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_file_is_refused_with_exactly_these_words(path: Path) -> None:
    assert problems_of(path) == path.with_suffix(".txt").read_text("utf-8").rstrip("\n")


def test_every_expected_refusal_has_its_file() -> None:
    assert {path.stem for path in (RULES / "invalid").glob("*.txt")} == {path.stem for path in INVALID}


@pytest.mark.parametrize(
    "mistake",
    [
        {"version": 2},
        {"acounts": {}},
        {"accounts": {"main": {"app_id": "x"}}},
        {"rules": [{"name": "a", "whem": "true"}]},
        {"stations": {"S1": {"api_store_code": 5}}},
    ],
)
def test_the_schema_refuses_what_the_file_may_not_say(mistake: dict[str, Any]) -> None:
    schema = json.loads(rulebook.schema_text())
    smallest = yaml.safe_load(SMALLEST)

    assert Draft202012Validator(schema).is_valid(smallest)
    assert not Draft202012Validator(schema).is_valid({**smallest, **mistake})


def test_the_hash_tells_contents_apart_and_not_layouts() -> None:
    same = 'version: 1 # the first\n\nsources: {"events": {"extends": "canonical"}}'
    other = SMALLEST.replace("canonical", "cec")

    assert rulebook.parse(SMALLEST).hash == rulebook.parse(same).hash
    assert rulebook.parse(SMALLEST).hash != rulebook.parse(other).hash
    assert len(rulebook.parse(SMALLEST).hash) == 12


def test_the_files_of_a_folder_are_one_rule_book(tmp_path: Path) -> None:
    (tmp_path / "10-base.yaml").write_text(
        SMALLEST
        + "accounts: {main: {app_id: a, secret: main, api_type: t}}\nrules: [{name: a, skip: policy}]\n"
    )
    (tmp_path / "20-lot.yml").write_text(
        "version: 1\nstations: {S1: {api_store_code: C}}\nrules: [{name: b, account: main, subject: x}]\n"
    )
    (tmp_path / "..2026_data").mkdir()
    (tmp_path / ".hidden.yaml").write_text("nonsense: [")
    (tmp_path / "README.md").write_text("not rules")

    book = rulebook.load(tmp_path)

    assert [rule.name for rule in book.rules] == ["a", "b"]
    assert book.accounts["main"].secret == "main"


def test_problems_in_a_folder_name_their_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SMALLEST + "stations: {S1: {}}\nrules: [{name: a, skip: policy}]\n")
    (tmp_path / "b.yaml").write_text(
        "version: 1\nstations:\n  S1: {}\n  S2: {zone: X}\nrules:\n  - {name: b, skip: policy, when: nothing}\n"
    )

    with pytest.raises(ConfigurationError) as caught:
        rulebook.load(tmp_path)

    assert [problem.place.replace(str(tmp_path), "") for problem in caught.value.problems] == [
        "/b.yaml:3:3",
        "/b.yaml:4:14",
        "/b.yaml:6:35",
    ]


def test_a_broken_file_does_not_hide_another_ones_problems(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_bytes(b"a: \xff")

    with pytest.raises(ConfigurationError) as caught:
        rulebook.load(tmp_path)

    assert len(caught.value.problems) == 2


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in problems_of(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigurationError, match=r"a folder without a \*.yaml file"):
        rulebook.load(tmp_path)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(SMALLEST, "utf-8-sig")

    assert rulebook.load(path).hash == rulebook.parse(SMALLEST).hash


def test_a_heading_with_nothing_under_it_is_no_mistake() -> None:
    assert rulebook.parse(SMALLEST + "stations:\nrules:\n").rules == ()


def test_an_account_may_have_bounds_of_its_own() -> None:
    book = rulebook.parse(
        SMALLEST + "accounts: {a: {app_id: a, secret: a, api_type: '5', rate: 2, max_in_flight: 3}}"
    )

    assert (book.accounts["a"].rate, book.accounts["a"].max_in_flight) == (2.0, 3)


def test_replies_change_only_what_they_name() -> None:
    book = rulebook.parse(
        SMALLEST
        + "replies: {1002: {then: final}, 4711: {outcome: limited, then: later, deadline_seconds: 60}}"
    )
    defaults = rulebook.parse(SMALLEST).replies.rows

    assert book.replies.rows["1002"].then is Then.FINAL
    assert book.replies.rows["1002"].outcome is defaults["1002"].outcome
    assert book.replies.rows["1002"].deadline_seconds == defaults["1002"].deadline_seconds
    assert book.replies.rows["4711"].deadline_seconds == 60
    assert book.replies.rows["1003"] == defaults["1003"]


def test_a_source_takes_from_another_what_it_does_not_say_itself() -> None:
    book = rulebook.parse(
        """
version: 1
sources:
  one: {extends: cec, topics: [one], fields: {brand: car.brand}}
  two: {extends: one, topics: [two], zone: "+06:00", fields: {plate: car.plate}}
"""
    )
    one, two = book.sources
    paths = {field.name: [path.text for path in field.paths] for field in two.fields}

    assert (one.topics, two.topics) == (("one",), ("two",))
    assert two.zone is not None
    assert two.zone.name == "+06:00"
    assert paths["plate"] == ["car.plate"]
    assert paths["brand"] == ["car.brand"]
    assert paths["order_id"][0] == "StartChargeSeq"


def test_a_gate_of_which_each_path_is_wrong_is_told_of_in_words() -> None:
    gate = "{paths: ['a..b'], in: [refund], reason: not_finished}"
    text = f"version: 1\nsources:\n  events: {{extends: canonical, skip: [{gate}]}}\n"

    assert "write it like `a.b[0].c`" in refusal(text)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        SMALLEST
        + 'stations:\n  S1: {zone: X}\nrules:\n  - {name: a, skip: policy, when: "1"}\n  - {name: a, skip: policy}\n'
    )

    assert [line.split(":")[1] for line in refusal(text).splitlines() if line.startswith("rules.yaml")] == [
        "5",
        "7",
        "8",
    ]


@pytest.mark.parametrize(
    "path", sorted(SCHEMAS.glob("examples/charging-completed/1/*.json")), ids=lambda path: path.stem
)
def test_the_canonical_preset_reads_every_example(path: Path) -> None:
    source = rulebook.parse(SMALLEST).sources[0]
    items = source.read(Event(decode(path.read_bytes())), Directory({}, {}))

    assert {getattr(item, "reason", None) for item in items} <= {None, "plate_missing"}


# -- Long ones --------------------------------------------------------------------------------------


def write_long(folder: Path, *, rule: str = "", test: str = "", end: str = "") -> Path:
    """Two thousand rules, and four thousand stations, half of them in a file of their own."""
    cells = (f"T-{number},store-{number},c{number} d{number}" for number in range(2000))
    (folder / "stations.csv").write_text("\n".join(["id,api_store_code,connectors", *cells]), "utf-8")
    lines = [
        SMALLEST,
        "accounts: {main: {app_id: a, secret: main, api_type: t}}",
        "stations:",
        "  file: stations.csv",
        *(f"  S-{number}: {{api_store_code: s{number}, parameters: {{p: v}}}}" for number in range(2000)),
        "rules:",
        *(
            f"  - {{name: r{number}, stations: [S-{number}, T-{number}], when: seconds > {number}, skip: policy}}"
            for number in range(2000)
        ),
        f"  - {{name: last, {rule}skip: policy}}",
        "tests:",
        *(f"  - {{name: t{number}, event: {{}}, expect: {{outcome: invalid}}}}" for number in range(100)),
        f"  - {{name: last, event: {{}}, expect: {{outcome: {test or 'invalid'}}}}}",
    ]
    path = folder / "rules.yaml"
    path.write_text("\n".join(lines) + end, "utf-8")
    return path


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({}, ""),
        ({"rule": "wen: 'true', "}, "unknown key `wen`"),
        ({"rule": "stations: [S-9999], "}, "there is no station `S-9999`"),
        ({"test": "skipped"}, "test `last`"),
        ({"end": "\nrules: ["}, "not YAML"),
    ],
)
def test_nothing_long_is_freed_at_once_by_a_load(tmp_path: Path, mistake: dict[str, str], told: str) -> None:
    """Nor by one that is refused: what is freed between two breaths is counted in Python's blocks of memory."""
    files = Files(write_long(tmp_path, **mistake))
    rulebook.parse(SMALLEST)  # presets are read once
    blocks: list[int] = []

    def count() -> None:
        blocks.append(sys.getallocatedblocks())

    count()
    try:
        book = rulebook.load_files(files, count)
        assert not told
        assert (len(book.rules), len(book.stations)) == (2001, 4000)
    except ConfigurationError as error:
        (problem,) = error.problems
        assert told
        assert told in problem.message
    count()

    assert max(blocks) - blocks[0] > 100_000
    assert max(before - after for before, after in pairwise(blocks)) < 5_000


def test_little_of_a_book_is_freed_with_it_once_its_parts_are_held(tmp_path: Path) -> None:
    book = rulebook.load(write_long(tmp_path))
    parts = book.parts()
    before = sys.getallocatedblocks()

    del book
    without = sys.getallocatedblocks()
    let_go(parts, at_once)

    assert before - without < 5_000
    assert without - sys.getallocatedblocks() > 50_000


def test_pydantic_is_given_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    validate = RulesModel.model_validate

    def counted(data: dict[str, Any]) -> RulesModel:
        given.append(sum(len(data.get(section, ())) for section in ("rules", "stations", "tests")))
        return validate(data)

    monkeypatch.setattr(RulesModel, "model_validate", counted)
    rulebook.load(write_long(tmp_path))

    assert sum(given) == 2001 + 2000 + 101
    assert max(given) == ITEMS


def test_mistakes_far_down_are_told_with_their_places(tmp_path: Path) -> None:
    path = write_long(tmp_path)
    text = path.read_text("utf-8").replace("{name: r1234, stations", "{name: r1234, station")
    text = text.replace("{name: r1999,", "{name: 1999,").replace("  S-77: {", "  S-77: {zone: [], ")
    path.write_text(text, "utf-8")

    with pytest.raises(ConfigurationError) as caught:
        rulebook.load(path)

    lines = text.split("\n")
    told = {
        lines[int(problem.place.split(":")[1]) - 1].split(",")[0].strip(" -{"): problem.message
        for problem in caught.value.problems
    }
    assert told == {
        "S-77: {zone: []": "stations.S-77.zone: should be a valid string",
        "name: r1234": "unknown key `station`",
        "name: 1999": "rules[1999].name (rule number 2000) is no text",
    }
