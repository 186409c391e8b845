"""The store: entries found by key, made in drafts, committed by a manifest that is written last, and verified by hash.

``<store>/<kind>/<key>/manifest.json`` names the attempt folder beside it whose files count. Every writer has a folder of its
own, so that two writers of one entry never touch each other's files; the manifest is created exclusively, and the first wins.
A draft is a set of parts (a block of rows, an epoch's checkpoint). A part is finished when its marker is written; the next
writer adopts the finished parts of one that died.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from storage_schemas.atomic import sha256_file, sync_folder, write_atomic
from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.lease import Lease, LeaseWatch
from storage_schemas.manifest import FileFacts, Manifest, Recipe, differing_fields, key_of

__all__ = ["Draft", "Entry", "Part", "Store", "finish_part"]

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_LEASE = ".lease"
_MARKER = ".part.json"
_VERSIONS_OF = ("ray", "torch", "zarr", "numpy", "opencv-python-headless", "simplejpeg", "pycocotools", "onnxruntime")


@dataclass(frozen=True)
class Part:
    """A finished piece of a draft: its files with their facts, and what the worker noted about it."""

    name: str
    files: dict[str, FileFacts]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A committed entry: the manifest, and the folder that holds its files."""

    manifest: Manifest
    folder: Path

    @property
    def key(self) -> str:
        """The entry's key."""
        return self.manifest.key

    @property
    def measured(self) -> dict[str, Any]:
        """What was found out while the entry was made."""
        return self.manifest.measured

    def path(self, name: str) -> Path:
        """The absolute path of one of the entry's files or arrays."""
        return self.folder / name

    def problems(self) -> list[str]:
        """What is wrong with the files, one line each; empty if every file has the manifest's size and sha256."""
        return [problem for name, facts in self.manifest.files.items() if (problem := _problem(self.folder, name, facts))]

    def check(self) -> None:
        """Raise ``CorruptEntryError`` naming the first damaged file and the command that makes the entry again."""
        found = self.problems()
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise CorruptEntryError(
                f"Entry {self.manifest.kind}/{self.key}: {found[0]}{more}",
                allowed="the files as its manifest describes them",
                run="python -m pipeline.run --stage STAGE --force, with the stage that makes "
                f"'{self.manifest.kind}' and the same configuration",
            )


def _problem(folder: Path, name: str, facts: FileFacts) -> str:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != facts.size:
        return f"{name} has {size} bytes where the manifest says {facts.size}"
    if sha256_file(path) != facts.sha256:
        return f"{name} does not match its sha256"
    return ""


def finish_part(folder: Path, name: str, files: Sequence[str], *, notes: Mapping[str, Any] | None = None) -> Part:
    """Sync and hash the ``files`` (names below ``folder``) of a part, then write its marker: the worker's last act."""
    facts: dict[str, FileFacts] = {}
    for file in files:
        path = folder / file
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        sync_folder(path.parent)
        facts[file] = FileFacts(path.stat().st_size, sha256_file(path))
    part = Part(name, facts, dict(notes or {}))
    write_atomic(folder / f"{name}{_MARKER}", json.dumps(asdict(part), allow_nan=False).encode())
    return part


def _read_part(marker: Path) -> Part | None:
    """The part behind a marker, or None if any of its files is not as the marker says."""
    try:
        raw = json.loads(marker.read_bytes())
        part = Part(raw["name"], {name: FileFacts(**facts) for name, facts in raw["files"].items()}, raw["notes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    bad = [problem for name, facts in part.files.items() if (problem := _problem(marker.parent, name, facts))]
    if bad:
        log.warning("Unfinished work in %s is not used: %s", marker.parent, bad[0])
        return None
    return part


class Draft:
    """An entry in the making: a folder of its own, under a lease."""

    def __init__(self, home: Path, kind: str, recipe: Recipe) -> None:
        self.kind, self.recipe, self.key = kind, dict(recipe), key_of(kind, recipe)
        self._home = home
        self.folder = home / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self._started = time.monotonic()

    def parts(self) -> dict[str, Part]:
        """The finished parts, by name: those adopted from a writer that died and those made since."""
        found = (_read_part(marker) for marker in sorted(self.folder.glob(f"*{_MARKER}")))
        return {part.name: part for part in found if part}

    def adopt(self, other: Path) -> int:
        """Take over the finished parts of the attempt folder ``other`` and remove the rest of it; how many there were."""
        taken = 0
        for marker in sorted(other.glob(f"*{_MARKER}")):
            part = _read_part(marker)
            if part is None:
                continue
            for name in (*part.files, marker.name):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(other / name, self.folder / name)  # noqa: PTH105 (one call moves and overwrites)
            taken += 1
        shutil.rmtree(other, ignore_errors=True)
        return taken

    def payload(self, files: Sequence[str]) -> str:
        """The hash that the entry's payload will have if ``files`` (names below the folder) are committed as they are."""
        return Manifest(self.kind, self.key, self.recipe, self.folder.name, self._facts(files), {}, {}).payload

    def _facts(self, files: Sequence[str]) -> dict[str, FileFacts]:
        known = {name: facts for part in self.parts().values() for name, facts in part.files.items()}
        return {
            name: known.get(name) or FileFacts((self.folder / name).stat().st_size, sha256_file(self.folder / name))
            for name in sorted(files)
        }

    def commit(self, files: Sequence[str], *, measured: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> Entry:
        """Write the manifest over ``files`` (names below the folder); if another writer was first, its entry is the result."""
        facts = self._facts(files)
        for name in facts:
            with (self.folder / name).open("rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(self.folder)
        everything = {**_provenance(), "seconds": round(time.monotonic() - self._started, 3), **(made or {})}
        manifest = Manifest(self.kind, self.key, self.recipe, self.folder.name, facts, _plain(measured), _plain(everything))
        try:
            write_atomic(self._home / _MANIFEST, manifest.encode(), exclusive=True)
        except FileExistsError:
            log.info("%s/%s was committed by another run meanwhile: that one is used", self.kind, self.key)
            shutil.rmtree(self.folder, ignore_errors=True)
            return _read_entry(self._home)
        self._clean(keep=set(facts))
        return Entry(manifest, self.folder)

    def _clean(self, keep: set[str]) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name != _LEASE and path.relative_to(self.folder).as_posix() not in keep:
                path.unlink(missing_ok=True)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as it comes back from JSON, so that an entry just made equals one that was found."""
    plain: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    return plain


def _provenance() -> dict[str, Any]:
    versions = {}
    for name in _VERSIONS_OF:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "user": _user(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a user id that has no name.
        return str(os.getuid())


def _read_entry(home: Path) -> Entry:
    manifest = Manifest.decode((home / _MANIFEST).read_bytes(), where=str(home / _MANIFEST))
    return Entry(manifest, home / manifest.folder)


@dataclass(frozen=True)
class Store:
    """All entries of one home, below ``root``."""

    root: Path

    def find(self, kind: str, recipe: Recipe) -> Entry | None:
        """The committed entry of this recipe, or None; one whose manifest is damaged counts as not there, and is logged."""
        home = self._home(kind, recipe)
        try:
            return _read_entry(home)
        except FileNotFoundError:
            return None
        except CorruptEntryError as error:
            log.warning("%s", error)
            return None

    def entries(self, kind: str) -> Iterator[Entry]:
        """Every committed entry of a kind."""
        for manifest in sorted((self.root / kind).glob(f"*/{_MANIFEST}")):
            try:
                yield _read_entry(manifest.parent)
            except (CorruptEntryError, StoreError) as error:
                log.warning("%s", error)

    def nearest(self, kind: str, recipe: Recipe) -> tuple[Entry, list[tuple[str, object, object]]] | None:
        """The entry of this kind whose recipe differs in the fewest fields, with those fields; None if there is none."""
        ranked = [(differing_fields(recipe, entry.manifest.recipe), entry) for entry in self.entries(kind)]
        if not ranked:
            return None
        # Among equals the newest: it is what the user has just been working with.
        ranked.sort(key=lambda pair: pair[1].manifest.made.get("at", ""), reverse=True)
        fields, entry = min(ranked, key=lambda pair: len(pair[0]))
        return entry, fields

    @contextmanager
    def draft(self, kind: str, recipe: Recipe, *, tell: Callable[[str], None] = log.info) -> Iterator[Draft | Entry]:
        """Begin an entry: a draft that holds the lease and whatever a dead writer had finished.

        If a live writer is at it already, wait for that one; the result is then its entry. ``tell`` says so to the user.
        """
        home = self._home(kind, recipe)
        home.mkdir(parents=True, exist_ok=True)
        draft = Draft(home, kind, recipe)
        self._wait_for_others(home, f"{kind}/{draft.key}", tell)
        found = self.find(kind, recipe)
        if found:
            yield found
            return
        self._set_damaged_aside(home)
        draft.folder.mkdir()
        with Lease(draft.folder / _LEASE):
            others = [path for path in home.iterdir() if path.is_dir() and path != draft.folder]
            adopted = sum(draft.adopt(other) for other in others if LeaseWatch(other / _LEASE).is_dead())
            if adopted:
                tell(f"{kind}/{draft.key}: going on from {adopted} finished parts of an earlier run")
            yield draft

    def discard(self, entry: Entry) -> None:
        """Take an entry out of the store: the manifest first, so that nothing half removed is ever found."""
        home = self.root / entry.manifest.kind / entry.key
        (home / _MANIFEST).unlink(missing_ok=True)
        sync_folder(home)
        shutil.rmtree(entry.folder, ignore_errors=True)

    def _home(self, kind: str, recipe: Recipe) -> Path:
        return self.root / kind / key_of(kind, recipe)

    @staticmethod
    def _wait_for_others(home: Path, what: str, tell: Callable[[str], None]) -> None:
        watches = [LeaseWatch(path / _LEASE) for path in home.iterdir() if path.is_dir()]
        told = False
        while not (home / _MANIFEST).exists():
            living = [watch for watch in watches if not watch.is_dead()]
            if not living:
                return
            if not told:
                tell(f"Waiting for {what}, which {living[0].holder()} is making")
                told = True
            time.sleep(0.5)

    @staticmethod
    def _set_damaged_aside(home: Path) -> None:
        """A manifest that cannot be read must not keep the new one from being created; it is kept for whoever looks."""
        manifest = home / _MANIFEST
        if manifest.exists():
            manifest.replace(home / f"{_MANIFEST}.damaged-{uuid.uuid4().hex[:8]}")
