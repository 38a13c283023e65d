"""The signature and the form, against the published vectors and read back as a server reads them."""

import json
from pathlib import Path
from urllib.parse import parse_qsl, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core import signing
from consumer.core.signing import encode_form, sign, signature_base

VECTORS = json.loads((Path(__file__).parent / "signing-vectors.json").read_text("utf-8"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
OURS = {"sign", "app_secret"}  # the one is added, the other is never sent
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_[].", min_size=1, max_size=12).filter(
    lambda name: name not in OURS
)
ODD = "充电 减免+1% &=~*"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_published_vectors_reproduce(vector: dict[str, str]) -> None:
    assert vector["sign"] == sign(vector["params"], vector["app_secret"])  # type: ignore[arg-type]  # params is an object


def test_the_base_is_sorted_raw_and_ends_with_the_secret() -> None:
    parameters = {"subject": ODD, "plate": "粤BA1471", "api_type": "charge"}

    assert f"api_type=charge&plate=粤BA1471&subject={ODD}&app_secret=S" == signature_base(parameters, "S")


def test_upper_case_names_sort_before_lower_case_ones_as_in_ascii() -> None:
    assert signature_base({"a": "1", "_": "3", "B": "2"}, "S") == "B=2&_=3&a=1&app_secret=S"


def test_empty_values_are_neither_signed_nor_sent() -> None:
    full, sparse = {"a": "1", "metadata": ""}, {"a": "1"}

    assert sign(sparse, "S") == sign(full, "S")
    assert encode_form(sparse, "S") == encode_form(full, "S")


def test_a_zero_is_a_value() -> None:
    assert signature_base({"a": "0"}, "S") == "a=0&app_secret=S"


def test_an_old_signature_among_the_parameters_is_replaced() -> None:
    assert encode_form({"a": "1"}, "S") == encode_form({"a": "1", "sign": "OLD"}, "S")


def test_the_secret_is_refused_as_a_parameter() -> None:
    with pytest.raises(ValueError, match="`app_secret` is never sent"):
        encode_form({"app_secret": "S"}, "S")


@given(st.dictionaries(TEXT.filter(lambda name: name not in OURS), TEXT, max_size=6), TEXT)
def test_the_body_is_the_plainly_encoded_form_to_the_byte(form: dict[str, str], secret: str) -> None:
    assert encode_form(form, secret) == plainly(form, secret)


def test_each_character_is_encoded_as_the_plain_encoding_has_it() -> None:
    every = "".join(chr(code) for code in (*range(0xD800), *range(0xE000, 0x11000), 0x1F697, 0x10FFFF))

    assert encode_form({"a": every, every[:300]: "b"}, "S") == plainly({"a": every, every[:300]: "b"}, "S")


def test_without_the_quoter_in_c_the_body_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    form = {"subject": ODD, "plate": "粤BA1471", "": "!$'()*,", "empty": ""}
    with_it = encode_form(form, "S")
    monkeypatch.setattr(signing, "_quote", quote_plus)

    assert encode_form(form, "S") == with_it == plainly(form, "S")


def plainly(form: dict[str, str], secret: str) -> bytes:
    sent = {name: value for name, value in form.items() if value}
    return urlencode({**sent, "sign": sign(form, secret)}).encode("ascii")


def test_half_a_surrogate_pair_is_never_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_form({"subject": "a\ud83d"}, "S")


def test_a_subject_full_of_special_characters_is_encoded_once() -> None:
    body = encode_form({"subject": ODD}, "S")

    assert [("subject", ODD), ("sign", sign({"subject": ODD}, "S"))] == parse_qsl(body.decode("ascii"))


@given(st.dictionaries(NAMES, TEXT, min_size=1), TEXT.filter(bool))
def test_what_a_server_decodes_carries_the_signature_it_computes(
    parameters: dict[str, str], secret: str
) -> None:
    body = encode_form(parameters, secret).decode("ascii")
    decoded = parse_qsl(body, keep_blank_values=True, strict_parsing=True)
    sent = {name: value for name, value in parameters.items() if value}

    assert list(sent.items()) == decoded[:-1]
    assert ("sign", sign(dict(decoded), secret)) == decoded[-1]
    assert sign(parameters, secret) == decoded[-1][1]
