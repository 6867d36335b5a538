"""A list of the archive's objects made before: an S3 Inventory, or a CSV or Parquet file.

| form | named by | columns |
|---|---|---|
| S3 Inventory | its ``manifest.json``; data files CSV.gz or Parquet, MD5 checked | as AWS writes them |
| CSV (also .gz) | the file, with a header line | ``uri`` or ``key``; ``etag`` and ``size`` where known |
| Parquet | the file | the same |

``key`` is the key in the archive's bucket, or the path below an archive in a folder. An inventory lists a
bucket: what does not lie in the archive is left out. A file that names an object elsewhere is refused.

Source: Amazon S3 User Guide, "Amazon S3 Inventory list" and "Locating your inventory list".
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from sonoloop.platform.archive.objects.listing import OBJECTS_PER_PAGE
from sonoloop.platform.errors import ConfigError, StorageError
from sonoloop.platform.workspace import ObjectInfo, Store, store_of

_NAMES = {
    "e_tag": "etag",
    "size_bytes": "size",
    "is_latest": "islatest",
    "is_delete_marker": "isdeletemarker",
}
_TEXT = ("uri", "key", "etag", "Key", "ETag", "IsLatest", "IsDeleteMarker")
"""Read as text: a key may look like a number and lose its leading zeros."""


@dataclass(frozen=True)
class ManifestPart:
    """One data file of a manifest.

    ``columns`` are those of an inventory's CSV, which has no header line; ``md5`` is checked where given.
    """

    archive: Store
    folder: Store
    name: str
    columns: tuple[str, ...] = ()
    md5: str | None = None
    is_inventory: bool = False

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """The file's objects, each once, in the order of their URIs, a page at a time.

        Raises:
            StorageError: the file cannot be read, or its checksum is another.
            ConfigError: it lacks a column, or names an object outside of the archive.
        """
        table = self._objects()
        for start in range(0, table.num_rows, OBJECTS_PER_PAGE):
            rows = table.slice(start, OBJECTS_PER_PAGE).to_pylist()
            yield [ObjectInfo(row["uri"], row["size"], row["etag"]) for row in rows]

    def _objects(self) -> pa.Table:
        table = _current(_parse(_fetch(self.folder, self.name, self.md5), self))
        if not {"uri", "key"} & set(table.column_names):
            raise ConfigError(f"{self.folder.uri_of(self.name)} has neither a column uri nor a column key")
        found = pa.table(
            {
                "uri": self._uris(table),
                "size": pc.fill_null(_column(table, "size").cast(pa.int64()), -1),
                "etag": pc.fill_null(pc.utf8_trim(_column(table, "etag").cast(pa.string()), '"'), ""),
            }
        )
        inside = pc.starts_with(found["uri"], f"{self.archive.uri_of()}/")
        if not self.is_inventory and not pc.all(inside).as_py():
            raise ConfigError(f"the manifest names objects outside of the archive {self.archive.uri}")
        found = found.filter(pc.and_not(inside, pc.ends_with(found["uri"], "/"))).sort_by("uri")
        return found.take(pa.array(_first_places(found["uri"].to_pylist()), pa.int64()))

    def _uris(self, table: pa.Table) -> list[str]:
        if "uri" in table.column_names:
            return [str(uri) for uri in table["uri"].to_pylist()]
        keys = [str(key) for key in table["key"].to_pylist()]
        if not self.archive.is_s3:
            return [self.archive.uri_of(key) for key in keys]
        bucket, _ = self.archive.bucket_and_prefix
        decode = unquote_plus if self.columns else str  # only an inventory's CSV quotes its keys
        return [f"s3://{bucket}/{decode(key)}" for key in keys]


def manifest_parts(uri: str, archive: Store) -> list[ManifestPart]:
    """The data files that a manifest consists of.

    Raises:
        StorageError: it cannot be read, or its checksum is another.
        ConfigError: it is of no known form.
    """
    place, _, name = uri.rpartition("/")
    folder = store_of(place or ".", archive.s3)
    if not name.endswith(".json"):
        return [ManifestPart(archive, folder, name)]
    data = _fetch(folder, name, None)
    checksum = name.removesuffix(".json") + ".checksum"
    if folder.exists(checksum):
        _check(data, _fetch(folder, checksum, None).decode().strip(), folder.uri_of(name))
    try:
        inventory = json.loads(data)
        kind, schema, files = (inventory[key] for key in ("fileFormat", "fileSchema", "files"))
    except (ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"{uri} is no manifest of an S3 Inventory") from err
    if kind not in ("CSV", "Parquet"):
        raise ConfigError(f"{uri} is an inventory of format {kind}; CSV and Parquet can be read")
    columns = tuple(column.strip() for column in schema.split(",")) if kind == "CSV" else ()
    data_store = Store(f"s3://{folder.bucket_and_prefix[0]}", archive.s3) if folder.is_s3 else folder
    return [
        ManifestPart(archive, data_store, file["key"], columns, file.get("MD5checksum"), is_inventory=True)
        for file in files
    ]


def _fetch(folder: Store, name: str, md5: str | None) -> bytes:
    try:
        data = folder.read_bytes(name)
    except FileNotFoundError:
        raise StorageError(f"the manifest {folder.uri_of(name)} does not exist") from None
    if md5 is not None:
        _check(data, md5, folder.uri_of(name))
    return data


def _check(data: bytes, md5: str, uri: str) -> None:
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5.lower():
        raise StorageError(f"{uri} does not have the checksum that its manifest gives; fetch it again")


def _parse(data: bytes, part: ManifestPart) -> pa.Table:
    try:
        if data[:4] == b"PAR1":
            table = pq.read_table(pa.BufferReader(data))
        else:
            if data.startswith(b"\x1f\x8b"):
                data = gzip.decompress(data)
            table = pacsv.read_csv(
                pa.BufferReader(data),
                read_options=pacsv.ReadOptions(column_names=part.columns or None),
                convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(_TEXT, pa.string())),
            )
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as err:
        raise ConfigError(f"{part.folder.uri_of(part.name)} is neither CSV nor Parquet") from err
    lower = [name.lower() for name in table.column_names]
    return table.rename_columns([_NAMES.get(name, name) for name in lower])


def _current(table: pa.Table) -> pa.Table:
    """Without older versions and delete markers, where an inventory lists versions."""
    for name, wanted in (("islatest", "true"), ("isdeletemarker", "false")):
        if name in table.column_names:
            table = table.filter(pc.equal(pc.utf8_lower(table[name].cast(pa.string())), wanted))
    return table


def _column(table: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    return table[name] if name in table.column_names else pa.nulls(table.num_rows, pa.string())


def _first_places(uris: list[str]) -> list[int]:
    return [place for place, uri in enumerate(uris) if not place or uri != uris[place - 1]]
