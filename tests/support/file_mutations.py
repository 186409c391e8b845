"""Mutated YAML files and exports without end: each number seeds the generator that makes its file.

``python -m tests.support.file_mutations yaml 0 100`` reads them in a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.cache.__main__ import main as cache
from pipeline.config.load import load_settings, preset_names, resolved_yaml
from storage_schemas.errors import ConfigError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.recipe import key_of
from tests.support.annotation_mutations import change_document, change_text
from tests.support.archive_samples import content_of, exported, two_entries
from tests.support.mutated_reads import Read, read_here, read_in_child
from tests.support.store_samples import signed

__all__ = ["KINDS", "Read", "read_mutated"]

_ROOT = Path(__file__).parents[2]
_YAML_PIECES = (
    "*a", "&a [*a]", "<<: *b", "!!python/object/apply:os.system [ls]", "!!binary aGk=", "!!int 010", "!!set {a, b}", "? [a, b]",
    "\t", "---\n", "...\n", "%YAML 9.9\n", "%TAG ! !\n", "'", '"', "|\n  text\n", ">-\n", "{", "[", "- ", ": ", "#", "@", "`",
    "2024-01-01", "1:30", "1e999", "-.inf", ".nan", "0x1F", "~", "é", "\u202e", "\x1b[31m", "\x00", "[" * 3000, "{a: " * 3000,
    "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n", "1" * 5000, "$HOME", "${", "$", "$NOT_DEFINED", "name: x\n",
)  # fmt: skip


def read_mutated(kind: str, numbers: range) -> Read:
    """Read the files of these numbers, of the kind ``yaml`` or ``tar``."""
    return read_in_child("tests.support.file_mutations", kind, numbers)


def _yaml(number: int, folder: Path) -> bool:
    """Whether the settings of a mutated preset are valid; then they can be written and read again."""
    generator = np.random.default_rng([number, 1])
    name = preset_names()[int(generator.integers(len(preset_names())))]
    text = (resources.files("pipeline.config") / "presets" / f"{name}.yaml").read_text()
    if generator.random() < 0.5:
        tree = yaml.safe_load(text)
        for _ in range(int(generator.integers(1, 4))):
            change_document(tree, generator)
        text = json.dumps(tree) if generator.random() < 0.3 else yaml.safe_dump(tree, allow_unicode=bool(generator.integers(2)))
    data = text.encode(errors="surrogatepass")
    for _ in range(int(generator.integers(0, 3))):
        data = change_text(data, generator)
    for _ in range(int(generator.integers(0, 2))):
        at = int(generator.integers(len(data) + 1))
        data = data[:at] + _YAML_PIECES[int(generator.integers(len(_YAML_PIECES)))].encode() + data[at:]
    path = folder / "settings.yaml"
    path.write_bytes(data)
    settings = load_settings(str(path))
    path.write_text(resolved_yaml(settings))
    try:
        assert load_settings(str(path)) == settings
    except ConfigError as error:
        raise AssertionError("what was written cannot be read again") from error
    return True


def _tar(number: int, folder: Path) -> bool:
    """Whether a mutated export is imported as a whole; then the store is listed, shown and verified."""
    generator = np.random.default_rng([number, 2])
    files = content_of(exported(two_entries(LocalPath(folder) / "from"), folder / "export"))
    for _ in range(int(generator.integers(0, 3))):
        _change_manifest(files, generator)
    (folder / "export.tar").write_bytes(_packed(files, generator))
    home = folder / "home"
    status = _command("import", str(folder / "export.tar"), "--home", str(home))
    assert sorted(path.name for path in folder.iterdir()) == [
        "export",
        "export.tar",
        "from",
        *(["home"] if home.exists() else []),
    ]
    entries = [path.parent for path in home.glob("store/*/*/manifest.json")]
    if entries:
        assert _command("ls", "--home", str(home)) == 0
        assert _command("verify", "--home", str(home)) == 0
        for entry in entries:
            assert _command("show", f"{entry.parent.name}/{entry.name}", "--home", str(home)) == 0
    return status == 0


def _command(*words: str) -> int:
    """The exit status of a command of the cache: 0, or 2 for a refusal in words."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = cache(list(words))
    assert status in (0, 2), f"{words[0]}: {out.getvalue()}"
    assert len(out.getvalue()) < 500_000, f"{words[0]}: {len(out.getvalue())} characters"
    return status


def _change_manifest(files: dict[str, bytes], generator: np.random.Generator) -> None:
    """Change one manifest; mostly sign it again, and mostly give it the key of its recipe."""
    names = [name for name in files if name.endswith("manifest.json")]
    name = names[int(generator.integers(len(names)))]
    manifest: Any = json.loads(files[name])
    part = (
        manifest if generator.random() < 0.4 else manifest.get(str(generator.choice(["recipe", "measured", "made", "files"])))
    )
    change_document(part, generator)
    with contextlib.suppress(Exception):
        if generator.random() < 0.7:
            key = key_of(manifest["kind"], manifest["recipe"])
            moved = name.replace(manifest["key"], key)
            manifest["key"] = key
            files[moved] = files.pop(name)
            _move(files, name.rpartition("/")[0], moved.rpartition("/")[0])
            name = moved
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        files[name] = signed(manifest) if generator.random() < 0.9 else json.dumps(manifest).encode()


def _move(files: dict[str, bytes], old: str, new: str) -> None:
    for name in [name for name in files if name.startswith(f"{old}/")]:
        files[name.replace(old, new)] = files.pop(name)


def _packed(files: dict[str, bytes], generator: np.random.Generator) -> bytes:
    """The files as a tar file of any format, with faults: in headers (with the right checksum, mostly) and anywhere."""
    stream = io.BytesIO()
    form = int(generator.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if form == tarfile.PAX_FORMAT and generator.random() < 0.2:
                key = str(
                    generator.choice(["size", "path", "GNU.sparse.map", "GNU.sparse.size", "linkpath", "mtime", "hdrcharset"])
                )
                member.pax_headers = {key: str(generator.choice(["-1", "1e99", "../../x", "0,0", "9" * 400, "", "é\n"]))}
            tar.addfile(member, io.BytesIO(data))
    changed = bytearray(stream.getvalue())
    for _ in range(int(generator.integers(0, 3))):
        _change_header(changed, generator)
    return change_text(bytes(changed), generator) if generator.random() < 0.3 else bytes(changed)


def _change_header(data: bytearray, generator: np.random.Generator) -> None:
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = headers[int(generator.integers(len(headers)))]
    fields = {
        "name": (0, 100),
        "size": (124, 12),
        "type": (156, 1),
        "link": (157, 100),
        "magic": (257, 8),
        "prefix": (345, 155),
    }
    start, length = fields[str(generator.choice(list(fields)))]
    values = (
        b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777", b"-0000000001", b"00000000000", b"5", b"2", b"L", b"K", b"x",
        b"g", b"S", b"V", b"\0", b"../../etc/x", b"/etc/x", b"store", b"a/./b", b"\xff\xfe", b"x" * 100, generator.bytes(4),
    )  # fmt: skip
    value = values[int(generator.integers(len(values)))][:length]
    data[at + start : at + start + len(value)] = value
    if generator.random() < 0.9:
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}\0 ".encode()


KINDS: dict[str, Callable[[int, Path], bool]] = {"yaml": _yaml, "tar": _tar}
"""How each kind of file is made and read."""


def _main(kind: str, start: int, stop: int) -> None:
    # The presets have them in their paths.
    os.environ |= dict.fromkeys(("COCO_ROOT", "ODKD_WEIGHTS", "PHOTOGRAPHS", "TEACHER"), "/data")
    read_here(lambda number, folder: (KINDS[kind](number, folder), 0), range(start, stop), longest_message=20_000)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
