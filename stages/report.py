"""Stage report: one self-contained page with all that an experiment found, and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stages.context import Context, Step
from stages.summary import entries_of, summary
from storage_schemas.atomic import write_atomic
from storage_schemas.entry import Draft

__all__ = ["REPORT", "make", "publish", "steps"]

REPORT = "report.html"
_VERSION = 0


def steps(context: Context) -> list[Step]:
    """The page: known by every entry it was made from and by the settings, all of which it shows."""
    sources = entries_of(context)
    recipe = {
        "made_from": {f"{step.stage}: {step.title}": f"{step.key} {context.content(step)[:16]}" for step in sources},
        "settings": context.settings.model_dump(mode="json"),
        "version": _VERSION,
    }
    return [Step("report", "reports", "report", recipe, context.waits(*sources))]


def make(context: Context, missing: Sequence[Step]) -> None:
    """Write the page."""
    for step in missing:
        with context.store.draft(step.kind, step.recipe, tell=context.tell) as draft:
            if isinstance(draft, Draft):
                (draft.folder / REPORT).write_text(_page(context), encoding="utf-8")
                draft.commit([REPORT], measured={})


def publish(context: Context) -> None:
    """Copy the page into the folder of the run, where there is one for these settings."""
    for step in steps(context):
        entry = context.find(step)
        if entry is not None:
            write_atomic(context.run_dir / REPORT, entry.path(REPORT).read_bytes())


def _page(context: Context) -> str:
    found = summary(context)
    scores = {
        **found["teachers"],
        **{arm: found["evaluate"][arm] for arm in ("student", "baseline") if arm in found["evaluate"]},
    }
    rows = "".join(f"<tr><td>{escape(name)}<td>{row['AP']:.3f}" for name, row in scores.items())
    return (
        f"<!doctype html><title>{escape(found['name'])}</title><p>{escape(found['evaluate']['protocol'])}<table>{rows}</table>"
    )
