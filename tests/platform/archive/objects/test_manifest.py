"""An archive's objects from a list made before, instead of a listing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sonoloop.platform.archive.objects import manifest
from sonoloop.platform.archive.objects.manifest import manifest_parts
from sonoloop.platform.errors import ConfigError, StorageError
from sonoloop.platform.workspace import ObjectInfo, Store

ARCHIVE = Store("s3://bucket/some/archive")
NAMES = ["some/archive/a b+c.dcm", "some/archive/é/2", "some/archive/1", "some/archive/folder/"]
ELSEWHERE = ["some/archive-2/x", "other"]
EXPECTED = [
    ObjectInfo("s3://bucket/some/archive/1", 12, "e2"),
    ObjectInfo("s3://bucket/some/archive/a b+c.dcm", 10, "e0"),
    ObjectInfo("s3://bucket/some/archive/é/2", 11, "e1"),
]


def objects(uri: str, archive: Store = ARCHIVE) -> list[ObjectInfo]:
    return [info for part in manifest_parts(uri, archive) for page in part.pages() for info in page]


def parquet(columns: dict[str, list[object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def inventory(store: Store, data: bytes, form: str, schema: str) -> str:
    """An inventory as AWS lays it out: the manifest, its checksum, one data file; gives its URI."""
    store.write_bytes(data, "inventory/data/1")
    file = {"key": "inventory/data/1", "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}
    listed = {"sourceBucket": "bucket", "fileFormat": form, "fileSchema": schema, "files": [file]}
    text = json.dumps(listed).encode()
    store.write_bytes(text, "inventory/2026-01-01/manifest.json")
    store.write_bytes(hashlib.md5(text).hexdigest().encode(), "inventory/2026-01-01/manifest.checksum")
    return store.uri_of("inventory/2026-01-01/manifest.json")


@pytest.fixture
def bucket(s3_archive: Store) -> Store:
    return Store(f"s3://{s3_archive.bucket_and_prefix[0]}")


def test_an_inventory_in_csv_is_read_without_old_versions_and_other_prefixes(bucket: Store) -> None:
    rows = [
        f'"bucket","{quote_plus(name)}","v{n}","true","false","{10 + n}","e{n}"'
        for n, name in enumerate([*NAMES, *ELSEWHERE])
    ]
    rows += [
        f'"bucket","{quote_plus(NAMES[0])}","old","false","false","99","old"',
        '"bucket","some/archive/deleted","v","true","true","",""',
    ]
    schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag"
    uri = inventory(bucket, gzip.compress("\n".join(rows).encode()), "CSV", schema)
    assert objects(uri) == EXPECTED


def test_an_inventory_in_parquet_is_read_alike(bucket: Store) -> None:
    names = [*NAMES, *ELSEWHERE]
    columns: dict[str, list[object]] = {
        "bucket": ["bucket"] * len(names),
        "key": list(names),
        "is_latest": [True] * len(names),
        "is_delete_marker": [False] * len(names),
        "size": [10 + n for n in range(len(names))],
        "e_tag": [f"e{n}" for n in range(len(names))],
    }
    assert objects(inventory(bucket, parquet(columns), "Parquet", "message s3.inventory {}")) == EXPECTED


def test_an_inventory_that_is_not_what_its_checksums_say_is_refused(bucket: Store) -> None:
    uri = inventory(bucket, b"bucket,some/archive/1", "CSV", "Bucket, Key")
    bucket.write_bytes(b"bucket,some/archive/2", "inventory/data/1")
    with pytest.raises(StorageError, match="checksum"):
        objects(uri)
    bucket.write_bytes(b"{}", "inventory/2026-01-01/manifest.json")
    with pytest.raises(StorageError, match="checksum"):
        objects(uri)


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"fileFormat":"ORC","fileSchema":"","files":[]}'])
def test_what_is_no_inventory_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match="nventory"):
        objects(str(tmp_path / "manifest.json"))


def test_a_list_needs_no_more_than_names_which_stay_as_they_are(tmp_path: Path) -> None:
    archive = Store(str(tmp_path / "archive"))
    (tmp_path / "list.csv").write_text("key,other\n0012,x\n0012,x\n3/a%20b+c,y\n")
    assert objects(str(tmp_path / "list.csv"), archive) == [
        ObjectInfo(archive.uri_of("0012"), -1, ""),
        ObjectInfo(archive.uri_of("3/a%20b+c"), -1, ""),
    ]
    uris = [archive.uri_of("b"), archive.uri_of("a")]
    data = parquet({"uri": list(uris), "etag": ['"e"', None], "size": [5, None]})
    (tmp_path / "list.parquet").write_bytes(data)
    found = objects(str(tmp_path / "list.parquet"), archive)
    assert found == [ObjectInfo(uris[1], -1, ""), ObjectInfo(uris[0], 5, "e")]


def test_a_long_list_comes_in_pages_sorted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "OBJECTS_PER_PAGE", 4)
    (tmp_path / "list.csv.gz").write_bytes(
        gzip.compress(("key\n" + "".join(f"{n % 9}/{n}\n" for n in range(18))).encode())
    )
    (part,) = manifest_parts(str(tmp_path / "list.csv.gz"), Store(str(tmp_path)))
    pages = [[info.uri for info in page] for page in part.pages()]
    assert [len(page) for page in pages] == [4, 4, 4, 4, 2]
    uris = [uri for page in pages for uri in page]
    assert uris == sorted(uris)


def test_a_list_that_names_an_object_outside_of_the_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri\n/elsewhere/a\n")
    with pytest.raises(ConfigError, match="outside of the archive"):
        objects(str(tmp_path / "list.csv"), Store(str(tmp_path)))


@pytest.mark.parametrize("data", [b"name\na\n", b"\x00\x01\x02", b"", b"\x1f\x8bbroken", b"PAR1broken"])
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        objects(str(tmp_path / "list"), Store(str(tmp_path)))


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.csv does not exist"):
        objects(str(tmp_path / "none.csv"))
