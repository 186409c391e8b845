"""Tables, trees, sizes and ages as people read them."""

from __future__ import annotations

import pytest

from pipeline.text import age_text, plural, printable, size_text, table, tree


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    text = table(("kind", "size"), [("views", "1 B"), ("a", "120 MB")], right=("size",))
    assert text.splitlines() == [
        "kind     size",
        "views     1 B",
        "a      120 MB",
    ]
    assert table(("kind", "last"), [("views", "")]).splitlines() == ["kind   last", "views"]


def test_a_tree_indents_what_is_inside_and_shows_the_first_of_many() -> None:
    value = {"a": {"b": 1, "c": {}}, "epochs": [{"view": 1}, {"view": 2}], "one": [{"x": None}], "size": [1, 2], "none": []}
    assert tree(value).splitlines() == [
        "  a:",
        "    b: 1",
        "    c: {}",
        "  epochs[0 and 1 more]:",
        "    view: 1",
        "  one[0]:",
        "    x: null",
        "  size: [1, 2]",
        "  none: []",
    ]


def test_a_value_longer_than_a_line_is_cut_and_says_how_long_it_is() -> None:
    # 60 numbers of 2 digits, as many separators of 2 but one, and two brackets: 60 * 2 + 59 * 2 + 2.
    (line,) = tree({"a": [10] * 60}).splitlines()
    assert line.endswith("... (240 characters)")
    assert len(line) < 130


def test_what_would_move_the_cursor_is_escaped() -> None:
    assert printable("plain \u00e4") == "plain \u00e4"
    assert printable("\x1b[2J") == '"\\u001b[2J"'
    assert "\x1b" not in table(("a",), [("\x1b[2J",)]) + tree({"\x1b": "\x1b", "b": ["\x1b"]})


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (97_000_000_000, "97 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
    ],
)
def test_ages_are_in_the_largest_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


def test_a_count_agrees_with_what_is_counted() -> None:
    assert [plural(1, "entry"), plural(0, "entry"), plural(1204, "file")] == ["1 entry", "0 entries", "1,204 files"]
