"""What an entry is known by: the recipe that makes its key, and the manifest that makes it exist."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

from storage_schemas.errors import CorruptEntryError, Remedy, SchemaVersionError
from storage_schemas.paths.facts import FileFacts, as_mappings

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "Manifest",
    "Recipe",
    "as_json",
    "canonical_json",
    "differing_fields",
    "is_key",
    "is_plain_name",
    "key_of",
]

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
"""The file's name."""

_KEY = re.compile("[0-9a-f]{16}")

Recipe = Mapping[str, Any]
"""All that an entry's content depends on, as JSON; nothing else (no names, paths, machines or worker counts)."""


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as it comes back from JSON, so that an entry just made equals one that was found."""
    plain: dict[str, Any] = json.loads(canonical_json(value))
    return plain


def key_of(kind: str, recipe: Recipe) -> str:
    """The key of an entry: 16 hexadecimal digits of the sha256 of its kind, schema version and recipe."""
    return hashlib.sha256(canonical_json({"kind": kind, "schema": SCHEMA_VERSION, "recipe": recipe})).hexdigest()[:16]


def is_key(text: str) -> bool:
    """Whether a text could be the key of an entry."""
    return _KEY.fullmatch(text) is not None


def differing_fields(ours: Recipe, theirs: Recipe, prefix: str = "") -> list[tuple[str, object, object]]:
    """The leaves in which two recipes differ, as (dotted name, ours, theirs); a missing one is None.

    In a list of mappings, or of more values than a line holds, the first element that differs in a field stands for all that
    do, and its name says how many more there are.
    """
    found: list[tuple[str, object, object]] = []
    for name in sorted({*ours, *theirs}):
        mine, other = ours.get(name), theirs.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += differing_fields(mine, other, f"{prefix}{name}.")
        # As the key sees them: a list read back is the tuple that was written, and 1 is not 1.0.
        elif (name in ours) != (name in theirs) or canonical_json(mine) != canonical_json(other):
            found += _differing(f"{prefix}{name}", mine, other)
    return found


_SHOWN_WHOLE = 4
"""A list of this many plain values is shorter than what could be said about it."""


def _differing(name: str, mine: object, other: object) -> list[tuple[str, object, object]]:
    """The fields of two values that are not both mappings and differ."""
    if not isinstance(mine, list | tuple) or not isinstance(other, list | tuple) or (_is_short(mine) and _is_short(other)):
        return [(name, mine, other)]
    if len(mine) != len(other):
        return [(f"number of {name}", len(mine), len(other))]
    # By field, since another element may differ in another.
    found: dict[str, list[tuple[int, object, object]]] = {}
    for row, (ours, theirs) in enumerate(zip(mine, other, strict=True)):
        for field, here, there in differing_fields({"": ours}, {"": theirs}):
            found.setdefault(field, []).append((row, here, there))
    return [
        (f"{name}[{rows[0][0]}{f' and {len(rows) - 1} more' if len(rows) > 1 else ''}]{field}", *rows[0][1:])
        for field, rows in found.items()
    ]


def _is_short(values: Sequence[object]) -> bool:
    return len(values) <= _SHOWN_WHOLE and not any(isinstance(value, Mapping | list | tuple) for value in values)


@dataclass(frozen=True)
class Manifest:
    """The description that is written last: an entry without a valid one does not exist.

    ``folder`` is the name of the attempt whose files count; ``measured`` what was found out while making it; ``made`` who,
    when, where and with which versions. The payload's hash covers the files alone.
    """

    kind: str
    key: str
    recipe: dict[str, Any]
    folder: str
    files: dict[str, FileFacts]
    measured: dict[str, Any]
    made: dict[str, Any]

    @property
    def entry_id(self) -> str:
        """``kind/key``: where below the store the entry lies."""
        return f"{self.kind}/{self.key}"

    @property
    def payload(self) -> str:
        """The sha256 over every file's name, size and sha256: equal for equal content, whoever made it, when and where."""
        return hashlib.sha256(canonical_json(as_mappings(self.files))).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(facts.size for facts in self.files.values())

    def encode(self) -> bytes:
        """The manifest as readable JSON that ends with the sha256 of all that stands before it."""
        body = {"schema": SCHEMA_VERSION, **vars(self), "files": as_mappings(self.files), "payload": self.payload}
        text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False).removesuffix("\n}").encode()
        return text + _SEAL + hashlib.sha256(text).hexdigest().encode() + _END

    @classmethod
    def decode(cls, data: bytes, *, where: str) -> Manifest:
        """Read a manifest back.

        Raises:
            CorruptEntryError: not JSON, a wrong hash, a key that does not follow from the recipe, or names outside the entry.
            SchemaVersionError: written by another schema version.
        """
        text, seal, stated = data.rpartition(_SEAL)
        if not (seal and stated.endswith(_END)):
            raise CorruptEntryError(f"{where} is not a manifest (it has no end): the entry counts as not there")
        # The hash first: a damaged schema version must not send the user to look for another release.
        if not text.endswith(_VERSION_1) and hashlib.sha256(text).hexdigest().encode() != stated.removesuffix(_END):
            raise CorruptEntryError(f"{where} does not match its own sha256: the entry counts as not there")
        try:
            body = json.loads(data, parse_constant=_no_number)
            del body["sha256"], body["payload"]
            schema = body.pop("schema")
            if type(schema) is not int or schema != SCHEMA_VERSION:
                raise SchemaVersionError(
                    f"{where} has schema version {schema!r}",
                    allowed=f"version {SCHEMA_VERSION}, which this release writes",
                    remedy=Remedy("advice", text="use the release that wrote it, or another home"),
                )
            body["files"] = _read_facts(body["files"])
            manifest = cls(**body)
            manifest._check_types()
            key = key_of(manifest.kind, manifest.recipe)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptEntryError(f"{where} is not a manifest ({error}): the entry counts as not there") from error
        if key != manifest.key:
            raise CorruptEntryError(f"{where} has key {manifest.key}, which does not follow from its recipe")
        # An entry may come from elsewhere, and what its manifest names is read, and removed with it.
        if not is_plain_name("/".join((manifest.folder, *manifest.files))) or "/" in manifest.folder:
            raise CorruptEntryError(f"{where} names files outside its folder: the entry counts as not there")
        return manifest

    def _check_types(self) -> None:
        # By column, since a list of entries looks at all of their files: the loops are Python's own.
        sizes, hashes = [facts.size for facts in self.files.values()], [facts.sha256 for facts in self.files.values()]
        if not {*map(type, (self.kind, self.key, self.folder, *hashes))} <= {str}:
            raise TypeError("a name or a hash that is not text")
        if not all(isinstance(value, dict) for value in (self.recipe, self.measured, self.made)):
            raise TypeError("a recipe, or what was measured or who made it, that is not a mapping")
        if not {*map(type, sizes)} <= {int} or not 0 <= min(sizes, default=0) <= max(sizes, default=0) < 1 << 63:
            raise TypeError("a size that is not a number of bytes")
        # A number like 1e999 is read as one that has no spelling.
        canonical_json([self.measured, self.made])


_facts_in = itemgetter(*FileFacts._fields)


def _read_facts(files: dict[str, dict[str, Any]]) -> dict[str, FileFacts]:
    # By column too.
    if {*map(len, files.values())} - {len(FileFacts._fields)}:
        raise TypeError("facts of a file that are more than its size and hash")
    # As FileFacts._make does, without its call for every file.
    return dict(zip(files, map(partial(tuple.__new__, FileFacts), map(_facts_in, files.values())), strict=True))


_VERSION_1 = b'\n "schema": 1'
"""Where the text ends, of a manifest whose hash was made in another way."""

_SEAL, _END = b',\n "sha256": "', b'"\n}\n'
"""How a manifest goes on behind what its hash is of, and how it ends."""


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def is_plain_name(name: str) -> bool:
    """True if a name, in its one plain spelling, leads to something below the folder that it is joined to."""
    return {"", ".", ".."}.isdisjoint(name.split("/")) and "\0" not in name
