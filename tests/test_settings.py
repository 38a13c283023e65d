"""Settings from a file, the environment and secret files; every mistake with its place and remedy."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from consumer.core.errors import ConfigurationError
from consumer.core.outcomes import PlateMode
from consumer.settings import Settings, load_settings, read_settings
from consumer.settings.values import headers_of

ENOUGH = {
    "CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS": "kafka-1:9092, kafka-2:9092",
    "CHARGING_COUPON__KAFKA__TOPICS__EVENTS": "charging-completed",
    "CHARGING_COUPON__RULES": "/etc/rules.yaml",
    "CHARGING_COUPON__SECRETS__PLATE_HASH": "a long random text",
}

FILE = """\
kafka:
  bootstrap_servers: [kafka-1:9092]
  topics:
    events: charging-completed
rules: rules.yaml
privacy: {plates: clear}
"""


def settings(**variables: str) -> Settings:
    return load_settings(
        None, ENOUGH | {f"CHARGING_COUPON__{name}": text for name, text in variables.items()}
    )


def problems(file: Path | None, environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(file, environ)
    return [str(problem) for problem in refused.value.problems]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(FILE, "utf-8")
    return path


def test_the_environment_alone_is_enough() -> None:
    found = load_settings(None, ENOUGH)

    assert found.kafka.bootstrap_servers == ("kafka-1:9092", "kafka-2:9092")
    assert found.kafka.topics.events == ("charging-completed",)
    assert found.kafka.group_id == "charging-coupon"
    assert found.gateway.url == "https://api.4pyun.com/gate/1.0/parking/mcoupon/event"
    assert found.guarantee == "exactly_once"


def test_the_environment_wins_over_the_file(file: Path) -> None:
    found = load_settings(file, {"CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS": "other:9092"})

    assert found.kafka.bootstrap_servers == ("other:9092",)
    assert found.kafka.topics.events == ("charging-completed",)


def test_variables_have_no_case_after_the_prefix() -> None:
    assert settings(kafka__Group_Id="mine").kafka.group_id == "mine"


def test_variables_of_other_programs_are_left_alone() -> None:
    kubernetes = {
        "CHARGING_COUPON_PORT": "tcp://10.0.0.1:80",
        "CHARGING_COUPON_PORT_8080_TCP_ADDR": "10.0.0.1",
        "CHARGING_COUPON_SERVICE_HOST": "10.0.0.1",
        "CHARGING_COUPON_SETTINGS": "tcp://10.0.0.1:80",
    }

    assert load_settings(None, ENOUGH | kubernetes) == load_settings(None, ENOUGH)


def test_a_path_in_the_file_is_relative_to_the_file(file: Path) -> None:
    assert load_settings(file, {}).rules == file.parent / "rules.yaml"


def test_a_path_in_a_variable_is_taken_as_it_is(file: Path) -> None:
    assert load_settings(file, {"CHARGING_COUPON__RULES": "mine.yaml"}).rules == Path("mine.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("100ms", 0.1), ("1.5m", 90), ("2h", 7200), ("7", 7), ("0.5", 0.5), ("3 s", 3)],
)
def test_durations_have_units_and_numbers_are_seconds(text: str, seconds: float) -> None:
    assert settings(RETRIES__RETRY_AFTER_CAP=text).retries.retry_after_cap == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65_536), ("256MiB", 268_435_456), ("1GB", 1_000_000_000), ("4096", 4096), ("2 kB", 2000)],
)
def test_sizes_have_units_and_numbers_are_bytes(text: str, size: int) -> None:
    assert settings(GATEWAY__MAX_RESPONSE_SIZE=text).gateway.max_response_size == size


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("KAFKA__SESSION_TIMEOUT", "30x", "kafka.session_timeout: '30x' is not a duration; write 30s, 100ms, 5m, 2h, 7d, or seconds as a number"),
        ("INTAKE__MAX_BYTES", "64 gigs", "intake.max_bytes: '64 gigs' is not a size; write 64KiB, 256MiB, 1GiB, or bytes as a number"),
        ("GATEWAY__URL", "api.4pyun.com", "gateway.url: 'api.4pyun.com' is not a web address; write https://host/path"),
        ("GATEWAY__URL", "https://u:p@host/", "gateway.url: holds a user, a password or a fragment; write https://host/path"),
        ("GATEWAY__URL", "https://u:p@host:port/", "gateway.url: is not a web address; write https://host/path"),
        ("KAFKA__COMPRESSION", "lzo", "kafka.compression: 'lzo' is no such choice; write one of gzip, snappy, lz4, zstd, none"),
        ("RETRIES__DELAYS", "5m,1m", "retries.delays: '5m,1m' do not ascend; write the shortest first, each once, such as 1m, 5m, 30m"),
        ("KAFKA__BOOTSTRAP_SERVER", "x", "there is no setting kafka.bootstrap_server; did you mean kafka.bootstrap_servers?"),
        ("GATE__URL", "x", "there is no setting gate; did you mean gateway?"),
        ("ZZZ", "x", "there is no setting zzz; known here: kafka, rules, gateway, retries, intake, ledger, drain_timeout, secrets, secrets_dir, privacy, web, log, tracing, guarantee"),
        ("SECRETS__MAIN", "\n", "secrets.main: is empty; give the secret's text"),
    ],
)  # fmt: skip  # a row a mistake
def test_a_mistake_is_named_with_its_variable_and_remedy(name: str, value: str, problem: str) -> None:
    variable = f"CHARGING_COUPON__{name}"

    assert problems(None, ENOUGH | {variable: value}) == [f"{variable}: {problem}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG__LEVEL", "loud"),
        ("KAFKA__START_FROM", "middle"),
        ("GUARANTEE", "at_most_once"),
        ("GATEWAY__MAX_IN_FLIGHT", "0"),
        ("GATEWAY__TOTAL_TIMEOUT", "-1"),
        ("WEB__PORT", "70000"),
        ("KAFKA__BOOTSTRAP_SERVERS", " , "),
        ("KAFKA__GROUP_ID", ""),
        ("PRIVACY__PLATES", "some"),
        ("KAFKA", "localhost:9092"),
    ],
)
def test_a_value_out_of_range_is_refused_at_its_variable(name: str, value: str) -> None:
    found = problems(None, ENOUGH | {f"CHARGING_COUPON__{name}": value})

    assert any(problem.startswith(f"CHARGING_COUPON__{name}: ") for problem in found)


def test_all_mistakes_of_a_file_are_named_at_once_with_their_lines(file: Path) -> None:
    file.write_text(FILE + "gateway:\n  max_in_fligt: 3\n  connect_timeout: true\nweb: 5\n", "utf-8")

    assert problems(file, {}) == [
        f"{file}:8:3: there is no setting gateway.max_in_fligt; did you mean gateway.max_in_flight?",
        f"{file}:9:3: gateway.connect_timeout: true is not a duration; write 30s, 100ms, 5m, 2h, 7d, or seconds as a number",
        f"{file}:10:1: web is a group of settings, not 5; known beneath it: host, port",
    ]


def test_what_is_missing_is_named_with_the_variable_that_can_set_it() -> None:
    assert [
        problem.split("; ")[0] for problem in problems(None, {"CHARGING_COUPON__PRIVACY__PLATES": "none"})
    ] == [
        "CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS: kafka.bootstrap_servers is missing",
        "CHARGING_COUPON__KAFKA__TOPICS__EVENTS: kafka.topics.events is missing",
        "CHARGING_COUPON__RULES: rules is missing",
    ]


def test_that_no_settings_file_is_named_is_said_where_something_is_missing(file: Path) -> None:
    remedy = (
        "no settings file is named: add `--settings settings.yaml`, or set CHARGING_COUPON__SETTINGS; "
        "without such a file, set CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS"
    )
    file.write_text("privacy: {plates: none}\n", "utf-8")

    assert problems(None, {})[0].partition("; ")[2] == remedy
    assert "no settings file is named" not in "".join(problems(file, {}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kafka:\n  topics: [\n", ":2:12: not YAML: "),
        ("- 1\n", ":1:1: is not a mapping; "),
        ("word", ":1:1: is not a mapping; "),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(file: Path, text: str, problem: str) -> None:
    file.write_text(text, "utf-8")

    [found] = problems(file, {})
    assert found.startswith(f"{file}{problem}")


def test_a_setting_written_twice_in_a_file_is_refused(file: Path) -> None:
    file.write_text(FILE + "rules: other.yaml\n", "utf-8")

    assert problems(file, {}) == [f"{file}:7:1: the key `rules` stands here a second time; keep one of them"]


def test_an_empty_file_sets_nothing(file: Path) -> None:
    file.write_text("# nothing yet\n", "utf-8")

    assert load_settings(file, ENOUGH) == load_settings(None, ENOUGH)


def test_numbers_in_a_file_are_seconds_and_bytes(file: Path) -> None:
    file.write_text(FILE + "gateway: {total_timeout: 7.5, max_response_size: 4096}\n", "utf-8")

    gateway = load_settings(file, {}).gateway
    assert (gateway.total_timeout, gateway.max_response_size) == (7.5, 4096)


def test_a_file_in_another_charset_is_refused(file: Path) -> None:
    file.write_bytes("充电".encode("gb18030"))

    assert problems(file, {}) == [
        f"{file}: cannot be read: not UTF-8; name a readable settings file in UTF-8"
    ]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = problems(tmp_path / "none.yaml", {})

    assert found == [
        f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory; name a readable settings file in UTF-8"
    ]


def test_a_variable_written_twice_in_two_cases_is_refused() -> None:
    twice = {"CHARGING_COUPON__LOG__LEVEL": "info", "CHARGING_COUPON__log__level": "debug"}

    assert problems(None, ENOUGH | twice) == [
        "CHARGING_COUPON__log__level: says the same as CHARGING_COUPON__LOG__LEVEL; remove one of the two"
    ]


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"DRAIN_TIMEOUT": "60s"}, "drain_timeout (1m) is not below kafka.rebalance_timeout (1m)"),
        ({"KAFKA__HEARTBEAT_INTERVAL": "11s"}, "kafka.heartbeat_interval (11s) is more than a third"),
        ({"GATEWAY__CONNECT_TIMEOUT": "11s"}, "gateway.connect_timeout (11s) is longer than gateway.total_timeout (10s)"),
        ({"RETRIES__BASE": "11s"}, "retries.base (11s) is longer than retries.cap (10s)"),
        ({"INTAKE__MAX_BYTES": "100KiB"}, "intake.max_bytes (100KiB) is less than kafka.max_message_size (1MB)"),
        ({"KAFKA__TOPICS__OUTCOMES": "charging-completed"}, "kafka.topics.outcomes names the topic 'charging-completed', and so does kafka.topics.events (CHARGING_COUPON__KAFKA__TOPICS__EVENTS)"),
        ({"KAFKA__TOPICS__OUTCOMES": "coupon-dead-letters"}, "kafka.topics.dead_letters names the topic 'coupon-dead-letters' by default, and so does kafka.topics.outcomes (CHARGING_COUPON__KAFKA__TOPICS__OUTCOMES)"),
        ({"KAFKA__TOPICS__OUTCOMES": "coupon-retries.5m"}, "kafka.topics.retries names the topic 'coupon-retries.5m' by default, and so does kafka.topics.outcomes"),
    ],
)  # fmt: skip  # a row a disagreement
def test_values_that_do_not_agree_are_refused(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings(**variables)

    assert [problem in found.message for found in refused.value.problems] == [True]


def test_hashing_plates_without_a_key_is_refused_with_what_to_do() -> None:
    without = {name: text for name, text in ENOUGH.items() if not name.endswith("PLATE_HASH")}

    [problem] = problems(None, without)
    assert problem == (
        "CHARGING_COUPON__SECRETS__PLATE_HASH: privacy.plates is `both`, whose hashes need the secret `plate_hash`: "
        "the secret 'plate_hash' is nowhere; set CHARGING_COUPON__SECRETS__PLATE_HASH to 16 or more random bytes that "
        "you keep (`openssl rand -base64 32` makes them), or set privacy.plates to `clear` or `none`"
    )


def test_a_key_that_could_be_guessed_is_refused_where_it_stands(tmp_path: Path) -> None:
    short = (
        "secrets.plate_hash is too short: it has 15 bytes, where the key of the plates' hashes needs 16; "
        "`openssl rand -base64 32` makes a good one; hashes under another key are other ones"
    )
    (tmp_path / "plate_hash").write_text("x" * 15 + "\n", "utf-8")
    variable = {"CHARGING_COUPON__SECRETS__PLATE_HASH": "x" * 15}
    elsewhere = {name: text for name, text in ENOUGH.items() if name not in variable}
    folder = {"CHARGING_COUPON__SECRETS_DIR": str(tmp_path)}

    assert problems(None, ENOUGH | variable) == [f"CHARGING_COUPON__SECRETS__PLATE_HASH: {short}"]
    assert problems(None, elsewhere | folder) == [f"{tmp_path}/plate_hash: {short}"]
    assert load_settings(None, ENOUGH | variable | {"CHARGING_COUPON__PRIVACY__PLATES": "clear"})


def test_mistakes_and_disagreements_of_what_is_fine_by_itself_are_told_together() -> None:
    wrong = {
        "CHARGING_COUPON__WEB__PORT": "http",
        "CHARGING_COUPON__DRAIN_TIMEOUT": "60s",
        "CHARGING_COUPON__KAFKA__TOPICS__OUTCOMES": "coupon-dead-letters",
        "CHARGING_COUPON__KAFKA__SECURITY__MECHANISM": "PLAIN",
        "CHARGING_COUPON__SECRETS__PLATE_HASH": "short",
    }

    assert [problem.split(": ")[0] for problem in problems(None, ENOUGH | wrong)] == sorted(wrong)


def test_a_mistake_is_not_told_a_second_time_as_a_disagreement() -> None:
    wrong = {
        "CHARGING_COUPON__KAFKA__REBALANCE_TIMEOUT": "soon",
        "CHARGING_COUPON__DRAIN_TIMEOUT": "2m",
        "CHARGING_COUPON__KAFKA__SECURITY__PROTOCOL": "tls",
        "CHARGING_COUPON__KAFKA__SECURITY__MECHANISM": "PLAIN",
        "CHARGING_COUPON__PRIVACY__PLATES": "masked",
        "CHARGING_COUPON__SECRETS__PLATE_HASH": "short",
    }

    assert [problem.split(": ")[0] for problem in problems(None, ENOUGH | wrong)] == [
        "CHARGING_COUPON__KAFKA__REBALANCE_TIMEOUT",
        "CHARGING_COUPON__KAFKA__SECURITY__PROTOCOL",
        "CHARGING_COUPON__PRIVACY__PLATES",
    ]


@pytest.mark.parametrize(
    "server", ["kafka-1:9092", "10.0.0.1:1", "[2001:db8::1]:65535", "kafka_1.example.com:9092"]
)
def test_a_bootstrap_server_is_a_host_and_a_port(server: str) -> None:
    assert settings(KAFKA__BOOTSTRAP_SERVERS=server).kafka.bootstrap_servers == (server,)


@pytest.mark.parametrize(
    "server", ["kafka-1", ":9092", "kafka-1:", "kafka-1:0", "kafka-1:65536", "kafka-1:x", "::1:9092", "[kafka]:9092", "PLAINTEXT://kafka-1:9092", "kafka-1 :9092"]
)  # fmt: skip  # a row of mistakes
def test_what_is_no_host_and_port_is_quoted(server: str) -> None:
    variable = "CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS"

    [problem] = problems(None, ENOUGH | {variable: f"kafka-2:9092,{server}"})
    assert problem == (
        f"{variable}: kafka.bootstrap_servers: {server!r} is not host:port; "
        "write kafka-1:9092, an IPv6 address in brackets: [2001:db8::1]:9092, ports 1 to 65535"
    )


@pytest.mark.parametrize("name", ["a", "Charging_Completed.v1-2", "x" * 249, "...", "..a"])
def test_a_topic_has_a_name_that_kafka_takes(name: str) -> None:
    assert settings(KAFKA__TOPICS__OUTCOMES=name).kafka.topics.outcomes == name


@pytest.mark.parametrize("setting", ["OUTCOMES", "DEAD_LETTERS", "RETRIES", "EVENTS"])
@pytest.mark.parametrize("name", ["bad topic!", ".", "..", "x" * 250, "主题", "a/b", '["a"'])
def test_what_kafka_does_not_take_as_a_topics_name_is_refused(setting: str, name: str) -> None:
    variable = f"CHARGING_COUPON__KAFKA__TOPICS__{setting}"

    [problem] = problems(None, ENOUGH | {variable: name})
    assert problem.startswith(f"{variable}: kafka.topics.{setting.lower()}: {repr(name)[:60]}")
    assert problem.endswith(
        " is no name that a Kafka topic can have; write 1 to 249 letters, digits, `.`, `_` and `-`; "
        "in a variable a list is written with commas: a,b"
    )


def test_a_prefix_that_makes_too_long_names_of_retry_topics_is_refused() -> None:
    variable = "CHARGING_COUPON__KAFKA__TOPICS__RETRIES"

    assert problems(None, ENOUGH | {variable: "x" * 246}) == [
        f"{variable}: kafka.topics.retries makes topic names of 250 characters, and Kafka takes 249; shorten it"
    ]
    assert settings(KAFKA__TOPICS__RETRIES="x" * 246, RETRIES__DELAYS="1m").retry_topics == (
        "x" * 246 + ".1m",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CHARGING_COUPON_WEB__PORT", "WEB__PORT"),
        ("CHARGING_COUPON_KAFKA__SECURITY__OAUTH__SCOPE", "KAFKA__SECURITY__OAUTH__SCOPE"),
        ("CHARGING_COUPON_SECRETS__MAIN", "SECRETS__MAIN"),
        ("CHARGING_COUPON_RULES", "RULES"),
        ("CHARGING_COUPON_SETTINGS", "SETTINGS"),
        ("charging_coupon__web__port", "WEB__PORT"),
        ("Charging_Coupon__Log__Level", "LOG__LEVEL"),
    ],
)
def test_a_variable_that_nearly_sets_something_is_warned_of(name: str, meant: str) -> None:
    reading = read_settings(None, ENOUGH | {name: "x"})

    assert reading.problems == []
    assert [str(each) for each in reading.warnings] == [
        f"{name}: sets nothing; did you mean CHARGING_COUPON__{meant}?"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "CHARGING_COUPON_PORT",
        "CHARGING_COUPON_PORT_8080_TCP",
        "CHARGING_COUPON_PORT_8080_TCP_ADDR",
        "CHARGING_COUPON_SERVICE_HOST",
        "CHARGING_COUPON_SERVICE_PORT_HTTP",
        "CHARGING_COUPON_WEB_PORT",
        "CHARGING_COUPON_CONSUMER_PORT",
    ],
)
def test_what_kubernetes_sets_for_a_service_is_no_mistake(name: str) -> None:
    assert read_settings(None, ENOUGH | {name: "tcp://10.0.0.1:8080"}).warnings == []


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_that_is_passed_over_is_told_of(name: str) -> None:
    passed_over = {name: "http://proxy:3128"}
    [warning] = read_settings(None, ENOUGH | passed_over).warnings
    there = {"CHARGING_COUPON__GATEWAY__PROXY": "http://proxy:3128"}
    near = {"CHARGING_COUPON__GATEWAY__URL": "http://sandbox:8088/"}

    assert str(warning) == (
        f"{name}: sets nothing here; if the platform is reached through a proxy only, set gateway.proxy"
    )
    for otherwise in (there, near, {name: ""}):
        assert read_settings(None, ENOUGH | passed_over | otherwise).warnings == []


def test_a_variable_in_small_letters_sets_nothing_whatever_it_names() -> None:
    [warning] = read_settings(None, ENOUGH | {"charging_coupon__speed": "9"}).warnings

    assert str(warning) == "charging_coupon__speed: sets nothing; capitals count: CHARGING_COUPON__SPEED"


def test_of_what_is_not_needed_nothing_is_missed_but_what_is_wrong_is_told() -> None:
    here = {name: text for name, text in ENOUGH.items() if "KAFKA" in name}
    wrong = {
        "CHARGING_COUPON__WEB__PORT": "http",
        "CHARGING_COUPON__KAFKA__TOPICS__OUTCOMES": "charging-completed",
    }

    found = load_settings(None, here, needed=["kafka.topics"])
    with pytest.raises(ConfigurationError) as refused:
        load_settings(None, here | wrong, needed=["kafka.topics"])

    assert found.kafka.topics.events == ("charging-completed",)
    assert [problem.place for problem in refused.value.problems] == sorted(wrong)


def test_plates_are_hashed_under_the_secret() -> None:
    privacy = settings().plate_privacy()

    assert (privacy.plates, privacy.hash_key) == (PlateMode.BOTH, b"a long random text")
    assert settings(PRIVACY__PLATES="none").plate_privacy().hash_key == b""


# -- Secrets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["main", "MAIN", "Main"])
def test_a_secret_is_found_in_the_environment_whatever_its_case(name: str) -> None:
    assert settings(SECRETS__MAIN="s3cret").secret(name) == "s3cret"


def test_a_hyphen_in_a_secrets_name_is_an_underscore_in_its_variable() -> None:
    assert settings(SECRETS__LOT_A="s3cret").secret("lot-a") == "s3cret"


@pytest.mark.parametrize(
    "written",
    [b"s3cret", b"s3cret\n", b"s3cret\r\n", b"s3cret\n\n", b"s3cret\r", b"\xef\xbb\xbfs3cret\n"],
)
def test_a_secret_is_read_from_its_file_without_the_editors_newline(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "main").write_bytes(written)

    assert settings(SECRETS_DIR=str(tmp_path)).secret("main") == "s3cret"


UNSEEN = {
    "s3 cret ": "begins or ends with a space",
    " s3cret": "begins or ends with a space",
    "s3\ncret": "holds a line break, a control character or a blank that nobody sees",
    "s3cret\x00": "holds a line break, a control character or a blank that nobody sees",
    "s3cret\u200b": "holds a line break, a control character or a blank that nobody sees",
    "s3cret\u00a0": "holds a line break, a control character or a blank that nobody sees",
    "\u3000s3cret": "holds a line break, a control character or a blank that nobody sees",
    "s3cret\t\n": "holds a line break, a control character or a blank that nobody sees",
}


@pytest.mark.parametrize(("text", "what"), UNSEEN.items(), ids=map(repr, UNSEEN))
def test_a_secret_with_something_in_it_that_nobody_sees_is_refused_and_not_told(
    tmp_path: Path, text: str, what: str
) -> None:
    """Its signatures would all be refused, and its owner would look for the fault everywhere else."""
    (tmp_path / "main").write_text(text, "utf-8")

    with pytest.raises(ConfigurationError) as of_file:
        settings(SECRETS_DIR=str(tmp_path)).secret("main")
    with pytest.raises(ConfigurationError) as of_variable:
        settings(SECRETS__MAIN=text)

    for caught in (of_file, of_variable):
        assert what in str(caught.value)
        assert "s3" not in str(caught.value).replace(str(tmp_path), "")


def test_the_key_of_the_plates_hashes_may_stand_in_several_lines(tmp_path: Path) -> None:
    """As `openssl rand -base64 64` writes it."""
    (tmp_path / "plate_hash").write_text("0123456789abcdef\n0123456789\n", "utf-8")
    environment = {name: text for name, text in ENOUGH.items() if "PLATE_HASH" not in name}

    found = load_settings(None, {**environment, "CHARGING_COUPON__SECRETS_DIR": str(tmp_path)})

    assert found.secret("plate_hash") == "0123456789abcdef\n0123456789"


def test_the_environments_secret_wins_over_the_files(tmp_path: Path) -> None:
    (tmp_path / "main").write_text("of the file", "utf-8")

    assert (
        settings(SECRETS_DIR=str(tmp_path), SECRETS__MAIN="of the environment").secret("main")
        == "of the environment"
    )


def test_all_missing_secrets_are_named_at_once_each_once(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", "utf-8")
    (tmp_path / "binary").write_bytes(b"\xff")
    found = settings(SECRETS_DIR=str(tmp_path))

    missing = found.missing_secrets(["main", "empty", "main", "binary", "../passwd", "plate_hash"])

    assert [str(problem) for problem in missing] == [
        f"{tmp_path / 'main'}: no file holds the secret 'main'; write it, or set CHARGING_COUPON__SECRETS__MAIN",
        f"{tmp_path / 'empty'}: the secret 'empty' is empty; write its text into the file",
        f"{tmp_path / 'binary'}: cannot be read: not UTF-8; make it a readable UTF-8 file",
        f"{tmp_path}: '../passwd' cannot be a secret's name; use letters, digits and _",
    ]


def test_no_secret_is_in_a_repr_or_an_error() -> None:
    found = settings(SECRETS__MAIN="s3cret")

    misplaced = {
        "SECRETS": "s3cret",
        "KAFKA__SECURITY": "s3cret",
        "KAFKA__SECURITY__PASSWORD": "s3cret" * 20,
        "KAFKA__SECURITY__PASSWD": "s3cret",
        "GATEWAY__URL": "https://user:s3cret@host:port",
        "KAFKA__BOOTSTRAP_SERVERS": "user:s3cret@kafka-1:9092",
    }
    for name, text in misplaced.items():
        [told] = problems(None, ENOUGH | {f"CHARGING_COUPON__{name}": text})
        assert "s3cret" not in told
    assert "s3cret" not in f"{found!r} {found} {found.secrets!r} {found.model_dump()}"


def test_the_name_of_a_secret_is_said_to_be_one_unless_it_could_be_the_secret_itself() -> None:
    ours = {"CHARGING_COUPON__SECRETS__KAFKA_MAIN": "s3cret"}

    def password(name: str) -> object:
        variable = {"CHARGING_COUPON__KAFKA__SECURITY__PASSWORD": name}
        rows = {each.name: each for each in read_settings(None, ENOUGH | ours | variable).in_force()}
        assert rows["kafka.security.password"].names_secret
        assert not rows["kafka.security.key_password"].names_secret
        assert not rows["kafka.group_id"].names_secret
        return rows["kafka.security.password"].value

    assert (password("kafka_main"), password("kafka_password"), password("p4ssw0rd")) == (
        "kafka_main",
        "kafka_password",
        "***",
    )


def test_what_is_in_force_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    secrets = {name: text for name, text in ENOUGH.items() if "SECRETS" in name}
    unusual = {
        "CHARGING_COUPON__KAFKA__START_FROM": "2026-03-01T00:00:00+08:00",
        "CHARGING_COUPON__KAFKA__TOPICS__OUTCOMES_RETENTION": "36.5h",
        "CHARGING_COUPON__GATEWAY__TOTAL_TIMEOUT": "7.125",
        "CHARGING_COUPON__GATEWAY__MAX_RESPONSE_SIZE": "1025",
        "CHARGING_COUPON__KAFKA__CLIENT_RACK": "true",
    }
    tree: dict[str, Any] = {}
    for name, value, *_ in read_settings(None, ENOUGH | unusual).in_force():
        *groups, last = name.split(".")
        group = functools.reduce(lambda inner, part: inner.setdefault(part, {}), groups, tree)
        if value is not None and groups != ["secrets"]:
            group[last] = value
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps(tree), "utf-8")

    assert load_settings(file, secrets) == load_settings(None, ENOUGH | unusual)


def test_a_secret_in_a_file_is_in_force_under_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "main").write_text("of the file", "utf-8")
    (tmp_path / "lot-a").write_text("never read: the variable wins", "utf-8")
    (tmp_path / "..data").mkdir()
    found = read_settings(
        None,
        ENOUGH | {"CHARGING_COUPON__SECRETS_DIR": str(tmp_path), "CHARGING_COUPON__SECRETS__LOT_A": "s3cret"},
    ).in_force()

    assert [each[:3] for each in found if each.name.startswith("secrets.")] == [
        ("secrets.lot_a", "***", "CHARGING_COUPON__SECRETS__LOT_A"),
        ("secrets.plate_hash", "***", "CHARGING_COUPON__SECRETS__PLATE_HASH"),
        ("secrets.main", "***", str(tmp_path / "main")),
    ]


def test_every_setting_says_what_it_is() -> None:
    def undescribed(group: type, where: str) -> list[str]:
        fields = getattr(group, "model_fields", {})
        missing = [f"{where}{name}" for name, field in fields.items() if not field.description]
        return missing + [
            found
            for name, field in fields.items()
            if isinstance(field.annotation, type)
            for found in undescribed(field.annotation, f"{where}{name}.")
        ]

    assert undescribed(Settings, "") == []


def test_the_fleets_bounds_are_off_unless_set() -> None:
    assert (settings().gateway.fleet_rate, settings().gateway.fleet_max_in_flight) == (None, None)
    found = settings(GATEWAY__FLEET_RATE="2.5", GATEWAY__FLEET_MAX_IN_FLIGHT="12").gateway
    assert (found.fleet_rate, found.fleet_max_in_flight) == (2.5, 12)


@pytest.mark.parametrize("text", ["0", "-1", "true", "nan", "inf"])
def test_a_rate_is_a_number_above_nothing(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"gateway\.fleet_rate"):
        settings(GATEWAY__FLEET_RATE=text)


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("authorization=Bearer%20abc=", {"authorization": "Bearer abc="}),
        (" api-key = k-1 , x-scope-orgid=parking", {"api-key": "k-1", "x-scope-orgid": "parking"}),
    ],
)
def test_headers_for_a_collector_are_written_as_opentelemetry_writes_them(
    text: str, headers: dict[str, str]
) -> None:
    assert headers_of(text) == headers


@pytest.mark.parametrize("text", ["Bearer abc", "=abc", "a b=c", "a=b,", "a=b%0d%0aHost:x", "a=充电"])
def test_what_are_no_headers_is_refused_and_not_repeated(text: str) -> None:
    variables = {
        "CHARGING_COUPON__TRACING__HEADERS": "collector",
        "CHARGING_COUPON__SECRETS__COLLECTOR": text,
    }

    assert problems(None, ENOUGH | variables) == [
        (
            "CHARGING_COUPON__TRACING__HEADERS: tracing.headers names a secret that "
            "is not of the form name=value,name=value; correct the secret's text"
        )
    ]


def test_a_collectors_headers_and_ca_have_to_be_there() -> None:
    variables = {
        "CHARGING_COUPON__TRACING__HEADERS": "collector",
        "CHARGING_COUPON__TRACING__CA_FILE": "none.pem",
    }

    ca, headers = problems(None, ENOUGH | variables)

    assert headers == (
        "CHARGING_COUPON__TRACING__HEADERS: tracing.headers names a secret that is neither in secrets nor in secrets_dir; "
        "write here only its name (such as tracing_headers), and its text there"
    )
    assert ca.startswith("CHARGING_COUPON__TRACING__CA_FILE: tracing.ca_file")
