"""``ls``, ``show`` and ``diff``: print the facts in the manifests of entries."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.cache.entries import Result, Users, entry_at, open_store, order_of
from pipeline.text import printable, table, tree, values_text
from stages.humanize import age_text, plural, size_text
from storage_schemas.errors import SchemaVersionError
from storage_schemas.paths.facts import as_mappings
from storage_schemas.store.inventory import Inventory, find_entry_id, take_inventory
from storage_schemas.store.recipe import differing_fields
from storage_schemas.store.store import Entry

__all__ = ["diff", "ls", "show"]

log = logging.getLogger("pipeline")

_COLUMNS = ("kind", "key", "size", "instances", "view", "network", "AP", "age", "used by")
_RIGHT = ("size", "instances", "age")
_NAMED = 3


def ls(options: argparse.Namespace) -> Result:
    """List the entries, of a kind or all: kinds in the order of the stages, and within a kind the newest last."""
    home, store = open_store(options)
    inventory, users = take_inventory(store), Users.of(home)
    wanted = [entry for entry in inventory.entries.values() if options.kind in (None, entry.manifest.kind)]
    rows = [_row(entry, inventory, users) for entry in wanted]
    rows.sort(key=lambda row: (order_of(row["kind"]), row["made_at"] or "", row["view"] or "", row["key"]))
    cells, unreadable = [_cells(row) for row in rows], {}
    for entry_id, error in inventory.unreadable.items():
        kind, _, key = entry_id.partition("/")
        if options.kind in (None, kind):
            is_other = isinstance(error, SchemaVersionError)
            if not is_other:
                log.warning("%s", error.seen)
            problem = "other schema version" if is_other else "cannot be read"
            cells.append([kind, key, *[""] * (len(_COLUMNS) - 3), problem])
            unreadable[entry_id] = error.seen
    total = f"{plural(len(rows), 'entry')}, {size_text(sum(row['size'] for row in rows))} in {store.root}"
    text = "\n\n".join([*([table(_COLUMNS, cells, right=_RIGHT)] if cells else []), total])
    return Result({"entries": rows, "unreadable": unreadable}, text)


def show(options: argparse.Namespace) -> Result:
    """Show one entry: a few lines about it, then its inputs and its manifest."""
    home, store = open_store(options)
    entry = entry_at(store, find_entry_id(store, options.keys[0]))
    manifest, inventory = entry.manifest, take_inventory(store)
    known = {
        **_row(entry, inventory, Users.of(home)),
        "folder": str(entry.folder),
        "payload": manifest.payload,
        "made_from": inventory.made_from(entry),
        "recipe": manifest.recipe,
        "measured": manifest.measured,
        "made": manifest.made,
        "files": as_mappings(manifest.files),
    }
    about = ", ".join(known[name] for name in ("network", "view") if known[name])
    head = {
        "size": f"{size_text(manifest.size)} in {plural(len(manifest.files), 'file')}",
        "folder": known["folder"],
        "payload": manifest.payload,
        "used by": ", ".join(known["experiments"]) or "no experiment",
    }
    parts = [entry.entry_id + (f"  ({printable(about)})" if about else ""), tree(head)]
    for title in ("made_from", "recipe", "measured", "made"):
        if known[title]:
            parts += [title.replace("_", " "), tree(known[title])]
    return Result(known, "\n".join(parts))


def diff(options: argparse.Namespace) -> Result:
    """Show the fields in which the recipes of two entries differ."""
    _, store = open_store(options)
    first, second = (entry_at(store, find_entry_id(store, key)) for key in options.keys)
    fields = []
    if first.entry_id == second.entry_id:
        text = f"{first.entry_id} is one entry"
    elif first.manifest.kind != second.manifest.kind:
        text = f"{first.entry_id} and {second.entry_id} are of different kinds, whose recipes cannot be compared"
    else:
        fields = differing_fields(first.manifest.recipe, second.manifest.recipe)
        text = table(("field", first.key, second.key), [(name, *values_text(*values)) for name, *values in fields])
    data = {"first": first.entry_id, "second": second.entry_id, "fields": {name: list(values) for name, *values in fields}}
    return Result(data, text)


def _row(entry: Entry, inventory: Inventory, users: Users) -> dict[str, Any]:
    """The facts of one entry that ``ls`` prints; None for a fact that it does not have."""
    manifest, runs = entry.manifest, users.runs.get(entry.entry_id, ())
    row: dict[str, Any] = {"kind": manifest.kind, "key": manifest.key, "size": manifest.size, "num_files": len(manifest.files)}
    for name, read in _FACTS.items():
        try:
            row[name] = read(entry, inventory)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            # Its kind has no such fact, or it is of another release: a blank cell is better than no table.
            row[name] = None
    # The decoder by which the report of an experiment that uses the entry leads.
    decoder = next((run.decoder for run in runs if run.decoder), None)
    return {**row, "decoder": decoder, "experiments": users.names(entry.entry_id)}


def _view(entry: Entry, inventory: Inventory) -> str:
    """The split, and the number of the view: ``train``, ``val``, ``holdout``, ``train 3``."""
    recipe = entry.manifest.recipe
    if entry.manifest.kind == "targets":
        (crops,) = inventory.named_by(recipe["view"])
        return _view(crops, inventory)
    if entry.manifest.kind == "views":
        splits = {str(table.manifest.recipe["split"]) for table in inventory.named_by(recipe["instances"])}
        return " ".join([*sorted(splits), str(recipe["view"])])
    return str(recipe["split" if "split" in recipe else "subset"])


def _network(entry: Entry, inventory: Inventory) -> str | None:
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
        network = _network(inventory.named_by(recipe["network"])[0], inventory)
        return f"{network}, no mask" if recipe["mask"] == "withheld" else network
    return None


def _ap(entry: Entry, _: Inventory) -> dict[str, float]:
    """AP by decoder of a network, and from bits and float maps of the validation set's targets."""
    measured = entry.measured
    if entry.manifest.kind == "targets":
        return {name.removeprefix("AP_"): float(value) for name, value in measured.items() if name.startswith("AP_")}
    return {name: float(scores["AP"]) for name, scores in measured.items() if isinstance(scores, Mapping) and "AP" in scores}


_FACTS: dict[str, Callable[[Entry, Inventory], Any]] = {
    # Instances of a table or of scores, or rows of arrays, one an instance.
    "instances": lambda entry, _: int(entry.measured["instances" if "instances" in entry.measured else "rows"]),
    "view": _view,
    "network": _network,
    "ap": _ap,
    "made_at": lambda entry, _: datetime.fromisoformat(entry.manifest.made["at"]).astimezone(UTC).isoformat(),
}


def _cells(row: Mapping[str, Any]) -> list[str]:
    names, more = row["experiments"][:_NAMED], len(row["experiments"]) - _NAMED
    # One AP with its decoder: the report's, or without a report HRNet's own.
    decoder = next((name for name in (row["decoder"], "quarter", "from_bits") if name in (row["ap"] or ())), None)
    shown = {
        **row,
        "size": size_text(row["size"]),
        "instances": "" if row["instances"] is None else f"{row['instances']:,}",
        "AP": decoder and f"{row['ap'][decoder]:.3f} {decoder.replace('_', ' ')}",
        "age": row["made_at"] and age_text(time.time() - datetime.fromisoformat(row["made_at"]).timestamp()),
        "used by": ", ".join(names) + (f" and {more} more" if more > 0 else ""),
    }
    return [shown[name] or "" for name in _COLUMNS]
