"""Tables and trees of values."""

from __future__ import annotations

from pipeline.text import printable, table, tree


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
