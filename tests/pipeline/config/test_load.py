"""Loading a configuration: presets, files, overrides and variables."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from pipeline.config import __main__ as config
from pipeline.config.load import load_settings, preset_names, resolved_yaml
from storage_schemas.errors import ConfigError, Remedy
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


@pytest.mark.parametrize(
    ("preset", "student", "recipe", "augment"),
    [
        # Epochs, batch, rate, drops, warm-up; deviation of scale and rotation, share of half bodies (the authors' settings).
        ("coco_hrnet_w16", "hrnet_w16", (210, 128, 1e-3, None, 0), (0.35, 45, 0.3)),
        ("coco_lpn50", "lpn50", (150, 32, 1e-3, (90, 120), 0), (0.3, 40, 0.0)),
        ("coco_hourglass_4x128", "hourglass_4x128", (140, 32, 1e-3, (90, 120), 0), (0.3, 40, 0.0)),
        ("coco_lite_hrnet_18", "lite_hrnet_18", (210, 512, 2e-3, None, 500), (0.25, 30, 0.3)),
        ("coco_lite_hrnet_30", "lite_hrnet_30", (210, 512, 2e-3, None, 500), (0.25, 30, 0.3)),
    ],
)
def test_each_coco_preset_has_the_recipe_of_its_student(
    preset: str, student: str, recipe: tuple[object, ...], augment: tuple[float, ...]
) -> None:
    settings = load_settings(preset)
    train, changes = settings.distill, settings.views.augment
    assert settings.name == preset
    assert train.student.network == student
    assert (train.epochs, train.batch_size, train.lr, train.lr_drop_epochs, train.warmup_steps) == recipe
    assert (train.optimizer, train.lr_schedule, train.weight_decay) == ("adam", "steps", 0)
    assert (changes.scale, changes.rotation_deg, changes.half_body_prob) == augment
    assert train.epochs % settings.views.count == 0, "views are used equally often"
    assert settings.teachers == load_settings("coco_hrnet_w16").teachers


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


def test_null_removes_a_section_of_the_preset(tmp_path: LocalPath) -> None:
    text = """
        preset: demo
        data:
          embedded: null
          train: {annotations: /d/a.json, images: /d/a}
          val: {annotations: /d/b.json, images: /d/b}
    """
    assert load_settings(_write(tmp_path, text)).data.embedded is None


def test_an_unknown_preset_is_refused_with_the_known_ones(tmp_path: LocalPath) -> None:
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
    assert '"$COCO_ROOT" must be a text that matches' in _refusal(None, "name=$COCO_ROOT")


def test_all_undefined_variables_are_named_with_a_command_that_defines_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COCO_ROOT")
    monkeypatch.delenv("ODKD_WEIGHTS")
    with pytest.raises(ConfigError) as caught:
        load_settings("coco_hrnet_w16")
    assert "$COCO_ROOT, $ODKD_WEIGHTS" in caught.value.seen
    assert caught.value.remedy == Remedy("shell", text="export COCO_ROOT=/path/to/it; export ODKD_WEIGHTS=/path/to/it")


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused(value: str) -> None:
    assert "must be a finite number" in _refusal(None, f"distill.teacher_weight={value}")


@pytest.mark.parametrize("value", ["010", "1:30", "0b11", "0x1f", "0o17", "1_0", "00"])
def test_a_whole_number_of_yaml_1_1_is_a_string_and_refused(value: str) -> None:
    assert f'views.seed: "{value}" must be a whole number' in _refusal(None, f"views.seed={value}")


@pytest.mark.parametrize("value", ["1_0.5", "1:30.5", "00.5", ".nan", ".inf", "-.inf"])
def test_a_number_of_yaml_1_1_is_a_string_and_refused(value: str) -> None:
    assert f'distill.lr: "{value}" must be a number' in _refusal(None, f"distill.lr={value}")


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("-12", -12), ("+5", 5), ("100", 100)])
def test_whole_numbers_are_those_of_json(text: str, number: int) -> None:
    assert load_settings(None, [f"views.seed={text}"]).views.seed == number


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("!!timestamp 2020-01-01", "no setting is a !!timestamp"),
        ("!!set {a, b}", "no setting is a !!set"),
        ("!!binary aGk=", "no setting is a !!binary"),
        ("!!python/object:os.system x", "no setting is a !!python/object:os.system"),
        ("!!int 010", '"010" is not a valid !!int'),
        ("!!float x", '"x" is not a valid !!float'),
        ("!!bool maybe", '"maybe" is not a valid !!bool'),
        ("!!map x", "expected a mapping node"),
        ("&a [*a]", "contains itself"),
        ("&a {b: *a}", "contains itself"),
        pytest.param("[" * 2000, "nested too deeply", id="2000 brackets"),
        pytest.param(f"!!int {'9' * 5000}", "is not a valid !!int", id="5000 digits"),
    ],
)
def test_values_that_no_setting_can_have_are_refused(value: str, said: str, tmp_path: LocalPath) -> None:
    assert said in _refusal(None, f"name={value}")
    assert said in _refusal(_write(tmp_path, f"name: {value}\n"))


def test_an_equals_sign_is_a_string() -> None:
    assert '"=" must be a text that matches' in _refusal(None, "name==")


def test_an_override_inside_an_anchor_does_not_change_its_aliases(tmp_path: LocalPath) -> None:
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


def test_merge_keys_are_refused_with_their_position(tmp_path: LocalPath) -> None:
    text = "preset: demo\nviews: &v {count: 1}\ndistill:\n  <<: *v\n"
    assert "at line 4, column 3: merge keys ('<<') are not read: repeat the settings" in _refusal(_write(tmp_path, text))


def test_an_empty_configuration_is_not_the_default() -> None:
    assert "There is no preset and no file ''" in _refusal("")


def test_the_home_of_an_unknown_user_is_refused() -> None:
    assert "There is no preset and no file '~nosuchuser/x.yaml'" in _refusal("~nosuchuser/x.yaml")


def test_a_repeated_key_is_refused_with_its_line(tmp_path: LocalPath) -> None:
    message = _refusal(_write(tmp_path, "preset: demo\nviews:\n  count: 1\n  seed: 2\n  count: 3\n"))
    assert "at line 5, column 3: the key 'count' is repeated" in message


def test_a_key_that_is_not_a_string_is_refused(tmp_path: LocalPath) -> None:
    assert "the key True is not a string" in _refusal(_write(tmp_path, "preset: demo\non: 1\n"))


def test_invalid_yaml_is_refused_with_line_and_column(tmp_path: LocalPath) -> None:
    message = _refusal(_write(tmp_path, "preset: demo\nviews: {count: 1\ncrop: [\n"))
    assert "is not valid YAML at line 3, column 5" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n"])
def test_yaml_without_sections_is_refused(text: str, tmp_path: LocalPath) -> None:
    assert "sections of settings" in _refusal(_write(tmp_path, text))


def test_an_empty_file_says_what_is_missing(tmp_path: LocalPath) -> None:
    message = _refusal(_write(tmp_path, ""))
    assert all(f"  {key}: is missing" in message for key in ("name", "data", "teachers"))


def test_an_unknown_name_is_refused_with_the_presets_and_the_nearest_one(tmp_path: LocalPath) -> None:
    message = _refusal("coco_hrnet_w61")
    assert "did you mean 'coco_hrnet_w16'?" in message
    assert f"a preset ({', '.join(preset_names())}) or a path" in message
    assert "There is no preset and no file" in _refusal(str(tmp_path)), "a folder is no file"


def test_a_file_that_is_not_text_is_refused(tmp_path: LocalPath) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in _refusal(str(path))


def test_the_command_prints_the_resolved_settings_and_exits_2_on_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["--set", "views.count=7"]) == 0
    assert "views:\n  count: 7\n" in capsys.readouterr().out
    assert config.main(["--set", "views.count=-1"]) == 2
    assert "views.count: -1 must be at least 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1e3", "2026-11-25", "on", "12", "010", "1_0", "0b11", "0x1f", "1.5"])
def test_a_name_that_looks_like_another_type_survives_the_round_trip(name: str, tmp_path: LocalPath) -> None:
    settings = load_settings(None, [f'name="{name}"'])
    assert load_settings(_write(tmp_path, resolved_yaml(settings))).name == name


def test_a_primary_that_cannot_be_trained_needs_a_base_for_its_senior() -> None:
    given = ["teachers.primary.weights=/m/t.onnx", "teachers.primary.network=null", "teachers.primary.train=null"]
    with pytest.raises(ConfigError, match=r"'t\.onnx' is ONNX"):
        load_settings(None, given)
    settings = load_settings(None, [*given, "teachers.senior.base.weights=/m/t.pt2"])
    assert settings.teachers.senior.base is not None


def test_workers_share_a_batch_evenly() -> None:
    with pytest.raises(ConfigError, match="batch_size 16 must be a multiple of the 3 workers"):
        load_settings(None, ["distill.workers=3"])


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(tmp_path: LocalPath) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "stands for more than 100,000 values" in _refusal(_write(tmp_path, "\n".join(lines)))
    few = "views: &v {count: 3}\ndistill: {epochs: 2}\npreset: demo\n"
    assert load_settings(_write(tmp_path, few)).views.count == 3


def test_a_file_that_is_too_long_for_settings_is_not_parsed(tmp_path: LocalPath) -> None:
    assert "has more than 1,048,576 bytes" in _refusal(_write(tmp_path, "# " + "x" * (1 << 20)))


def test_a_huge_file_is_refused_after_its_first_bytes(tmp_path: LocalPath) -> None:
    os.truncate(path := _write(tmp_path, "preset: demo\n"), 1 << 30)
    tracemalloc.start()
    try:
        assert "has more than 1,048,576 bytes" in _refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_file_of_the_largest_size_is_read(tmp_path: LocalPath) -> None:
    text = "preset: demo\nviews: {count: 3}\n# "
    assert load_settings(_write(tmp_path, text + "x" * ((1 << 20) - len(text)))).views.count == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill.epochs=100000000000", "distill.epochs: 100000000000 must be at most 10,000"),
        ("views.count=1000000", "views.count: 1000000 must be at most 10,000"),
        (f"views.seed={2**63}", f"views.seed: {2**63} must be less than 9,223,372,036,854,775,808"),
        (f"distill.seed={-(2**63) - 1}", "must be at least -9,223,372,036,854,775,808"),
        ("data.embedded.seed=-1", "data.embedded.seed: -1 must be at least 0"),
        ("distill.batch_size=100000000000", "distill.batch_size: 100000000000 must be at most 1,000,000"),
        ("crop.size_wh=[1000000, 1000000]", "crop.size_wh.0: 1000000 must be at most 4,096"),
        ("evaluate.flip=true", "evaluate.flip: true must be 'exact', 'hrnet' or false"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(override: str, said: str) -> None:
    assert said in _refusal(None, override)


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63)])
def test_the_largest_seeds_are_read(seed: int) -> None:
    assert load_settings(None, [f"views.seed={seed}", f"distill.seed={seed}"]).views.seed == seed
