"""Recipes, keys and manifests: canonical JSON, and damage that decode detects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.paths.facts import FileFacts
from storage_schemas.store.manifest import Manifest
from storage_schemas.store.recipe import canonical_json, differing_fields, key_of
from tests.support.store_samples import signed

RECIPE: dict[str, Any] = {"size": [192, 256], "rule": {"threshold": 0.5, "keep": "all"}}
MANIFEST = Manifest(
    "targets",
    key_of("targets", RECIPE),
    RECIPE,
    "attempt-1",
    {"bits/c/0": FileFacts(3, "aa"), "peak": FileFacts(5, "bb")},
    {"AP": 0.5},
    {"at": "2024-01-01", "host": "one"},
)


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": (1, 2.5), "a": {"d": None, "c": "\u00e4"}}) == b'{"a":{"c":"\\u00e4","d":null},"b":[1,2.5]}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_refuses_infinite_numbers(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"lr": number})


def test_a_key_is_sixteen_digits_of_the_hash_of_kind_schema_and_recipe() -> None:
    text = b'{"kind":"targets","recipe":{"a":1},"schema":3}'
    assert key_of("targets", {"a": 1}) == hashlib.sha256(text).hexdigest()[:16]


def test_a_key_depends_on_values_and_kind_but_not_on_order() -> None:
    key = key_of("targets", {"a": 1, "b": (2, 3)})
    assert key == key_of("targets", {"b": [2, 3], "a": 1})
    assert len({key, key_of("views", {"a": 1, "b": [2, 3]}), key_of("targets", {"a": 1, "b": [3, 2]})}) == 3


def test_differing_fields_give_both_values() -> None:
    theirs = {"size": (192, 256), "rule": {"threshold": 0.3, "keep": "all"}, "seed": 0}
    assert differing_fields(RECIPE, theirs) == [("rule.threshold", 0.5, 0.3), ("seed", None, 0)]


def _epochs(*weights: float, view: int = 1) -> dict[str, Any]:
    return {"epochs": [{"view": view, "weights": {"primary": weight, "senior": 0.0}} for weight in weights]}


def test_a_long_list_names_its_first_differing_element() -> None:
    assert differing_fields(_epochs(0.5, 0.7, 0.7, 0.7), _epochs(0.5, 0.5, 0.5, 0.5)) == [
        ("epochs[1 and 2 more].weights.primary", 0.7, 0.5)
    ]
    assert differing_fields({"of": _epochs(0.5, 0.7)}, {"of": _epochs(0.5, 0.5, view=2)}) == [
        ("of.epochs[0 and 1 more].view", 1, 2),
        ("of.epochs[1].weights.primary", 0.7, 0.5),
    ]
    assert differing_fields(_epochs(0.5), _epochs(0.6)) == [("epochs[0].weights.primary", 0.5, 0.6)]
    assert differing_fields({"made_from": list("abcdef")}, {"made_from": list("abXdef")}) == [("made_from[2]", "c", "X")]


def test_differing_fields_show_lengths_and_short_lists() -> None:
    assert differing_fields(_epochs(0.5, 0.5), _epochs(0.5)) == [("number of epochs", 2, 1)]
    assert differing_fields({"size": [64, 64]}, {"size": (96, 128)}) == [("size", [64, 64], (96, 128))]
    assert differing_fields({"size": [64, 64]}, {"size": None}) == [("size", [64, 64], None)]


def test_recipes_differ_exactly_if_their_keys_do() -> None:
    assert differing_fields({"size": (1, 2)}, {"size": [1, 2]}) == []
    assert differing_fields({"a": None}, {}) == [("a", None, None)]
    assert differing_fields({"a": 1}, {"a": 1.0}) == [("a", 1, 1.0)]
    assert differing_fields({"a": {"b": 1}}, {"a": None}) == [("a", {"b": 1}, None)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=3), json_values, max_size=4), st.dictionaries(st.text(max_size=3), json_values, max_size=3)
)
def test_decode_returns_the_encoded_manifest(recipe: dict[str, Any], measured: dict[str, Any]) -> None:
    manifest = replace(MANIFEST, recipe=recipe, key=key_of("targets", recipe), measured=measured)
    assert Manifest.decode(manifest.encode(), where="here") == manifest


def test_the_payload_depends_on_the_files_only() -> None:
    text = b'{"bits/c/0":{"sha256":"aa","size":3},"peak":{"sha256":"bb","size":5}}'
    assert MANIFEST.payload == hashlib.sha256(text).hexdigest()
    assert MANIFEST.size == 8
    assert replace(MANIFEST, folder="attempt-2", measured={}, made={"at": "2025", "host": "two"}).payload == MANIFEST.payload
    assert replace(MANIFEST, files={**MANIFEST.files, "peak": FileFacts(5, "bc")}).payload != MANIFEST.payload


def test_decode_detects_any_changed_byte() -> None:
    data = MANIFEST.encode()
    for at in range(len(data)):
        with pytest.raises(CorruptEntryError):
            Manifest.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], where="here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        b'{"sha256": NaN}',
        b'{"sha256": "", "schema": 1, "payload": "", "size": 1e999}',
        MANIFEST.encode()[:-20],
    ],
)
def test_decode_refuses_other_files(data: bytes) -> None:
    with pytest.raises(CorruptEntryError, match="here is not a manifest"):
        Manifest.decode(data, where="here")


@pytest.mark.parametrize("field", ["recipe", "measured", "made"])
@pytest.mark.parametrize("value", ["1e999", "NaN", "[" * 100_000])
def test_decode_refuses_infinite_numbers_with_a_right_hash(field: str, value: str) -> None:
    text, _, _ = MANIFEST.encode().decode().rpartition(',\n "sha256"')
    text = text.replace(f'"{field}": {{', f'"{field}": {{"odd": {value},')
    data = f'{text},\n "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'.encode()
    with pytest.raises(CorruptEntryError, match="here is not a manifest"):
        Manifest.decode(data, where="here")


def test_decode_refuses_an_edited_field() -> None:
    with pytest.raises(CorruptEntryError, match="does not match its own sha256"):
        Manifest.decode(MANIFEST.encode().replace(b'"threshold": 0.5', b'"threshold": 0.6'), where="here")


def test_decode_refuses_a_key_of_another_recipe() -> None:
    with pytest.raises(CorruptEntryError, match="does not follow"):
        Manifest.decode(replace(MANIFEST, recipe={"other": 1}).encode(), where="here")


def test_decode_names_another_schema_version() -> None:
    body = json.loads(MANIFEST.encode())
    for version, said in ((4, "4"), (True, "True"), ("\x1b\n", r"'\x1b\n'")):
        with pytest.raises(StoreError) as caught:
            Manifest.decode(signed({**body, "schema": version}), where="here")
        assert caught.value.seen == f"here has schema version {said}"


def test_decode_refuses_a_missing_or_unknown_field() -> None:
    body = json.loads(MANIFEST.encode())
    without = {name: value for name, value in body.items() if name != "made"}
    for changed in (without, {**body, "more": 1}, {**body, "files": {"a": {"size": 1}}}):
        with pytest.raises(CorruptEntryError, match="is not a manifest"):
            Manifest.decode(signed(changed), where="here")


@pytest.mark.parametrize(
    "change",
    [
        {"folder": 3},
        {"measured": []},
        {"made": None},
        {"files": {"a": {"size": "1", "sha256": "aa"}}},
        {"files": {"a": {"size": -1, "sha256": "aa"}}},
        {"files": {"a": {"size": True, "sha256": "aa"}}},
        {"files": {"a": {"size": 1 << 63, "sha256": "aa"}}},
        {"files": {"a": {"size": 1, "sha256": None}}},
        {"recipe": [], "key": key_of("targets", [])},  # type: ignore[arg-type]
    ],
)
def test_decode_refuses_a_field_of_another_type(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptEntryError, match="here is not a manifest"):
        Manifest.decode(signed({**json.loads(MANIFEST.encode()), **change}), where="here")


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "a/../../b", "", ".", "a/./b", "a//b", "a/", "a\0"])
def test_decode_refuses_names_outside_the_entry(name: str) -> None:
    with pytest.raises(CorruptEntryError, match="outside its folder"):
        Manifest.decode(replace(MANIFEST, folder=name).encode(), where="here")
    with pytest.raises(CorruptEntryError, match="outside its folder"):
        Manifest.decode(replace(MANIFEST, files={name: FileFacts(1, "aa")}).encode(), where="here")


def test_list_elements_are_grouped_by_their_differing_fields() -> None:
    ours = {
        "epochs": [{"primary": "p1", "weight": 1}, {"primary": "p2", "weight": 1}, {"senior": "s", "weight": 1}, {"weight": 1}]
    }
    theirs = {"epochs": [{"weight": 1}] * 4}
    assert differing_fields(ours, theirs) == [
        ("epochs[0 and 1 more].primary", "p1", None),
        ("epochs[2].senior", "s", None),
    ]
