"""The benchmark of the cache, part by part; the figures are saved after each part."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.bench.about import about_run
from pipeline.bench.crops import Photographs, measure_crops
from pipeline.bench.device import this_device, this_machine
from pipeline.bench.entries import Data
from pipeline.bench.filling import measure_filling
from pipeline.bench.output import FIGURES, save_figures, table
from pipeline.bench.plot import PLOT, save_plot
from pipeline.bench.reading import measure_reading
from pipeline.bench.results import Part
from pipeline.bench.scale import FULL, FULL_ON_GPU, QUICK, PartName
from pipeline.bench.sizes import TargetEntries, measure_sizes
from pipeline.bench.steps import measure_steps
from pipeline.bench.store import measure_store
from storage_schemas.paths.local import LocalPath

__all__ = ["run_cache_bench"]


def run_cache_bench(
    names: Sequence[PartName],
    *,
    quick: bool,
    entries: TargetEntries | None,
    photographs: Photographs | None,
    out: Path,
    arguments: Sequence[str],
) -> None:
    """Measure the parts, print their tables, and leave figures and a plot in ``out``.

    Part sizes measures ``entries`` and part crops reads ``photographs``; None means drawn data. All other files are in a
    temporary folder. The ``arguments`` of the command are saved with the figures.
    """
    scale = QUICK if quick else FULL_ON_GPU if this_device() == "cuda" else FULL
    machine = this_machine(threads=scale.threads)
    about = {**about_run(arguments, scale, machine), "quick": quick}
    processor = about["machine"]["gpu"] or about["machine"]["processor"]
    title = f"{'A smoke run, which measures nothing: ' if quick else ''}{processor}, {machine}"
    sys.stdout.write(f"{title}\n")
    found: list[Part] = []
    with tempfile.TemporaryDirectory(prefix="odkd-bench-") as folder:
        data = Data(LocalPath(folder), scale)
        measures: Mapping[PartName, Callable[[], Sequence[Part]]] = {
            "sizes": lambda: [measure_sizes(entries or _drawn(data), asked=entries is not None)],
            "reading": lambda: [measure_reading(data)],
            "steps": lambda: measure_steps(data, machine),
            "filling": lambda: [measure_filling(data, machine)],
            "crops": lambda: [measure_crops(photographs or _drawn_photographs(data), scale, data.folder / "crops")],
            "store": lambda: [measure_store(data)],
        }
        for name in names:
            for part in measures[name]():
                found.append(part)
                sys.stdout.write(f"\n{table(part)}\n\n")
            save_figures(out, found, about)
            save_plot(out / PLOT, found, title=title)
    sys.stdout.write(f"{out / FIGURES}\n{out / PLOT}\n")


def _drawn_photographs(data: Data) -> Photographs:
    return Photographs(data.dataset.records, data.dataset.root)


def _drawn(data: Data) -> TargetEntries:
    source = "drawn heatmaps: peaks with noise, a quarter of them weak; their size has no requirement, since it is drawn too"
    return TargetEntries([data.cached.targets["primary"]], [data.cached.view], source)
