"""``ls``, ``show`` and ``diff``: print the facts in the manifests of entries."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.cache.lookup import Result, entry_named, names_of, open_store, order_of, users_of
from pipeline.experiments import Run
from pipeline.text import printable, table, tree, values_text
from stages.humanize import age_text, plural, size_text
from storage_schemas.errors import SchemaVersionError
from storage_schemas.paths.facts import as_mappings
from storage_schemas.store.inventory import Inventory, Unreadable, take_inventory
from storage_schemas.store.recipe import differing_fields
from storage_schemas.store.store import Entry

__all__ = ["Row", "diff", "ls", "show"]

log = logging.getLogger("pipeline")

_COLUMNS = ("kind", "key", "size", "people", "view", "who", "AP", "age", "used by")
_RIGHT = ("size", "people", "age")
_NAMED = 3


@dataclass(frozen=True)
class Row:
    """One entry. What its kind does not have, or what cannot be told, is None; ``ap`` is by decoder, or from bits."""

    kind: str
    key: str
    size: int
    num_files: int
    people: int | None
    view: str | None
    who: str | None
    ap: Mapping[str, float]
    decoder: str | None
    """By which the report of an experiment that uses the entry leads."""
    made_at: str | None
    experiments: Sequence[str]


def ls(options: argparse.Namespace) -> Result:
    """List the entries, of a kind or all."""
    home, store = open_store(options)
    inventory = take_inventory(store)
    rows = _rows(inventory, users_of(home), options.kind)
    unreadable = {
        entry_id: error
        for entry_id, error in inventory.unreadable.items()
        if options.kind in (None, entry_id.partition("/")[0])
    }
    others = [entry_id for entry_id, error in unreadable.items() if isinstance(error, SchemaVersionError)]
    if others:
        log.warning("%s of another schema version, such as %s", plural(len(others), "entry"), others[0])
    for entry_id, error in unreadable.items():
        if entry_id not in others:
            log.warning("%s", error.seen)
    data = {
        "entries": [vars(row) for row in rows],
        "unreadable": {entry_id: error.seen for entry_id, error in unreadable.items()},
    }
    return Result(data, f"{_listed(rows, unreadable, now=datetime.now(UTC))} in {store.root}")


def show(options: argparse.Namespace) -> Result:
    """Show one entry."""
    home, store = open_store(options)
    entry = entry_named(home, store, options.key)
    known = _facts(entry, take_inventory(store), users_of(home).get(entry.entry_id, ()))
    return Result(known, _described(known))


def diff(options: argparse.Namespace) -> Result:
    """Show the fields in which the recipes of two entries differ."""
    home, store = open_store(options)
    first, second = (entry_named(home, store, key) for key in options.keys)
    alike = first.manifest.kind == second.manifest.kind
    fields = differing_fields(first.manifest.recipe, second.manifest.recipe) if alike else []
    rows = [(name, *values_text(*values)) for name, *values in fields]
    if first.entry_id == second.entry_id:
        text = f"{first.entry_id} is one entry"
    elif not alike:
        text = (
            f"{first.entry_id} and {second.entry_id} are of different kinds, whose recipes have nothing to do with each other"
        )
    else:
        text = table(("field", first.key, second.key), rows)
    data = {"first": first.entry_id, "second": second.entry_id, "fields": {name: list(values) for name, *values in fields}}
    return Result(data, text)


def _rows(inventory: Inventory, users: Mapping[str, Sequence[Run]], kind: str | None = None) -> list[Row]:
    """A row an entry: kinds in the order of the stages, and within a kind the newest last."""
    entries = [entry for entry in inventory.entries.values() if kind in (None, entry.manifest.kind)]
    rows = [_row(entry, inventory, users.get(entry.entry_id, ())) for entry in entries]
    return sorted(rows, key=lambda row: (order_of(row.kind), row.kind, row.made_at or "", row.view or "", row.key))


def _row(entry: Entry, inventory: Inventory, users: Sequence[Run]) -> Row:
    manifest = entry.manifest
    known = {name: _told(read, entry, inventory) for name, read in _FACTS.items()}
    return Row(
        kind=manifest.kind,
        key=manifest.key,
        size=manifest.size,
        num_files=len(manifest.files),
        people=known["people"],
        view=known["view"],
        who=known["who"],
        ap=known["ap"] or {},
        decoder=next((run.decoder for run in users if run.decoder), None),
        made_at=known["made_at"],
        experiments=names_of(users),
    )


def _told(read: Callable[[Entry, Inventory], Any], entry: Entry, inventory: Inventory) -> Any:  # noqa: ANN401 (as the fact is)
    try:
        return read(entry, inventory)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        # An entry of another release, or of a kind made elsewhere, may lack a field: a blank cell, and not no table.
        return None


def _people(entry: Entry, _: Inventory) -> int | None:
    """People of a table or of scores, and rows of arrays, which are people too."""
    found = next((entry.measured[name] for name in ("instances", "rows") if name in entry.measured), None)
    return None if found is None else int(found)


def _view(entry: Entry, inventory: Inventory) -> str | None:
    """Which people, and which crops of them: ``train``, ``val``, ``holdout``, ``train 3``."""
    recipe = entry.manifest.recipe
    if entry.manifest.kind == "targets":
        (crops,) = inventory.named_by(recipe["view"])
        return _view(crops, inventory)
    if entry.manifest.kind == "views":
        splits = {str(people.manifest.recipe["split"]) for people in inventory.named_by(recipe["instances"])}
        return " ".join([*splits, str(recipe["view"])]) if len(splits) < 2 else str(recipe["view"])
    found = recipe.get("split", recipe.get("subset"))
    return None if found is None else str(found)


def _who(entry: Entry, inventory: Inventory) -> str | None:
    """Which network it is, or whose output: primary, senior, control (trained without a mask), student or baseline."""
    recipe, kind = entry.manifest.recipe, entry.manifest.kind
    if kind == "teachers":
        return "primary" if "base" not in recipe else "senior" if recipe["mask"] else "control"
    if kind == "targets":
        return "senior" if recipe["mask"] else "primary"
    if kind == "students":
        taught = any(epoch["weights"][role] > 0 for epoch in recipe["epochs"] for role in ("primary", "senior"))
        return "student" if taught else "baseline"
    if kind == "evaluations":
        who = _who(inventory.named_by(recipe["network"])[0], inventory)
        return f"{who}, no mask" if recipe["mask"] == "withheld" else who
    return None


def _ap(entry: Entry, _: Inventory) -> dict[str, float]:
    """AP by decoder of a network, and from bits and float maps of the validation set's targets."""
    measured = entry.measured
    if entry.manifest.kind == "targets":
        return {name.removeprefix("AP_"): float(value) for name, value in measured.items() if name.startswith("AP_")}
    if entry.manifest.kind == "teachers":
        return {name: float(value) for name, value in measured["AP"].items()}
    return {name: float(scores["AP"]) for name, scores in measured.items() if isinstance(scores, Mapping) and "AP" in scores}


def _made_at(entry: Entry, _: Inventory) -> str:
    return datetime.fromisoformat(entry.manifest.made["at"]).astimezone(UTC).isoformat()


_FACTS: dict[str, Callable[[Entry, Inventory], Any]] = {
    "people": _people,
    "view": _view,
    "who": _who,
    "ap": _ap,
    "made_at": _made_at,
}


def _listed(rows: Sequence[Row], unreadable: Mapping[str, Unreadable], *, now: datetime) -> str:
    """The rows as a table, those that cannot be read at its end, and what they come to."""
    damaged = [(*entry_id.split("/"), *[""] * (len(_COLUMNS) - 3), "cannot be read") for entry_id in unreadable]
    cells = [*(_cells(row, now) for row in rows), *damaged]
    total = f"{plural(len(rows), 'entry')}, {size_text(sum(row.size for row in rows))}"
    return "\n\n".join([*([table(_COLUMNS, cells, right=_RIGHT)] if cells else []), total])


def _cells(row: Row, now: datetime) -> tuple[str, ...]:
    age = "" if row.made_at is None else age_text((now - datetime.fromisoformat(row.made_at)).total_seconds())
    people = "" if row.people is None else f"{row.people:,}"
    return (
        row.kind,
        row.key,
        size_text(row.size),
        people,
        row.view or "",
        row.who or "",
        _ap_text(row.ap, row.decoder),
        age,
        _named(row),
    )


def _ap_text(ap: Mapping[str, float], decoder: str | None) -> str:
    """One figure, with what it is by: of several decoders the report's, and HRNet's own where there is no report."""
    name = next((name for name in (decoder, "quarter", "from_bits") if name in ap), None)
    return "" if name is None else f"{ap[name]:.3f} {name.replace('_', ' ')}"


def _named(row: Row) -> str:
    more = len(row.experiments) - _NAMED
    return ", ".join(row.experiments[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _facts(entry: Entry, inventory: Inventory, users: Sequence[Run]) -> dict[str, Any]:
    """All that is known of one entry, as JSON."""
    manifest = entry.manifest
    return {
        **vars(_row(entry, inventory, users)),
        "folder": str(entry.folder),
        "payload": manifest.payload,
        "made_from": inventory.made_from(entry),
        "recipe": manifest.recipe,
        "measured": manifest.measured,
        "made": manifest.made,
        "files": as_mappings(manifest.files),
    }


def _described(known: Mapping[str, Any]) -> str:
    """What ``facts`` knows, to be read: the entry in a few lines, what it was made from, then the manifest."""
    about = ", ".join(known[name] for name in ("who", "view") if known[name])
    head = {
        "size": f"{size_text(known['size'])} in {plural(known['num_files'], 'file')}",
        "folder": known["folder"],
        "payload": known["payload"],
        "used by": ", ".join(known["experiments"]) or "no experiment",
    }
    parts = [f"{known['kind']}/{known['key']}" + (f"  ({printable(about)})" if about else ""), tree(head)]
    for title in ("made_from", "recipe", "measured", "made"):
        if known[title]:
            parts += [title.replace("_", " "), tree(known[title])]
    return "\n".join(parts)
