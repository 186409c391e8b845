"""The configuration: what is read, what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import __main__ as config
from pipeline.config.load import load_settings, preset_names, resolved_yaml
from storage_schemas.errors import ConfigError
from storage_schemas.paths.local import LocalPath


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCO_ROOT", "/data/coco")
    monkeypatch.setenv("PHOTOGRAPHS", "/data/photographs")
    monkeypatch.setenv("TEACHER", "/data/teacher")
    monkeypatch.setenv("ODKD_WEIGHTS", "/data/weights")
    monkeypatch.delenv("NOWHERE", raising=False)


def _write(folder: LocalPath, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def _refusal(source: str | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(source, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_named_after_its_file_and_round_trips(name: str, tmp_path: LocalPath) -> None:
    settings = load_settings(name)
    assert settings.name == name
    assert load_settings(_write(tmp_path, resolved_yaml(settings))) == settings


def test_without_a_configuration_the_embedded_default_is_read() -> None:
    settings = load_settings(None)
    assert settings == load_settings("demo")
    assert settings.data.embedded is not None


def test_the_coco_preset_reads_the_standard_layout() -> None:
    settings = load_settings("coco_hrnet_w16")
    assert settings.data.train is not None
    assert settings.data.train.annotations == LocalPath("/data/coco/annotations/person_keypoints_train2017.json")
    assert settings.data.train.images == LocalPath("/data/coco/train2017")
    assert settings.teachers.primary.weights == Path("/data/weights/pose_hrnet_w32_256x192.pth")
    assert settings.distill.epochs % settings.views.count == 0, "views are used equally often"


def test_a_file_is_merged_key_by_key_over_the_preset_it_names(tmp_path: LocalPath) -> None:
    mine = _write(tmp_path, "preset: coco_hrnet_w16\ndistill: {epochs: 42}\ncrop: {size_wh: [288, 384]}\n")
    settings, preset = load_settings(mine), load_settings("coco_hrnet_w16")
    assert settings.distill.epochs == 42
    assert settings.distill.lr == preset.distill.lr
    assert settings.crop.size_wh == (288, 384), "a list replaces a list"
    assert settings.teachers == preset.teachers
    assert settings.name == "mine", "a file without a name has its own, not the preset's"


def test_a_name_in_the_file_wins_over_the_files_own(tmp_path: LocalPath) -> None:
    assert load_settings(_write(tmp_path, "preset: demo\nname: trial_7\n")).name == "trial_7"


def test_null_takes_a_section_of_the_preset_away(tmp_path: LocalPath) -> None:
    text = """
        preset: demo
        data:
          embedded: null
          train: {annotations: /d/a.json, images: /d/a}
          val: {annotations: /d/b.json, images: /d/b}
    """
    assert load_settings(_write(tmp_path, text)).data.embedded is None


def test_a_preset_that_does_not_exist_is_refused_with_those_that_do(tmp_path: LocalPath) -> None:
    assert f"one of {', '.join(preset_names())}" in _refusal(_write(tmp_path, "preset: coco\n"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [("distill.lr=1e-3", 0.001), ("distill.lr=2", 2.0), ("distill.lr = .5", 0.5)],
)
def test_an_override_is_read_as_yaml_with_plain_exponents(override: str, expected: float) -> None:
    assert load_settings(None, [override]).distill.lr == expected


def test_overrides_reach_missing_sections_and_lists_and_the_last_one_wins() -> None:
    phases = ["distill.epochs=5", "distill.schedule=[{epochs: 5, primary: 1}]"]
    settings = load_settings(None, ["views.count=8", "views.count=2", "views.augment.scale=0.1", *phases])
    assert settings.views.count == 2
    assert settings.views.augment.scale == 0.1
    assert settings.distill.schedule[0].epochs == 5  # type: ignore[union-attr]


@pytest.mark.parametrize("override", ["views.count", "=3", "views..count=3", "views.=3", "9=3", "views.count=[1"])
def test_a_badly_formed_override_is_refused_and_shown(override: str) -> None:
    assert f"--set {override}" in _refusal(None, override)


def test_an_override_below_a_plain_value_is_refused() -> None:
    assert 'name is "demo", not a section' in _refusal(None, "name.first=x")


def test_variables_and_the_home_are_expanded_in_paths_only(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    overrides = [
        "teachers.primary.weights=~/w${ODKD_WEIGHTS}x$$y.pth",
        "teachers.primary.train=null",
        "evaluate.boxes=$COCO_ROOT/b",
    ]
    settings = load_settings(None, overrides)
    assert str(settings.teachers.primary.weights) == "/home/someone/w/data/weightsx$y.pth"
    assert settings.evaluate.boxes == Path("/data/coco/b")
    monkeypatch.delenv("COCO_ROOT")
    assert load_settings(_write(tmp_path, resolved_yaml(settings))) == settings, "what is resolved needs no environment"
    assert '"$COCO_ROOT" must match' in _refusal(None, "name=$COCO_ROOT")


def test_undefined_variables_are_all_named_with_the_command_that_defines_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COCO_ROOT")
    monkeypatch.delenv("ODKD_WEIGHTS")
    message = _refusal("coco_hrnet_w16")
    assert "$COCO_ROOT, $ODKD_WEIGHTS" in message
    assert "export COCO_ROOT=/path/to/it; export ODKD_WEIGHTS=/path/to/it" in message


def test_all_mistakes_are_told_at_once_each_with_its_key_its_value_and_what_is_allowed() -> None:
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
    assert message.splitlines()[:-1] == [
        "8 mistakes in the configuration 'demo':",
        "  data.train.annotations: 'a.json' is relative; a submitted job runs in another folder, so paths must be absolute",
        "  data.train.images: is missing",
        "  teachers.primary.train.epochs: true must be a whole number",
        "  binarize.threshold: 2 must be less than or equal to 1",
        "  distill.schedule: \"fast\" must be 'none', 'primary', 'senior', 'together', 'primary_then_senior', "
        "'senior_then_primary' or 'blend', or a list",
        "  evaluate.flip: 1 must be true or false",
        "  evaluate.decoder: \"udp\" must be 'quarter', 'dark' or 'centroid', or 'auto'",
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


def test_mistakes_inside_an_unknown_section_are_told_too_by_the_name_that_was_meant(tmp_path: LocalPath) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(
        """
        preset: demo
        distil: {epoch: 3, lr: fast, batch_size: 8}
        augment: {scale: 3, rotation_deg: 30}
        viws: {count: -1}
        """
    )
    assert _refusal(str(path)).splitlines()[:-1] == [
        f"7 mistakes in the configuration '{path}':",
        "  distil: no such setting; did you mean 'distill'?",
        "  augment: no such setting; did you mean 'views.augment'?",
        "  viws: no such setting; did you mean 'views'?",
        "  views.count: -1 must be greater than or equal to 0",
        "  views.augment.scale: 3 must be less than 1",
        '  distill.lr: "fast" must be a number',
        "  distill.epoch: no such setting; did you mean 'distill.epochs'?",
    ]


def test_what_an_unknown_section_would_have_given_is_not_called_missing(tmp_path: LocalPath) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("dta: {embedded: {}}\nteachers: {primary: {network: hrnet_w16, train: {}}}\n")
    message = _refusal(str(path))
    assert "  dta: no such setting; did you mean 'data'?\n" in message
    assert "  name: is missing\n" in message
    assert "  data: is missing" not in message


def test_an_unknown_key_like_no_other_gets_no_guess() -> None:
    assert "  xyzzy: no such setting\n" in _refusal(None, "xyzzy=1")


def test_a_mistake_inside_a_list_of_phases_hides_the_alternative_that_was_not_meant() -> None:
    message = _refusal(None, "distill.schedule=[{epochs: 0, primary: 1}]")
    assert "distill.schedule.0.epochs: 0 must be greater than or equal to 1" in message
    assert "'blend'" not in message


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused(value: str) -> None:
    assert "must be a finite number" in _refusal(None, f"distill.teacher_weight={value}")


@pytest.mark.parametrize("value", ["010", "1:30", "0b11", "0x1f", "0o17", "1_0", "00"])
def test_what_yaml_1_1_takes_for_a_whole_number_is_text_and_refused(value: str) -> None:
    assert f'views.seed: "{value}" must be a whole number' in _refusal(None, f"views.seed={value}")


@pytest.mark.parametrize("value", ["1_0.5", "1:30.5", "00.5", ".nan", ".inf", "-.inf"])
def test_what_yaml_1_1_takes_for_a_number_is_text_and_refused(value: str) -> None:
    assert f'distill.lr: "{value}" must be a number' in _refusal(None, f"distill.lr={value}")


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("-12", -12), ("+5", 5), ("100", 100)])
def test_whole_numbers_are_read_as_json_has_them(text: str, number: int) -> None:
    assert load_settings(None, [f"views.seed={text}"]).views.seed == number


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("!!timestamp 2020-01-01", "no setting is a !!timestamp"),
        ("!!set {a, b}", "no setting is a !!set"),
        ("!!binary aGk=", "no setting is a !!binary"),
        ("!!python/object:os.system x", "no setting is a !!python/object:os.system"),
        ("!!int 010", '"010" is no !!int'),
        ("!!float x", '"x" is no !!float'),
        ("!!bool maybe", '"maybe" is no !!bool'),
        ("!!map x", "expected a mapping node"),
        ("&a [*a]", "holds itself"),
        ("&a {b: *a}", "holds itself"),
        ("[" * 2000, "nested without end"),
        (f"!!int {'9' * 5000}", "is no !!int"),
    ],
)
def test_values_that_no_setting_has_are_refused_in_words(value: str, said: str, tmp_path: LocalPath) -> None:
    assert said in _refusal(None, f"name={value}")
    assert said in _refusal(_write(tmp_path, f"name: {value}\n"))


def test_the_sign_for_equals_is_a_word() -> None:
    assert '"=" must match' in _refusal(None, "name==")


def test_an_override_below_an_anchor_leaves_the_places_of_its_aliases(tmp_path: LocalPath) -> None:
    text = """
        name: mine
        data: {embedded: {}}
        teachers:
          primary: {network: hrnet_w8_small, train: &how {epochs: 3}}
          senior: {train: *how}
    """
    teachers = load_settings(_write(tmp_path, text), ["teachers.primary.train.epochs=50"]).teachers
    assert teachers.primary.train is not None
    assert (teachers.primary.train.epochs, teachers.senior.train.epochs) == (50, 3)


def test_merge_keys_are_refused_in_plain_words(tmp_path: LocalPath) -> None:
    text = "preset: demo\nviews: &v {count: 1}\ndistill:\n  <<: *v\n"
    assert "at line 4, column 3: merge keys ('<<') are not read: write the settings out" in _refusal(_write(tmp_path, text))


def test_an_empty_configuration_is_not_the_default() -> None:
    assert "There is no preset and no file ''" in _refusal("")


def test_the_home_of_a_user_who_does_not_exist_is_refused() -> None:
    assert "--config '~nosuchuser/x.yaml': " in _refusal("~nosuchuser/x.yaml")


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: LocalPath) -> None:
    message = _refusal(_write(tmp_path, "preset: demo\nviews:\n  count: 1\n  seed: 2\n  count: 3\n"))
    assert "at line 5, column 3: the key 'count' stands twice" in message


def test_a_key_that_yaml_takes_for_something_else_is_refused(tmp_path: LocalPath) -> None:
    assert "the key True is not a word" in _refusal(_write(tmp_path, "preset: demo\non: 1\n"))


def test_invalid_yaml_is_refused_with_line_and_column(tmp_path: LocalPath) -> None:
    message = _refusal(_write(tmp_path, "preset: demo\nviews: {count: 1\ncrop: [\n"))
    assert "is not valid YAML at line 3, column 5" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n"])
def test_yaml_that_is_no_mapping_is_refused(text: str, tmp_path: LocalPath) -> None:
    assert "sections of settings" in _refusal(_write(tmp_path, text))


def test_an_empty_file_says_what_is_missing(tmp_path: LocalPath) -> None:
    message = _refusal(_write(tmp_path, ""))
    assert all(f"  {key}: is missing" in message for key in ("name", "data", "teachers"))


def test_what_is_neither_a_preset_nor_a_file_is_refused_with_the_presets_and_the_nearest(tmp_path: LocalPath) -> None:
    message = _refusal("coco_hrnet_w61")
    assert "did you mean 'coco_hrnet_w16'?" in message
    assert f"a preset ({', '.join(preset_names())}) or a path" in message
    assert "There is no preset and no file" in _refusal(str(tmp_path)), "a folder is no file"


def test_a_file_that_is_not_text_is_refused(tmp_path: LocalPath) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in _refusal(str(path))


def test_the_module_prints_what_is_resolved_and_exits_2_on_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["--set", "views.count=7"]) == 0
    assert "views:\n  count: 7\n" in capsys.readouterr().out
    assert config.main(["--set", "views.count=-1"]) == 2
    assert "views.count: -1 must be greater than or equal to 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1e3", "2026-11-25", "on", "12", "010", "1_0", "0b11", "0x1f", "1.5"])
def test_a_name_that_looks_like_something_else_survives_the_round_trip(name: str, tmp_path: LocalPath) -> None:
    settings = load_settings(None, [f'name="{name}"'])
    assert load_settings(_write(tmp_path, resolved_yaml(settings))).name == name


def test_a_primary_that_cannot_be_trained_needs_a_base_for_its_senior() -> None:
    given = ["teachers.primary.weights=/m/t.onnx", "teachers.primary.network=null", "teachers.primary.train=null"]
    with pytest.raises(ConfigError, match=r"'t\.onnx' is ONNX"):
        load_settings(None, given)
    settings = load_settings(None, [*given, "teachers.senior.base.weights=/m/t.pt2"])
    assert settings.teachers.senior.base is not None


def test_workers_share_a_batch_evenly() -> None:
    with pytest.raises(ConfigError, match="batch_size 16 cannot be shared evenly by 3 workers"):
        load_settings(None, ["distill.workers=3"])
