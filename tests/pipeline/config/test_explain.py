"""Mistakes in a configuration: all at once, in plain words, each with the nearest valid name."""

from __future__ import annotations

import pytest

from pipeline.config.explain import Mistake
from pipeline.config.load import load_settings
from storage_schemas.errors import ConfigError, Remedy
from storage_schemas.paths.local import LocalPath


def _refusal(source: str | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(source, overrides)
    assert caught.value.remedy == Remedy("settings")
    return caught.value.seen


def test_one_error_lists_all_mistakes_with_key_value_and_what_is_allowed() -> None:
    message = _refusal(
        None,
        "binarize.threshold=2",
        "evaluate.decoder=udp",
        "evaluate.flip=1",
        "teachers.primary.train.epochs=true",
        "distill.schedule=fast",
        "report=3",
        "data.train={annotations: a.json}",
    )
    assert message.splitlines() == [
        "8 mistakes in the configuration 'demo':",
        "  data.train.annotations: 'a.json' is relative; paths must be absolute, because a submitted job runs in another "
        "folder",
        "  data.train.images: is missing",
        "  teachers.primary.train.epochs: true must be a whole number",
        "  binarize.threshold: 2 must be at most 1",
        "  distill.schedule: \"fast\" must be 'none', 'primary', 'senior', 'together', 'primary_then_senior', "
        "'senior_then_primary' or 'blend', or a list",
        "  evaluate.flip: 1 must be 'exact', 'hrnet' or false",
        "  evaluate.decoder: \"udp\" must be 'quarter', 'dark', 'centroid' or 'soft_argmax', or 'auto'",
        "  report: 3 must be a section",
    ]


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("viws.count=1", "'views'"),
        ("views.cuont=1", "'views.count'"),
        ("distill.epoch=20", "'distill.epochs'"),
        ("teachers.primary.networkk=x", "'teachers.primary.network'"),
        ("distill.schedule=[{epochs: 20, primry: 1}]", "'distill.schedule.0.primary'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_name(override: str, meant: str) -> None:
    message = _refusal(None, override)
    assert f"no such setting; did you mean {meant}?" in message
    assert message.startswith("1 mistake in")


def test_mistakes_inside_an_unknown_section_are_listed_under_its_nearest_name(tmp_path: LocalPath) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(
        """
        preset: demo
        distil: {epoch: 3, lr: fast, batch_size: 8}
        augment: {scale: 3, rotation_deg: 30}
        viws: {count: -1}
        """
    )
    assert _refusal(str(path)).splitlines() == [
        f"7 mistakes in the configuration '{path}':",
        "  distil: no such setting; did you mean 'distill'?",
        "  augment: no such setting; did you mean 'views.augment'?",
        "  viws: no such setting; did you mean 'views'?",
        "  views.count: -1 must be at least 0",
        "  views.augment.scale: 3 must be less than 1",
        '  distill.lr: "fast" must be a number',
        "  distill.epoch: no such setting; did you mean 'distill.epochs'?",
    ]


def test_a_misspelt_section_is_not_also_reported_as_missing(tmp_path: LocalPath) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("dta: {embedded: {}}\nteachers: {primary: {network: hrnet_w16, train: {}}}\n")
    message = _refusal(str(path))
    assert "  dta: no such setting; did you mean 'data'?" in message
    assert "  name: is missing" in message
    assert "  data: is missing" not in message


def test_an_unknown_key_without_a_similar_name_gets_no_suggestion() -> None:
    assert _refusal(None, "xyzzy=1").splitlines()[1:] == ["  xyzzy: no such setting"]


def test_a_mistake_inside_a_list_of_phases_hides_the_other_alternative() -> None:
    message = _refusal(None, "distill.schedule=[{epochs: 0, primary: 1}]")
    assert "distill.schedule.0.epochs: 0 must be at least 1" in message
    assert "'blend'" not in message


def test_alternatives_are_joined_in_one_sentence() -> None:
    mistake = Mistake("evaluate.decoder", value='"udp"', allowed=("'dark' or 'centroid'", "'auto'"))
    assert mistake.text == "evaluate.decoder: \"udp\" must be 'dark' or 'centroid', or 'auto'"


def test_a_mistake_of_the_whole_configuration_has_no_key() -> None:
    assert Mistake("", reason="is missing").text == "the whole: is missing"
