"""The manifest of an entry: written last, and with its own sha256, so that an entry without a valid one does not exist."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage_schemas.errors import CorruptEntryError, Remedy, SchemaVersionError
from storage_schemas.paths.facts import FileFacts, as_mappings
from storage_schemas.store.recipe import SCHEMA_VERSION, canonical_json, key_of

__all__ = ["MANIFEST", "Manifest", "is_plain_name", "payload_of"]

MANIFEST = "manifest.json"
"""The name of the file."""
_SEAL, _END = b',\n "sha256": "', b'"\n}\n'
"""What stands between the hashed text and its sha256, and after it."""


@dataclass(frozen=True)
class Manifest:
    """The description of an entry.

    ``folder`` is the name of the writer's folder that holds the files; ``measured`` what the stage measured; ``made`` who made
    it, when, where and with which versions.
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
        """``kind/key``, which is also the path below the store."""
        return f"{self.kind}/{self.key}"

    @property
    def payload(self) -> str:
        """The hash of all files: equal content has an equal payload."""
        return payload_of(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(facts.size for facts in self.files.values())

    def encode(self) -> bytes:
        """The manifest as readable JSON; its last field is the sha256 of all text before it."""
        body = {"schema": SCHEMA_VERSION, **vars(self), "files": as_mappings(self.files), "payload": self.payload}
        text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False).removesuffix("\n}").encode()
        return text + _SEAL + hashlib.sha256(text).hexdigest().encode() + _END

    @classmethod
    def decode(cls, data: bytes, *, where: str) -> Manifest:
        """Read a manifest back.

        Raises:
            CorruptEntryError: it is no JSON, has a wrong hash or key, or names files outside the entry.
            SchemaVersionError: another schema version wrote it.
        """
        text, seal, stated = data.rpartition(_SEAL)
        if not (seal and stated.endswith(_END)):
            raise CorruptEntryError(f"{where} is not a manifest (it has no end): the entry counts as missing")
        # Check the hash first: a damaged version number must not send the user to another release.
        if hashlib.sha256(text).hexdigest().encode() != stated.removesuffix(_END):
            raise CorruptEntryError(f"{where} does not match its own sha256: the entry counts as missing")
        try:
            body = json.loads(data)
            del body["sha256"], body["payload"]
            schema = body.pop("schema")
            if type(schema) is not int or schema != SCHEMA_VERSION:
                raise SchemaVersionError(
                    f"{where} has schema version {schema!r}",
                    allowed=f"version {SCHEMA_VERSION}, which this release writes",
                    remedy=Remedy("advice", text="use the release that wrote it, or another home"),
                )
            body["files"] = {name: _file_facts(raw) for name, raw in body["files"].items()}
            manifest = cls(**body)
            manifest._check_types()
            key = key_of(manifest.kind, manifest.recipe)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptEntryError(f"{where} is not a manifest ({error}): the entry counts as missing") from error
        if key != manifest.key:
            raise CorruptEntryError(f"{where} has key {manifest.key}, which does not follow from its recipe")
        # An imported entry may be hostile, and the files that its manifest names are read and deleted.
        if not is_plain_name("/".join((manifest.folder, *manifest.files))) or "/" in manifest.folder:
            raise CorruptEntryError(f"{where} names files outside its folder: the entry counts as missing")
        return manifest

    def _check_types(self) -> None:
        if not {*map(type, (self.kind, self.key, self.folder))} <= {str}:
            raise TypeError("a name that is not text")
        if not all(isinstance(value, dict) for value in (self.recipe, self.measured, self.made)):
            raise TypeError("a recipe, 'measured' or 'made' that is not a mapping")
        # Refuse NaN, and numbers such as 1e999, which Python reads as infinity.
        canonical_json([self.measured, self.made])


def _file_facts(raw: dict[str, Any]) -> FileFacts:
    facts = FileFacts(**raw)
    if type(facts.size) is not int or not 0 <= facts.size < 1 << 63 or type(facts.sha256) is not str:
        raise TypeError(f"a file with size {facts.size!r} and sha256 {facts.sha256!r}")
    return facts


def payload_of(files: Mapping[str, FileFacts]) -> str:
    """The sha256 over the name, size and sha256 of every file."""
    return hashlib.sha256(canonical_json(as_mappings(files))).hexdigest()


def is_plain_name(name: str) -> bool:
    """True if the name is relative, without empty parts, ``.`` and ``..``: it cannot leave the folder that it is joined to."""
    return {"", ".", ".."}.isdisjoint(name.split("/")) and name.isprintable()
