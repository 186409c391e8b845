"""The plan that ``--dry-run`` prints: for each step hit, miss or stale, and the reason in the names of the settings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.graph import STAGES, is_forced, named
from stages.base import Context, InstancesStep, ScoresStep, StageName, Step, StudentStep, TargetsStep, TeacherStep, is_pending
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.recipe import as_json, differing_fields
from storage_schemas.store.store import Entry

__all__ = ["LEGEND", "Planned", "nearest_fields", "plan", "render_plan"]

Status = Literal["hit", "miss", "stale"]
Field = tuple[str, object, object]
"""A difference of two recipes: a dotted name, the new value, and the value of the existing entry."""

_NEAR = 6
_SHORT = 24
# Fields that follow from others are left out: epochs follow from their number, layers from the network's name.
_FOLLOWS = re.compile(r"(number of )?made_from\b|number of epochs|(.*\.)?architecture\.")
_IN_LIST = re.compile(r"(?P<list>.*)\[\d+( and (?P<more>\d+) more)?\](\.(?P<field>.*))?")
_HASH = re.compile(r"[0-9a-f]{16,64}")
_PART = {"base": "senior.base", "control": "senior"}


@dataclass(frozen=True)
class Planned:
    """What a run would do for one step, and why."""

    step: Step
    status: Status
    why: str = ""


def plan(context: Context, stages: Sequence[StageName], *, force: Sequence[str] | None = None) -> list[Planned]:
    """What a run of ``stages`` would do; ``force`` is as in ``graph.make_stage``."""
    steps = [step for stage in stages for step in STAGES[stage].steps(context)]
    # The entry of another step, such as the student's baseline, is not an earlier version of a missing entry.
    others = {step.entry_id for step in steps if context.find(step) is not None}
    entries = take_inventory(context.store).entries.values() if len(others) < len(steps) else ()
    return [_planned(context, step, entries, others, force=force) for step in steps]


def _planned(
    context: Context, step: Step, entries: Iterable[Entry], others: Collection[str], *, force: Sequence[str] | None
) -> Planned:
    entry = context.find(step)
    if entry is not None:
        if is_forced(step, force):
            return Planned(step, "stale", "would be rebuilt, by --force")
        return Planned(step, "hit", f"in {context.upstream}" if entry.is_borrowed else "")
    fields = [field for field in nearest_fields(step, entries, others) if not is_pending(field[1])]
    changed = [field for field in fields if not _FOLLOWS.match(field[0])] or fields
    # An entry that differs in many fields is something else (another role), not an earlier version.
    if changed and len(changed) <= _NEAR:
        return Planned(step, "stale", f"the existing entry differs in {', '.join(_text_of(step, field) for field in changed)}")
    waiting = named([other.title for other in step.waits_for])
    return Planned(step, "miss", f"waits for {waiting}" if waiting else "not made yet")


def nearest_fields(step: Step, entries: Iterable[Entry], others: Collection[str]) -> list[Field]:
    """The fields in which the recipe differs from that of the entry that differs in the fewest; none if there is no entry.

    An entry must be of the step's kind and equal in the fields ``step.same``; the entry ids ``others`` are skipped.
    """
    recipe = as_json(step.recipe)
    found = [
        entry
        for entry in entries
        if entry.manifest.kind == step.kind
        and entry.entry_id not in others
        and all(entry.manifest.recipe.get(name) == recipe.get(name) for name in step.same)
    ]
    # Among equals take the newest, which the user has worked with last.
    found.sort(key=lambda entry: entry.manifest.made.get("at", ""), reverse=True)
    return min((differing_fields(step.recipe, entry.manifest.recipe) for entry in found), key=len, default=[])


def _text_of(step: Step, field: Field) -> str:
    """Such as ``distill.lr: 0.001 -> 0.002``, from the existing value to the new one; a field that is a hash has no values."""
    name, new, old = field
    text = _setting_name(step, name)
    if found := _IN_LIST.fullmatch(text):
        inner = f"{found['field']} in " if found["field"] else ""
        text = f"{inner}{1 + int(found['more'] or 0)} of the {found['list']}"
    if name.startswith("made_from") or _is_hash(new) or _is_hash(old):
        return text
    return f"{text}: {' -> '.join(_short(old, new))}"


def _setting_name(step: Step, name: str) -> str:
    """The name of the setting that a field of a recipe comes from."""
    if name == "holdout_fraction":
        return "prepare.holdout_fraction"
    for prefix, setting in _setting_names(step).items():
        if name.startswith(prefix):
            return setting + name.removeprefix(prefix)
    return "version of the code" if name == "version" else name


def _setting_names(step: Step) -> dict[str, str]:
    """Settings by the prefix of the recipe's field, where the two differ."""
    match step:
        case InstancesStep():
            return {
                "source.embedded.": "data.embedded.",
                "source.": f"data.{step.split}.",
                "aspect_wh": "crop.size_wh (width over height)",
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
            return {
                "protocol.boxes": "evaluate.boxes",
                "protocol.size_divisor": "distill.size_divisor",
                "protocol.crop_wh": "crop.size_wh",
                "protocol.": "evaluate.",
            }
    if step.stage == "report":
        return {"settings.": "", "made_from": "results", "number of made_from": "number of results"}
    return {}


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _short(*values: object) -> list[str]:
    """Short forms of different values that are still different; a long common prefix is left out."""
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
hit: exists.  miss: does not exist.  stale: exists, but was built with other settings (or --force is given); would be rebuilt.
An entry that waits for others may exist too; its key can be computed only once they exist.
A plan does not read the files of entries; pipeline.cache verify does."""
"""The meaning of the words in a plan."""


def render_plan(planned: Sequence[Planned]) -> str:
    """The plan as lines; steps of one stage with the same status and reason share a line."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in planned:
        groups.setdefault((item.step.stage, item.status, item.why), []).append(item.step.title)
    return "\n".join(
        f"{stage:8}  {status:5}  {titles[0]}{f' and {len(titles) - 1} more' if len(titles) > 1 else ''}{why and f': {why}'}"
        for (stage, status, why), titles in groups.items()
    )
