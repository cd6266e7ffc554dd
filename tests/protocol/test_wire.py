"""The one door for JSON: what PostgreSQL cannot store is mapped there."""

from __future__ import annotations

import json

import pytest

from opencode_async.protocol.wire import (
    DEEPEST,
    GREATEST,
    MOST,
    Malformed,
    amount,
    clean,
    loads,
    mapping,
    number,
    objects,
    optional_text,
    text,
)

UNSTORABLE = [chr(0), *map(chr, range(0xD800, 0xE000, 0x97)), "\ud800", "\udfff"]


@pytest.mark.parametrize("character", UNSTORABLE, ids=lambda c: f"U+{ord(c):04X}")
@pytest.mark.parametrize("as_bytes", [False, True])
def test_characters_that_cannot_be_stored_become_replacement_characters(
    character: str, as_bytes: bool
) -> None:
    raw = json.dumps({"a" + character: [f"b{character}c", {"d": character * 2}]})
    loaded = loads(raw.encode() if as_bytes else raw)
    assert loaded == {"a\ufffd": ["b\ufffdc", {"d": "\ufffd\ufffd"}]}


@pytest.mark.parametrize("escape", [r"\ud800", r"\uD800", r"\uDfFf", r"\u0000"])
def test_the_escape_may_be_written_in_either_case(escape: str) -> None:
    assert loads(f'"x{escape}y"') == "x\ufffdy"


def test_astral_characters_in_surrogate_pairs_are_kept() -> None:
    everything = "".join(map(chr, [*range(0x1F600, 0x1F650), 0x10000, 0x10FFFF]))
    assert loads(json.dumps({everything: everything})) == {everything: everything}
    assert loads(json.dumps(everything, ensure_ascii=False).encode()) == everything
    assert loads(r'"\ud83d\ude00\ud83d"') == "\U0001f600\ufffd"


def test_an_escaped_backslash_before_a_code_is_no_escape() -> None:
    assert loads(r'"\\u0000 \\ud800"') == r"\u0000 \ud800"


def test_everything_else_is_kept_as_it_is() -> None:
    kept = "\t\n\x01\x7f\x80\ue000\ufeff\ufffd\uffff é 漢"
    assert clean(kept) == kept
    value: list[object] = [1, 1.5, -0.25, True, False, None, "", kept, {}, [], {"z\\ud": "\x01"}]
    assert loads(json.dumps([*value, "\x00"])) == [*value, "\ufffd"]


NOT_JSON = ["", "{", "data", '{"a":}', "[1,]", b"\xff\xfe\xfd", b"\xc3(", b'"\xed\xa0\x80"']


@pytest.mark.parametrize("raw", NOT_JSON)
def test_what_is_not_json_is_malformed(raw: str | bytes) -> None:
    with pytest.raises(Malformed, match="not JSON"):
        loads(raw)


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", '{"cost": NaN}', "1e999", "[-1e999]"])
def test_numbers_that_json_does_not_have_are_malformed(literal: str) -> None:
    with pytest.raises(Malformed, match="not JSON"):
        loads(literal)


def test_a_value_nested_too_deep_is_malformed() -> None:
    with pytest.raises(Malformed):
        loads("[" * 200_000)


def test_what_is_nested_deeper_than_python_can_write_is_cut_off() -> None:
    def nested(levels: int) -> str:
        return '{"a":[' * (levels // 2) + "7" + "]}" * (levels // 2)

    whole = json.loads(nested(DEEPEST))
    assert loads(nested(DEEPEST)) == whole
    assert loads(nested(DEEPEST + 2)) == json.loads(nested(DEEPEST).replace("7", "null"))
    assert loads(f'["\\u0000",{nested(900)}]')[0] == "\ufffd"
    wide = "[" + ",".join(["[{}]"] * DEEPEST) + "]"
    assert loads(wide) == json.loads(wide)


def test_amounts_are_such_as_can_be_added_up() -> None:
    source = {"none": 0, "some": 7, "part": 0.5, "most": MOST}
    assert [amount(source, key) for key in source] == [0, 7, 0.5, MOST]
    odd = {"less": -1, "more": MOST + 1, "much": 10**400, "yes": True, "text": "7", "null": None}
    assert [amount(odd, key) for key in odd] == [0] * len(odd)


def test_numbers_beyond_what_the_server_can_count_are_none() -> None:
    source = {"a": GREATEST, "b": -GREATEST, "c": GREATEST + 1, "d": -(10**400), "e": 1e300}
    assert [number(source, key) for key in source] == [GREATEST, -GREATEST, 0, 0, 0]


def test_fields_are_read_with_their_type_or_not_at_all() -> None:
    source = {"text": "t", "empty": "", "one": 1, "half": 0.5, "yes": True, "null": None}
    assert text(source, "text") == "t"
    assert text(source, "empty") == ""
    for key in ("one", "null", "absent"):
        with pytest.raises(Malformed, match=key):
            text(source, key)
    assert [optional_text(source, key) for key in ("text", "one", "absent")] == ["t", None, None]
    assert [number(source, key) for key in ("one", "half")] == [1, 0.5]
    assert [number(source, key) for key in ("yes", "text", "null", "absent")] == [0, 0, 0, 0]
    assert mapping(source) == source
    with pytest.raises(Malformed, match="what is list"):
        mapping([], "what")
    assert objects([{"a": 1}, 2, None, {}]) == [{"a": 1}, {}]
    assert objects({"a": 1}) == []
