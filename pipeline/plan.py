"""What a run would make, and why, in the words of the user: the plan that ``--dry-run`` prints."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.graph import STAGES, is_forced, named
from stages.base import Context, InstancesStep, ScoresStep, StageName, Step, StudentStep, TargetsStep, TeacherStep, is_pending

__all__ = ["LEGEND", "Planned", "plan", "render_plan"]

Status = Literal["hit", "miss", "stale"]
Field = tuple[str, object, object]
"""What two recipes differ in: a dotted name, the value here, and the value there."""

_NEAR = 6
_SHORT = 24
# What follows from another field says nothing beside it: epochs from their number, layers from the network's name.
_FOLLOWS = re.compile(r"(number of )?made_from\b|number of epochs|(.*\.)?architecture\.")
_IN_LIST = re.compile(r"(?P<list>.*)\[\d+( and (?P<more>\d+) more)?\](\.(?P<field>.*))?")
_HASH = re.compile(r"[0-9a-f]{16,64}")
_PART = {"base": "senior.base", "control": "senior"}


@dataclass(frozen=True)
class Planned:
    """What a run would do about one step, and why."""

    step: Step
    status: Status
    why: str = ""


def plan(context: Context, stages: Sequence[StageName], *, force: Sequence[str] | None = None) -> list[Planned]:
    """What running ``stages`` would do, without doing it; ``force`` is as for ``graph.make_stage``."""
    steps = [step for stage in stages for step in STAGES[stage].steps(context)]
    # What is there for another step, such as the student's baseline, is no earlier version of what is missing.
    there = {step.entry_id for step in steps if context.find(step) is not None}
    return [_planned(context, step, there, force=force) for step in steps]


def _planned(context: Context, step: Step, there: Collection[str], *, force: Sequence[str] | None) -> Planned:
    entry = context.find(step)
    if entry is not None:
        if is_forced(step, force):
            return Planned(step, "stale", "made again, by --force")
        return Planned(step, "hit", f"in {context.upstream}" if entry.is_borrowed else "")
    nearest = context.store.nearest(step.kind, step.recipe, same=step.same, others=there)
    fields = [] if nearest is None else [field for field in nearest[1] if not _is_pending(field[1])]
    changed = [field for field in fields if not _FOLLOWS.match(field[0])] or fields
    # What differs in many fields is another thing altogether (another role), and no earlier version of this one.
    if changed and len(changed) <= _NEAR:
        return Planned(step, "stale", f"differs from what is there in {', '.join(_told(step, field) for field in changed)}")
    waiting = named([other.title for other in step.waits_for])
    return Planned(step, "miss", f"waits for {waiting}" if waiting else "not made yet")


def _is_pending(value: object) -> bool:
    # A report names its sources by kind, key and content.
    return is_pending(value.split(" ", 2)[-1] if isinstance(value, str) and value.count(" ") == 3 else value)


def _told(step: Step, field: Field) -> str:
    """Such as ``distill.lr: 0.001 -> 0.002``, from there to here; what is known by a hash is only named."""
    name, here, there = field
    told = _given_as(step, name)
    if found := _IN_LIST.fullmatch(told):
        inner = f"{found['field']} in " if found["field"] else ""
        told = f"{inner}{1 + int(found['more'] or 0)} of the {found['list']}"
    if name.startswith("made_from") or _is_hash(here) or _is_hash(there):
        return told
    return f"{told}: {' -> '.join(_short(there, here))}"


def _given_as(step: Step, name: str) -> str:
    """The field of a recipe by the name that the user gives it."""
    for beginning, given in _setting_names(step).items():
        if name.startswith(beginning):
            return given + name.removeprefix(beginning)
    return "version of the code" if name == "version" else name


def _setting_names(step: Step) -> dict[str, str]:
    """The name that the user knows a recipe's field by, by the beginning of the field's name."""
    match step:
        case InstancesStep():
            return {
                "source.embedded.": "data.embedded.",
                "source.": f"data.{step.split}.",
                "aspect_wh": "crop.size_wh (width over height)",
                "holdout_fraction": "prepare.holdout_fraction",
            }
        case TeacherStep():
            part = _PART.get(step.part, step.part)
            return {
                "mask.adapter_lr": "teachers.senior.adapter_lr",
                "mask.drop": "teachers.senior.mask_drop",
                "train.": f"teachers.{part}.train.",
                "network": f"teachers.{part}.network",
                "weights": f"teachers.{part}.weights",
                "size_wh": "crop.size_wh",
            }
        case TargetsStep():
            return {"teacher": f"{step.role} teacher", "precision": "targets.precision", "view": "crops"}
        case StudentStep():
            return {"distill.network": "distill.student.network"}
        case ScoresStep():
            return {"boxes": "evaluate.boxes", "crop.divisor": "distill.size_divisor"}
    if step.stage == "report":
        return {"settings.": "", "made_from": "results", "number of made_from": "number of results"}
    return {}


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _short(*values: object) -> list[str]:
    """Values that differ, in few letters and so that they still do: where all begin alike the beginning is left out."""
    texts = [f"{value:g}" if isinstance(value, float) else str("nothing" if value is None else value) for value in values]
    if len(set(texts)) < len(texts):
        texts = [str(value) for value in values]
    if all(len(text) <= _SHORT for text in texts):
        return texts
    columns = zip(*texts, strict=False)
    alike = next((at for at, letters in enumerate(columns) if len(set(letters)) > 1), min(map(len, texts)))
    start = 0 if alike < _SHORT // 2 else alike
    return [_cut(text, start) for text in texts]


def _cut(text: str, start: int) -> str:
    rest = text[start:]
    return ("..." if start else "") + (rest if len(rest) <= _SHORT else f"{rest[: _SHORT // 2]}...")


LEGEND = """\
hit: it is there.  miss: it is not.  stale: it is there, but made otherwise or to be forced, and would be made anew.
What waits for others may be there all the same, which is known once those are.
Files are not read here: pipeline.cache verify reads them."""
"""What the words of a plan mean."""


def render_plan(planned: Sequence[Planned]) -> str:
    """The plan as lines; steps of one stage with the same status for the same reason are one line."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in planned:
        groups.setdefault((item.step.stage, item.status, item.why), []).append(item.step.title)
    return "\n".join(
        f"{stage:8}  {status:5}  {titles[0]}{f' and {len(titles) - 1} more' if len(titles) > 1 else ''}{why and f': {why}'}"
        for (stage, status, why), titles in groups.items()
    )
