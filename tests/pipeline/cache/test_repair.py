"""``repair``: which settings it takes, and what it does without a cluster."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from pipeline import cluster
from pipeline.cache.repair import step_of
from pipeline.cli import DONE, USER_MISTAKE
from pipeline.config.load import resolved_yaml
from pipeline.experiments import noting, refer
from stages.base import Context
from stages.prepare import stage as prepare
from stages.targets import stage as targets
from storage_schemas.errors import CorruptEntryError, MissingInputError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.buckets import local
from tests.support.cache_samples import Cache, leave_run, put
from tests.support.errors import suggested
from tests.support.step_samples import make_context, with_instances


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise AssertionError("nothing here needs a cluster")

    monkeypatch.setattr(cluster, "connect", connect)


@pytest.mark.parametrize(("name", "stage"), [("student", "distill"), ("primary", "teachers"), ("train", "prepare")])
def test_a_kind_that_is_made_as_a_whole_is_refused_with_the_command_that_makes_it(
    cache: Cache, made: dict[str, Entry], name: str, stage: str
) -> None:
    entry_id = made[name].entry_id
    assert cache("repair", entry_id) == DONE
    assert cache.out == f"{entry_id}: nothing was damaged\n"
    made[name].path(next(iter(made[name].manifest.files))).unlink()
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    assert cache("repair", entry_id) == USER_MISTAKE
    assert cache.err.splitlines() == [
        f"StoreError: {entry_id} can only be rebuilt as a whole: it has no blocks to recompute",
        "  Allowed: an entry of views or targets; or --upstream HOME, if that home has the same files",
        f"  Next:    python -m pipeline.run --config {config} --home {cache.home} --stage {stage} --force {entry_id}",
    ]


@pytest.mark.parametrize("name", ["student", "train bits", "unused"])
def test_what_a_teams_home_has_is_taken_from_there_and_not_made_again(
    cache: Cache, made: dict[str, Entry], tmp_path: LocalPath, name: str
) -> None:
    entry, team = made[name], tmp_path / "team"
    shutil.copytree(cache.home, team)
    damaged = entry.path(next(iter(entry.manifest.files)))
    damaged.unlink()
    assert cache("verify", "--upstream", str(team)) == USER_MISTAKE
    command = f"python -m pipeline.cache repair {entry.entry_id} --home {cache.home} --upstream {team}"
    assert f"  Next:    {command}\n" in cache.out
    with pytest.raises(CorruptEntryError) as caught:
        entry.check(upstream=team)
    assert suggested(caught.value) == command
    assert cache(*command.split()[3:]) == DONE
    assert cache.out.splitlines()[-1] == f"{entry.entry_id}: 1 file copied from {team}"
    assert entry.damaged() == {}
    assert cache("verify") == DONE


def test_what_is_damaged_in_the_teams_home_too_is_made_again(cache: Cache, made: dict[str, Entry], tmp_path: LocalPath) -> None:
    entry, team = made["student"], tmp_path / "team"
    entry.path("file").write_bytes(b"Content")
    shutil.copytree(cache.home, team)
    assert cache("repair", entry.entry_id, "--upstream", str(team)) == USER_MISTAKE
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    again = (
        f"python -m pipeline.run --config {config} --home {cache.home} --upstream {team}"
        f" --stage distill --force {entry.entry_id}"
    )
    assert cache.err.endswith(f"  Next:    {again}\n")
    assert [*entry.damaged()] == ["file"], "nothing wrong is put in its place"


def test_of_an_entry_with_other_bits_nothing_is_taken(cache: Cache, made: dict[str, Entry], tmp_path: LocalPath) -> None:
    entry = made["student"]
    theirs = put(Store(tmp_path / "team" / "store"), "students", entry.manifest.recipe, file=b"trained elsewhere")
    assert theirs.entry_id == entry.entry_id
    assert entry.twin(tmp_path / "team") is None
    entry.path("file").unlink()
    assert (
        "--stage distill --force"
        in cache.json("verify", "--upstream", str(tmp_path / "team"))["damaged"][entry.entry_id]["next"]
    )


def test_scores_are_made_again_by_the_stage_that_made_them(cache: Cache, made: dict[str, Entry]) -> None:
    """Nothing in the recipe tells a teacher's from a student's."""
    store = Store(cache.home / "store")
    with store.draft("evaluations", {"network": "of a teacher"}) as draft:
        assert isinstance(draft, Draft)
        local(draft.folder / "file").write_bytes(b"scores")
        entry = draft.commit(["file"], measured={}, made={"stage": "teachers"})
    leave_run(cache.home, "new", [entry])
    entry.path("file").unlink()
    assert f" --stage teachers --force {entry.entry_id}" in cache.json("verify")["damaged"][entry.entry_id]["next"]
    made["scores of student"].path("file").unlink()
    entry_id = made["scores of student"].entry_id
    # Of older entries that is not known.
    assert f" --stage all --force {entry_id}" in cache.json("verify")["damaged"][entry_id]["next"]


def _crops(home: LocalPath, *overrides: str) -> tuple[Context, str]:
    """A run that has people, and the place of its crops of the training set."""
    context = with_instances(make_context(home, *overrides))
    return context, targets.view_step(context, "train", 1).entry_id


def _leave(context: Context, name: str, entry_id: str, settings: str | None = None) -> None:
    """A finished experiment that refers to a place."""
    folder = leave_run(local(context.home), name, [])
    (folder / "metrics.json").write_text(f'{{"entries": ["{entry_id}"]}}')
    (folder / "config.resolved.yaml").write_text(resolved_yaml(context.settings) if settings is None else settings)


def test_an_entry_that_is_whole_needs_no_cluster(cache: Cache) -> None:
    context, _ = _crops(cache.home)
    step = targets.view_step(context, "train", 1)
    with context.store.draft(step.kind, step.recipe) as draft:
        assert not isinstance(draft, Entry)
        draft.commit([], measured={})
    _leave(context, "demo", step.entry_id)
    assert cache("repair", step.key) == DONE
    assert cache.out == f"{step.entry_id}: nothing was damaged\n"


def test_what_an_entry_was_made_from_may_lie_in_a_teams_home(cache: Cache) -> None:
    teams = cache.home / "teams"
    _crops(teams)
    context = replace(make_context(cache.home), upstream=teams)
    step = targets.view_step(context, "train", 1)
    with context.store.draft(step.kind, step.recipe) as draft:
        assert not isinstance(draft, Entry)
        draft.commit([], measured={})
    _leave(context, "demo", step.entry_id)
    with pytest.raises(MissingInputError) as caught:
        step_of(cache.home, step.entry_id, upstream=None)
    assert "inputs are missing, val instances, train instances" in caught.value.seen
    assert "--upstream HOME, if that home has the inputs" in caught.value.allowed
    assert suggested(caught.value).endswith("config.resolved.yaml --home " + f"{cache.home} --stage prepare")
    assert step_of(cache.home, step.entry_id, upstream=teams)[1].key == step.key


def test_an_entry_whose_own_manifest_cannot_be_read_is_not_taken_for_that_of_the_team(cache: Cache) -> None:
    teams = cache.home / "teams"
    theirs, entry_id = _crops(teams)
    step = targets.view_step(theirs, "train", 1)
    with theirs.store.draft(step.kind, step.recipe) as draft:
        assert not isinstance(draft, Entry)
        draft.commit([], measured={})
    shutil.copytree(teams / "store" / entry_id, cache.home / "store" / entry_id)
    (cache.home / "store" / entry_id / "manifest.json").write_bytes(b"{")
    _leave(make_context(cache.home), "demo", entry_id)
    assert cache("repair", entry_id, "--upstream", str(teams)) == USER_MISTAKE
    assert cache.err.startswith("CorruptEntryError: ")
    drop = f"python -m pipeline.cache drop {entry_id} --used --home {cache.home}"
    assert cache.err.endswith(f"  Next:    {drop}\n"), "a run would find the team's, and leave this one"
    assert cache("verify", "--upstream", str(teams)) == USER_MISTAKE
    assert f"  Next:    {drop}\n" in cache.out
    assert cache(*drop.split()[3:]) == DONE
    assert not (cache.home / "store" / entry_id / "manifest.json").exists()
    assert cache("verify", "--upstream", str(teams)) == DONE


def test_an_entry_whose_manifest_cannot_be_read_is_made_by_its_stage_and_not_repaired(cache: Cache) -> None:
    context, _ = _crops(cache.home)
    step = targets.view_step(context, "train", 1)
    with context.store.draft(step.kind, step.recipe) as draft:
        assert not isinstance(draft, Entry)
        entry = draft.commit([], measured={})
    (local(entry.folder).parent / "manifest.json").write_bytes(b"{")
    _leave(context, "demo", step.entry_id)
    assert cache("repair", step.key) == USER_MISTAKE
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    assert f"  Next:    python -m pipeline.run --config {config} --home {cache.home} --stage targets\n" in cache.err


def test_settings_that_cannot_be_used_do_not_keep_those_of_others_from_being_used(tmp_path: LocalPath) -> None:
    context, entry_id = _crops(tmp_path)
    gone = resolved_yaml(context.settings).replace("embedded:", "drawn:")
    _leave(context, "a", entry_id, settings=gone)
    _leave(context, "b", entry_id, settings="data: [")
    _leave(context, "c", entry_id)
    _, step, run = step_of(tmp_path, entry_id, upstream=None)
    assert (step.kind, step.entry_id) == ("views", entry_id)
    assert f"{tmp_path}/runs/c/config.resolved.yaml" in str(run.config)


def test_settings_of_which_none_can_be_used_are_all_told(tmp_path: LocalPath) -> None:
    context, entry_id = _crops(tmp_path)
    _leave(context, "a", entry_id, settings="data: [")
    _leave(make_context(tmp_path, "views.seed=9"), "b", entry_id)
    with pytest.raises(MissingInputError) as caught:
        step_of(tmp_path, entry_id, upstream=None)
    first, *others = caught.value.seen.splitlines()
    assert first == f"The settings of a, b do not lead to {entry_id} on this machine"
    assert others
    assert others[0].startswith(f"{tmp_path}/runs/a/config.resolved.yaml: ")


def test_what_an_unfinished_run_of_other_settings_needs_is_repaired_with_those(tmp_path: LocalPath) -> None:
    """The figures and the settings beside them are of an earlier run of the same name."""
    earlier, other = _crops(tmp_path, "views.seed=9")
    context, entry_id = _crops(tmp_path)
    assert other != entry_id
    _leave(earlier, "demo", other)
    with pytest.raises(KeyboardInterrupt), noting(context.run_dir, "now", resolved_yaml(context.settings)):
        _stop(context, [entry_id, *(step.entry_id for step in prepare.steps(context))])
    found, step, run = step_of(tmp_path, entry_id, upstream=None)
    assert step.entry_id == entry_id
    assert found.settings.views.seed == context.settings.views.seed != 9
    assert "/runs/demo/unfinished/now/config.resolved.yaml" in str(run.config)
    assert step_of(tmp_path, other, upstream=None)[0].settings.views.seed == 9


def _stop(context: Context, entry_ids: list[str]) -> None:
    refer(context.run_dir, "now", entry_ids)
    raise KeyboardInterrupt


def test_an_entry_that_no_experiment_uses_cannot_be_repaired(cache: Cache, made: dict[str, Entry]) -> None:
    made["unused"].path("file").unlink()
    assert cache("repair", made["unused"].key) == USER_MISTAKE
    assert f"No experiment of {cache.home} uses {made['unused'].entry_id}" in cache.err
    assert f"  Next:    python -m pipeline.cache drop {made['unused'].entry_id} --home {cache.home}\n" in cache.err


@pytest.mark.parametrize(
    "lies_there", ["link to a folder", "dangling link", "folder", "nothing above", "dangling link above", "nothing at all"]
)
def test_whatever_lies_where_a_lost_file_belongs_it_is_repaired(
    cache: Cache, made: dict[str, Entry], tmp_path: LocalPath, lies_there: str
) -> None:
    entry, team = made["train bits"], tmp_path / "team"
    shutil.copytree(cache.home, team)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own").write_bytes(b"somebody's")
    path = entry.path("bits/c/0")
    if lies_there == "nothing at all":
        shutil.rmtree(local(entry.folder))
    elif lies_there.endswith("above"):
        shutil.rmtree(path.parents[1])
        path = path.parents[1]
    else:
        path.unlink()
    if lies_there == "folder":
        path.mkdir()
    elif not lies_there.startswith("nothing"):
        path.symlink_to(tmp_path / ("elsewhere" if lies_there == "link to a folder" else "nowhere"))
    assert cache("repair", entry.entry_id, "--upstream", str(team)) == DONE
    assert entry.damaged() == {}
    assert cache("verify") == DONE
    assert (tmp_path / "elsewhere" / "own").exists()
