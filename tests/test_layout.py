"""The layout of the sources: the way that imports point, sizes, words that stay out, and tests that mirror them."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.plain_words import UNPLAIN

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("storage_schemas", "stages", "pipeline")
"""From the lowest: each may import from itself and from those before it."""
SOURCES = sorted(path.relative_to(ROOT).as_posix() for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))
MODULES = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in SOURCES}

_SMOKE = "measured by the smoke run in bench/test_bench.py"
_DRAWN = "drawn by synthetic/test_dataset.py"
_RUN = "runs in test_run.py, its steps in test_graph.py"
_PUBLISHED = "test_published_networks.py compares all of them with the published code"
WITHOUT_TEST = {
    "pipeline/bench/__main__.py": "bench/test_bench.py runs the command",
    **{f"pipeline/bench/{name}.py": _SMOKE for name in ("cache", "crops", "drawn", "entries", "filling", "plot")},
    **{f"pipeline/bench/{name}.py": _SMOKE for name in ("reading", "records", "results", "scale", "sizes", "store")},
    "pipeline/bench/device.py": "bench/test_steps.py measures with it",
    "pipeline/cache/entries.py": "the tests of the cache commands look entries up, and name their users",
    "pipeline/config/__main__.py": "config/test_load.py calls its main",
    "pipeline/config/tree.py": "config/test_load.py merges and overrides with it",
    "pipeline/config/strict_yaml.py": "config/test_load.py reads good and bad YAML",
    "pipeline/home.py": "test_command_line.py gives homes that are refused",
    "stages/base.py": "test_graph.py and test_plan.py make contexts and steps of all kinds",
    **{
        f"stages/networks/{name}.py": _PUBLISHED
        for name in ("hourglass", "lite_hrnet", "lpn", "simple_baseline", "simple_lite")
    },
    "stages/networks/branches.py": _PUBLISHED,
    "stages/networks/initial.py": _PUBLISHED,
    "stages/training_settings.py": "test_settings.py validates the settings of all sections",
    **{f"stages/data/synthetic/{name}.py": _DRAWN for name in ("backdrop", "people", "pose", "scene")},
    **{f"stages/{name}.py": _RUN for name in ("distill", "evaluate", "teachers", "targets/stage")},
    "stages/data/image_header.py": "data/test_images.py reads headers and gives sizes that are refused",
    "stages/prepare/embedded.py": "prepare/test_stage.py runs the stage",
    "stages/distributed/lost_nodes.py": "distributed/test_nodes.py and test_run_tasks.py lose nodes",
    "stages/distributed/ray_storage.py": "test_run_bucket.py trains with it",
    "stages/findings.py": "report/test_summary.py lists and logs findings",
    "stages/networks/onnx_child.py": "networks/test_onnx_trial.py starts it",
    "stages/networks/device.py": "training/test_loop.py and networks/test_shipped.py move networks and batches with it",
    "stages/networks/onnx_network.py": "networks/test_load.py loads ONNX files",
    **{f"stages/report/page/{name}.py": "shown by page/test_render.py" for name in ("content", "glossary")},
    "stages/report/names.py": "report/test_scores.py and page/test_render.py show them",
    "stages/report/sources.py": "report/test_stage.py builds a page from them",
    "stages/setting_types.py": "config/test_load.py validates values of these types",
    "stages/training/checkpoints.py": "training/test_resume.py kills trainings and resumes them",
    "stages/training/curve.py": "training/test_loop.py and test_resume.py read the curves of trainings",
    "stages/training/plan.py": "training/test_loop.py trains plans",
    "storage_schemas/formats/parquet.py": "the three tests of tables beside it read and damage files",
    "storage_schemas/paths/bucket.py": "paths/test_path.py and store/test_store_bucket.py",
    "storage_schemas/paths/facts.py": "store/test_manifest.py and test_store_bucket.py compare facts of files",
    "storage_schemas/paths/node_cache.py": "store/test_store_bucket.py and targets/test_fetch.py read through it",
    **{f"storage_schemas/store/{name}.py": "used by every test of the store" for name in ("parts",)},
    "storage_schemas/store/provenance.py": "store/test_store.py reads it in manifests",
    "storage_schemas/store/recipe.py": "store/test_manifest.py computes keys of recipes",
    "storage_schemas/store/transfer.py": "store/test_transfer_export.py and three beside it",
}
"""Sources without a test module of their own, and what tests them."""

WITHOUT_SOURCE = {
    "tests/pipeline/bench/test_bench.py": "the command of bench",
    "tests/pipeline/bench/test_cached.py": "drawn entries, their size and their readers",
    "tests/pipeline/test_command_line.py": "run.py without work: refusals, and the files that a run leaves",
    "tests/pipeline/test_mutated_files.py": "settings and exports, with mutated files",
    "tests/pipeline/test_run_presets.py": "run.py with each preset for COCO",
    "tests/pipeline/test_run_students.py": "run.py with students that are not the demo's",
    "tests/pipeline/test_run_bucket.py": "run.py with a home in a bucket",
    "tests/pipeline/test_three_hosts.py": "runs on a cluster of three hosts, whose links are cut",
    "tests/stages/data/test_annotation_fuzz.py": "coco.py, detections.py and prepare/plausible.py with mutated files",
    "tests/stages/data/test_image_files.py": "images.py: names, links, sizes and storage that fails",
    "tests/stages/data/test_image_fuzz.py": "images.py with mutated files",
    "tests/stages/networks/test_hostile_weights.py": "the loaders of weights, with files that have faults",
    "tests/stages/networks/test_program_outputs.py": "exported.py and load.py: outputs of programs, and their mode",
    "tests/stages/networks/test_published_networks.py": "all networks but HRNet, against the published code",
    "tests/stages/networks/test_shipped.py": "how images reach the device, in training and prediction",
    "tests/stages/targets/test_fetch.py": "repair.py: damaged files copied from another store",
    "tests/stages/training/test_resume.py": "loop.py in processes that are killed",
    "tests/storage_schemas/store/test_faults.py": "the store on a full disk and without permissions",
    **{
        f"tests/storage_schemas/store/test_transfer_{part}.py": "transfer.py"
        for part in ("export", "hostile", "import", "writers")
    },
    "tests/storage_schemas/store/test_gc_writers.py": "gc.py beside writers that live",
    "tests/storage_schemas/store/test_store_bucket.py": "a store in a bucket",
    "tests/storage_schemas/store/test_store_kills.py": "writers that are killed, in processes of their own",
    "tests/storage_schemas/store/test_store_writers.py": "several writers of one entry",
    "tests/storage_schemas/store/test_upstream.py": "a store with an upstream",
    "tests/test_cluster_yaml.py": "ray_cluster.yaml",
    "tests/test_documents.py": "the documents",
    "tests/test_golden_keys.py": "the keys of the demo's plan",
    "tests/test_layout.py": "the layout of all sources",
    "tests/test_student_example.py": "the example in docs/student.md",
}
"""Test modules that mirror no source, and what they test."""


@cache
def _text(path: str) -> str:
    return (ROOT / path).read_text()


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse(_text(path))


def _lines(path: str) -> int:
    return len(_text(path).splitlines())


def _imported(path: str, statements: Iterator[ast.AST]) -> set[str]:
    """The names of the modules that ``statements`` import: ours as files, others by their package."""
    found = set()
    for statement in statements:
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: imports are absolute"
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
        else:
            continue
        for name in names:
            parent = name.rpartition(".")[0]
            found.add(name if name in MODULES else parent if parent in MODULES else name.partition(".")[0])
    return found


def _imports_anywhere(path: str) -> set[str]:
    return _imported(path, ast.walk(_tree(path)))


def _imports_on_loading(path: str) -> set[str]:
    """What the module imports when it is loaded: not in functions, not for type checks."""
    return _imported(path, iter(_tree(path).body)) & MODULES.keys()


def test_modules_import_from_their_own_floor_or_lower_ones() -> None:
    for path in SOURCES:
        higher = FLOORS[FLOORS.index(path.partition("/")[0]) + 1 :]
        assert not [name for name in _imports_anywhere(path) if name.partition(".")[0] in higher], path


def test_no_module_imports_itself_by_way_of_others() -> None:
    left = {name: _imports_on_loading(path) - {name} for name, path in MODULES.items()}
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    assert sorted(left) == [], "these modules import each other in a circle, or need one that does"


def test_paths_know_nothing_of_entries_and_formats() -> None:
    for path in SOURCES:
        if path.startswith("storage_schemas/paths/"):
            assert not [name for name in _imports_anywhere(path) if re.match(r"storage_schemas\.(store|formats)\b", name)], path


def test_ray_is_imported_by_distributed_stages_and_the_cluster_module_only() -> None:
    users = [path for path in SOURCES if "ray" in _imports_anywhere(path)]
    assert [path for path in users if not path.startswith("stages/distributed/") and path != "pipeline/cluster.py"] == []


def test_the_tasks_of_stage_prepare_load_without_torch() -> None:
    """torch takes two seconds in each process, longer than a task that reads 256 images."""
    reached, waiting = set[str](), {"stages.prepare.image_task", "stages.distributed.nodes"}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        if path := MODULES.get(module):
            waiting |= _imported(path, iter(_tree(path).body)) - reached
    assert "stages.settings" in reached
    assert "torch" not in reached


# Sizes


def test_no_file_is_longer_than_350_lines_and_the_median_of_sources_is_at_most_150() -> None:
    assert {path: _lines(path) for path in (*SOURCES, *TESTS) if _lines(path) > 350} == {}
    assert statistics.median(map(_lines, SOURCES)) <= 150
    assert statistics.median(map(_lines, TESTS)) <= 150


def test_no_function_is_longer_than_60_lines_and_nine_of_ten_have_at_most_25() -> None:
    functions = [
        node for path in SOURCES for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    assert max(lines) <= 60
    assert statistics.quantiles(lines, n=10)[-1] <= 25


def test_the_store_and_its_commands_do_not_grow() -> None:
    counted = [path for path in SOURCES if path.startswith(("storage_schemas/", "pipeline/cache/", "pipeline/text.py"))]
    assert sum(map(_lines, counted)) <= 4620


# Words


def _found(pattern: str, paths: list[str]) -> list[str]:
    """Where the pattern matches, as ``path:line``."""
    numbered = [(path, number, line) for path in paths for number, line in enumerate(_text(path).splitlines(), start=1)]
    return [f"{path}:{number}" for path, number, line in numbered if re.search(pattern, line)]


def test_only_the_path_package_asks_whether_a_path_is_in_a_bucket() -> None:
    outside = [path for path in SOURCES if not path.startswith("storage_schemas/paths/")]
    assert _found(r"isinstance\(.*BucketPath", outside) == []


def test_the_lower_floors_know_no_command() -> None:
    below = ("storage_schemas/", "stages/pose/", "stages/networks/", "stages/data/", "stages/training/")
    assert _found("python -m pipeline", [path for path in SOURCES if path.startswith(below)]) == []


# Tests mirror the sources


def _test_of(source: str) -> str:
    folder, _, name = source.rpartition("/")
    return f"tests/{folder}/test_{name.strip('_') if name != '__main__.py' else 'main.py'}"


def test_each_source_has_a_test_module_at_its_path_or_a_reason() -> None:
    lacking = {path for path in SOURCES if not path.endswith("/__init__.py") and _test_of(path) not in TESTS}
    assert sorted(lacking - WITHOUT_TEST.keys()) == [], "add a test module, or a reason to WITHOUT_TEST"
    assert sorted(WITHOUT_TEST.keys() - lacking) == [], "remove these from WITHOUT_TEST"


def test_each_test_module_is_at_the_path_of_its_source_or_has_a_reason() -> None:
    mirrored = {_test_of(path) for path in SOURCES}
    lacking = {path for path in TESTS if "/test_" in path and path not in mirrored}
    assert sorted(lacking - WITHOUT_SOURCE.keys()) == [], "move it, or add a reason to WITHOUT_SOURCE"
    assert sorted(WITHOUT_SOURCE.keys() - lacking) == [], "remove these from WITHOUT_SOURCE"


def test_the_sources_use_plain_words() -> None:
    found = {path: [word for word in UNPLAIN if word in (ROOT / path).read_text().lower()] for path in SOURCES}
    assert {path: words for path, words in found.items() if words} == {}
