"""Stage report: one self-contained page with the results of an experiment and the entries it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import yaml

from stages.base import Context, Step, pending
from stages.evaluate import chosen_decoder, protocol
from stages.prepare.stage import skeleton_of
from stages.report import instances, scores, sources
from stages.report.page.content import Page
from stages.report.summary import entries_of, findings
from storage_schemas.store.store import Draft

__all__ = ["REPORT", "make", "publish", "steps"]

REPORT = "report.html"
_VERSION = 4


def steps(context: Context) -> list[Step]:
    """The page. Its key depends on every entry it is made from, and on all settings, which it shows."""
    made_from = entries_of(context)
    recipe = {
        "made_from": [_source(context, step) for step in made_from],
        "settings": context.settings.model_dump(mode="json"),
        "version": _VERSION,
    }
    return [Step("report", "reports", "report", recipe, context.waits(*made_from))]


def _source(context: Context, step: Step) -> dict[str, str]:
    entry = context.find(step)
    if entry is None:
        return {"entry": pending(step.key), "fingerprint": pending(step.key)}
    return {"entry": entry.entry_id, "fingerprint": entry.content[:16]}


def make(context: Context, missing: Sequence[Step]) -> None:
    """Write the page."""
    # Import matplotlib only to draw: it takes longer than to compute a whole plan.
    from stages.report.page.render import render

    for step in missing:
        with context.store.draft(step.kind, step.recipe) as draft:
            if isinstance(draft, Draft):
                (draft.work / REPORT).write_text(render(_page(context)), encoding="utf-8")
                draft.commit([REPORT], measured={})


def publish(context: Context) -> None:
    """Copy the page of these settings into the folder of the run, or remove an older page if there is none yet.

    An older page would contradict the newer metrics beside it. Its entry stays in the store.
    """
    shown = context.run_dir / REPORT
    for step in steps(context):
        entry = context.find(step)
        if entry is not None:
            shown.write_atomic(entry.path(REPORT).read_bytes())
        elif shown.exists():
            shown.unlink()
            context.notify(
                f"report: removed {shown}, which was made from other settings or entries; --stage report writes a new one"
            )


def _page(context: Context) -> Page:
    compared = scores.compared(context)
    choice = chosen_decoder(context)
    overlays, worst = instances.shown_instances(context, compared, choice.decoder)
    return Page(
        name=context.settings.name,
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        warnings=findings(context),
        protocol=protocol(context),
        decoder_reason=choice.reason,
        machine=scores.machine(context),
        rows=scores.table(context, compared, choice.decoder),
        decoders=scores.by_decoder(compared),
        targets=scores.targets(context),
        differences=scores.differences(context, compared, choice.decoder),
        phases=sources.phases(context),
        curves=sources.student_curves(context),
        teacher_curves=sources.teacher_curves(context),
        skeleton=skeleton_of(context, "val"),
        overlays=overlays,
        worst=worst,
        joints=scores.joints(compared, choice.decoder),
        joint_series=scores.joint_series(compared),
        cache=sources.cache(context),
        views_bytes=sources.views_bytes(context),
        splits=sources.splits(context),
        entries=sources.entries(context),
        settings_yaml=yaml.safe_dump(context.settings.model_dump(mode="json"), sort_keys=False),
        versions=sources.versions(context),
        command=f"{context.command} --stage report --force",
        seconds=context.seconds,
    )
