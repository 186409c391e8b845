"""Tables on disk: Parquet with a version in its metadata, zstd, a checksum on each page, and atomic writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage_schemas.errors import CorruptEntryError, Remedy, StoreError
from storage_schemas.paths.local import LocalPath

__all__ = ["TableFormat", "from_lists", "list_type", "table_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class TableFormat:
    """One kind of table: its name, its version, and the kind of the entries that hold it.

    Reading raises:
        StoreError: the table is of another version.
        CorruptEntryError: the file is missing or damaged, or its columns differ from those of its version.
    """

    name: str
    version: int
    kind: str

    def schema(self, types: Mapping[str, pa.DataType], *, optional: str = "", **metadata: str) -> pa.Schema:
        """Columns of these ``types``, of which only ``optional`` may hold nulls, with the version and ``metadata``."""
        fields = [pa.field(name, kind, nullable=name == optional) for name, kind in types.items()]
        return pa.schema(fields, metadata={f"odkd_{self.name}": str(self.version), **metadata})

    def write(self, path: Path, table: pa.Table) -> None:
        """Write ``table`` to ``path`` atomically."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        LocalPath(path).write_atomic(sink.getvalue().to_pybytes())

    def read(self, path: Path, schema_of: Callable[[pa.Schema], pa.Schema], *columns: str) -> pa.Table:
        """Read a table, or some of its ``columns``; ``schema_of`` turns the schema found into the one that is expected."""
        expected = schema_of(self.read_schema(path))
        expected = pa.schema([expected.field(name) for name in columns or expected.names])
        table = self._read(path, lambda path: pq.ParquetFile(path, page_checksum_verification=True).read(columns or None))
        # A column that may hold gaps in the file is nullable in this schema.
        if not table.schema.equals(expected):
            seen = f"{path} has the columns {', '.join(table.column_names)}, or gaps in them"
            raise self.corrupt(seen, allowed=f"{', '.join(expected.names)}, as version {self.version} has them")
        return table

    def read_schema(self, path: Path) -> pa.Schema:
        """Read the schema without the rows."""
        schema = self._read(path, pq.read_schema)
        version = (schema.metadata or {}).get(f"odkd_{self.name}".encode(), b"none").decode(errors="replace")
        if version != str(self.version):
            raise StoreError(
                f"The table of {self.name} {path} has version {version}",
                allowed=f"version {self.version}, which this odkd reads and writes",
                remedy=Remedy("run", kind=self.kind, force=True),
            )
        return schema

    def corrupt(self, seen: str, *, allowed: str = "") -> CorruptEntryError:
        """An error that suggests to rebuild the table."""
        return CorruptEntryError(seen, allowed=allowed, remedy=Remedy("run", kind=self.kind, force=True))

    def _read(self, path: Path, read: Callable[[Path], T]) -> T:
        try:
            return read(path)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self.corrupt(f"The table of {self.name} {path} cannot be read: {error}") from error


def list_type(kind: pa.DataType, length: int) -> pa.DataType:
    """Lists of one length; the field is named here because pyarrow's default name differs between versions."""
    return pa.list_(pa.field("element", kind), length)


def table_of(schema: pa.Schema, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any] | pa.Array]) -> pa.Table:
    """A table of these columns; the rows of an array with several dimensions become lists."""
    lists = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=schema.field(name).type)
        for name, rows in columns.items()
        if isinstance(rows, np.ndarray) and rows.ndim > 1
    }
    return pa.table({**columns, **lists}, schema=schema)


def from_lists(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """The values of a column of lists, flat."""
    flat: npt.NDArray[Any] = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat
