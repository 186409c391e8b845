"""JSON of any form is a document or one message; a whole number may be written as a float."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.data.json_file import few, finite_numbers, read_json, show, whole
from storage_schemas.errors import DataError

NAN = float("nan")


def read(path: Path, content: bytes) -> tuple[object, list[str]]:
    path.write_bytes(content)
    return read_json(path, what="list of boxes", allowed="a list")


def test_literals_that_are_not_finite_are_listed(tmp_path: Path) -> None:
    document, literals = read(tmp_path / "a", b'{"a": [NaN, 1, -Infinity], "b": {"a": Infinity}}')
    assert literals == ["NaN", "-Infinity", "Infinity"]
    assert isinstance(document, dict)
    assert document["a"][1:] == [1, float("-inf")]
    # A number beyond the largest float is no literal.
    assert read(tmp_path / "a", b"[1e400]") == ([float("inf")], [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not UTF-8 at byte 0"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "is not JSON: Exceeds the limit"),
        (b'{"a": 1, "a": 1}', "1 keys are repeated within an object: 'a'"),
        (b'[{"a": {"b": 1, "b": 2, "c": 3, "c": 4}}]', "2 keys are repeated within an object: 'b', 'c'"),
    ],
)
def test_another_form_is_refused_in_one_message(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a", content)
    assert caught.value.seen.startswith(f"The list of boxes {tmp_path / 'a'}: {reason}")


def test_equal_keys_in_different_objects_are_fine(tmp_path: Path) -> None:
    assert read(tmp_path / "a", b'[{"a": {"a": 1}}, {"a": 2}]')[0] == [{"a": {"a": 1}}, {"a": 2}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (320.0, 320),
        (-0.0, 0),
        (320.5, 320.5),
        (2.0**53, 2.0**53),
        (float("inf"), float("inf")),
        ("1", "1"),
        (True, True),
        (None, None),
    ],
)
def test_whole_numbers_that_are_exact_become_integers(value: object, expected: object) -> None:
    assert (whole(value), type(whole(value))) == (expected, type(expected))


@pytest.mark.parametrize(
    "wrong",
    [[1, 2], [1, 2, 3, 4], (1, 2, 3), None, "123", [1, 2, "3"], [1, 2, True], [1, 2, NAN], [1, 2, 10**400], [1, 2, [3]]],
)
def test_only_a_list_of_finite_numbers_is_one(wrong: object) -> None:
    assert finite_numbers([1, 2.5, -3], 3) == [1.0, 2.5, -3.0]
    assert finite_numbers(wrong, 3) is None


def test_many_values_are_counted() -> None:
    assert few([1, "a", None]) == "1, 'a', None"
    assert few(list(range(12)), 3) == "0, 1, 2 and 9 more"


@pytest.mark.parametrize("value", [10**5000, [1, 10**5000], {"a": -(10**5000)}], ids=["number", "list", "object"])
def test_a_number_too_long_for_python_to_write_is_shown_without_its_digits(value: object) -> None:
    assert show(value) == "a number of thousands of digits"
