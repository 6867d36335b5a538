"""The workspace: one S3 prefix or local folder that holds all state.

Files are read and written through ``pyarrow.fs``. Small control objects (aliases, run states) go through
conditional puts, so that two writers cannot both win: ``If-None-Match`` and ``If-Match`` on S3, an
exclusive lock file beside the object in a local folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from botocore.config import Config as BotoConfig
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.columns import with_added_columns
from sonoloop.platform.errors import ConfigError, ConflictError, StorageError
from sonoloop.platform.storage_errors import storage_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

KEYS_PER_REMOVAL = 1000
"""What S3 takes at once."""


class S3Config(BaseModel):
    """How to reach S3. Keys come from the environment or the role of the machine, never from here."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/@\s]+/?$",
        description="S3 endpoint; AWS_ENDPOINT_URL or AWS itself when absent",
    )
    region: str | None = Field(default=None, description="region name; AWS_REGION or us-east-1 when absent")

    def resolved_region(self) -> str:
        """The configured region, else the environment's, else AWS's oldest."""
        found = (os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
        return self.region or next(filter(None, found), "us-east-1")

    def resolved_endpoint(self) -> str | None:
        """The configured endpoint, else the environment's, else ``None`` for AWS.

        Raises:
            ConfigError: the environment's is no address.
        """
        endpoint = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or None
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ConfigError("AWS_ENDPOINT_URL must begin with http:// or https://")
        return endpoint


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: its URI, size in bytes and the store's name for this version.

    Where a manifest does not tell them, the size is -1 and the name empty.
    """

    uri: str
    size_bytes: int
    etag: str


@dataclass(frozen=True)
class Store:
    """A place that holds objects: ``s3://bucket/prefix`` or a local folder. Picklable; opens lazily."""

    uri: str
    s3: S3Config = field(default_factory=S3Config)

    @property
    def is_s3(self) -> bool:
        """Whether this store is on S3."""
        return self.uri.startswith("s3://")

    @cached_property
    def root(self) -> str:
        """The store's path as `fs` wants it: ``bucket/prefix`` or an absolute folder."""
        if self.is_s3:
            return self.uri.removeprefix("s3://").rstrip("/")
        return str(Path(self.uri.removeprefix("file://")).absolute())

    @cached_property
    def bucket_and_prefix(self) -> tuple[str, str]:
        """Bucket and key prefix (no slash at its end) of an S3 store."""
        bucket, _, prefix = self.root.partition("/")
        return bucket, prefix

    @cached_property
    def fs(self) -> pafs.FileSystem:
        """The pyarrow file system; keys come from the environment's AWS chain."""
        if not self.is_s3:
            return pafs.LocalFileSystem()
        endpoint = self.s3.resolved_endpoint()
        parts = urlparse(endpoint) if endpoint else None
        return pafs.S3FileSystem(
            region=self.s3.resolved_region(),
            endpoint_override=parts.netloc if parts else None,
            scheme=parts.scheme if parts else "https",
            connect_timeout=10,
            request_timeout=60,
            allow_delayed_open=True,  # a small object is one request, not the three of an upload in parts
        )

    @cached_property
    def client(self) -> S3Client:
        """A boto3 client for what pyarrow cannot do: listing with etags, conditional puts."""
        return self.new_client(retries={"max_attempts": 4, "mode": "standard"})

    def new_client(self, **settings: Any) -> S3Client:
        """A boto3 client with settings of botocore's ``Config``."""
        import boto3

        config = BotoConfig(**{"connect_timeout": 5, "read_timeout": 60, **settings})
        # An own session: boto3's default one is not safe to make in threads and keeps the first keys it saw.
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.s3.resolved_endpoint(),
            region_name=self.s3.resolved_region(),
            config=config,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Only what names the store travels; clients are opened anew in each process."""
        return {"uri": self.uri, "s3": self.s3}

    def path(self, *parts: str) -> str:
        """Path of an object for `fs`."""
        return "/".join((self.root, *parts))

    def uri_of(self, *parts: str) -> str:
        """URI of an object, as a person or Label Studio would write it."""
        return f"s3://{self.path(*parts)}" if self.is_s3 else self.path(*parts)

    def check(self) -> None:
        """Prove that the store can be listed.

        Raises:
            StorageError: no such bucket or folder, key refused, or no answer; the message says which.
        """
        if not self.is_s3:
            if not Path(self.root).is_dir():
                raise StorageError(f"folder {self.root} does not exist; create it or correct the path")
            return
        bucket, prefix = self.bucket_and_prefix
        with storage_errors(self.uri):
            self.client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)

    def list_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below ``prefix``, in key order.

        Raises:
            StorageError: the store refuses or does not answer.
        """
        yield from self._list_s3(prefix) if self.is_s3 else self._list_local(prefix)

    def _list_s3(self, prefix: str) -> Iterator[ObjectInfo]:
        bucket, root = self.bucket_and_prefix
        start = "/".join(part for part in (root, prefix) if part)
        start = start and start + "/"
        with storage_errors(self.uri):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield ObjectInfo(
                            f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"')
                        )

    def _list_local(self, prefix: str) -> Iterator[ObjectInfo]:
        for path in sorted(Path(self.root, prefix).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                stat = path.stat()
                # A name that is not UTF-8 fits no table; escaped it is no path: fetching it is a rejection.
                name = os.fsencode(path).decode(errors="backslashreplace")
                yield ObjectInfo(name, stat.st_size, file_etag(stat))

    def read_bytes(self, *parts: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: no such object.
            StorageError: the store refuses or does not answer.
        """
        return self.read_path(self.path(*parts))

    def read_path(self, path: str) -> bytes:
        """As `read_bytes`, for a path that `fs` understands."""
        with storage_errors(self.uri), self.fs.open_input_file(path) as stream:
            return bytes(stream.read())

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write an object whole or not at all."""
        target = self.path(*parts)
        with storage_errors(self.uri):
            if self.is_s3:
                with self.fs.open_output_stream(target) as stream:
                    stream.write(data)
                return
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            partial = Path(f"{target}.{secrets.token_hex(4)}.partial")
            try:
                partial.write_bytes(data)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def folders(self, *parts: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        with storage_errors(self.uri):
            found = self.fs.get_file_info(selector)
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def remove(self, *parts: str) -> None:
        """Remove one object."""
        with storage_errors(self.uri):
            self.fs.delete_file(self.path(*parts))

    def remove_paths(self, paths: Iterable[str]) -> None:
        """Remove objects by their paths for `fs`; on S3 a thousand with one request."""
        if not self.is_s3:
            for path in paths:
                Path(path).unlink(missing_ok=True)
            return
        bucket, _ = self.bucket_and_prefix
        keys = iter(path.partition("/")[2] for path in paths)
        while some := list(islice(keys, KEYS_PER_REMOVAL)):
            with storage_errors(self.uri):
                answer = self.client.delete_objects(
                    Bucket=bucket, Delete={"Objects": [{"Key": key} for key in some], "Quiet": True}
                )
            if answer.get("Errors"):
                raise StorageError(f"{self.uri}: {len(answer['Errors'])} of {len(some)} objects stay")

    def remove_folder(self, *parts: str) -> None:
        """Remove everything below a folder; one that is not there is as good."""
        selector = pafs.FileSelector(self.path(*parts), recursive=True, allow_not_found=True)
        with storage_errors(self.uri):
            found = self.fs.get_file_info(selector)
            if found:
                self.fs.delete_dir(self.path(*parts))

    def exists(self, *parts: str) -> bool:
        """Whether the object is there."""
        with storage_errors(self.uri):
            return bool(self.fs.get_file_info(self.path(*parts)).type == pafs.FileType.File)

    def written_at(self, *parts: str) -> datetime | None:
        """When the object was written, by the store's clock; ``None`` where there is none."""
        with storage_errors(self.uri):
            found = self.fs.get_file_info(self.path(*parts))
        return found.mtime.astimezone(UTC) if found.is_file and found.mtime else None

    def write_table(self, table: pa.Table, *parts: str) -> None:
        """Write one Parquet file whole or not at all."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self.write_bytes(sink.getvalue().to_pybytes(), *parts)

    def read_tables(self, schema: pa.Schema, *parts: str) -> pa.Table:
        """All Parquet files below a folder as one table, in path order; empty where there are none.

        Raises:
            StorageError: the store refuses, or a file is no Parquet file with these columns.
        """
        with storage_errors(self.uri):
            tables = [self.read_table(schema, path) for path in self.table_paths(*parts)]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def table_paths(self, *parts: str) -> list[str]:
        """Paths, for `fs`, of all Parquet files below a folder, sorted."""
        selector = pafs.FileSelector(self.path(*parts), recursive=True, allow_not_found=True)
        with storage_errors(self.uri):
            found = self.fs.get_file_info(selector)
        return sorted(f.path for f in found if f.is_file and f.path.endswith(".parquet"))

    def read_table(self, schema: pa.Schema, path: str) -> pa.Table:
        """One Parquet file, of a path that `fs` understands, with the columns of ``schema``.

        Raises:
            FileNotFoundError: no such file.
            StorageError: the store refuses, or the file is no Parquet file with these columns.
        """
        try:
            table = pq.read_table(path, filesystem=self.fs, partitioning=None)
            return with_added_columns(table, schema).select(schema.names).cast(schema)
        # in this order: no Parquet file; a type that Arrow has no cast for; a column that is not there
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as err:
            raise StorageError(
                f"{path} is not a table of this version of sonoloop; move it away or restore it"
            ) from err

    def get_control(self, *parts: str) -> tuple[bytes, str] | None:
        """A control object and its version, or ``None`` where there is none."""
        if not self.is_s3:
            path = Path(self.path(*parts))
            if not path.is_file():
                return None
            data = path.read_bytes()
            return data, _digest(data)
        bucket, prefix = self.bucket_and_prefix
        with storage_errors(self.uri):
            try:
                answer = self.client.get_object(
                    Bucket=bucket, Key="/".join((*filter(None, [prefix]), *parts))
                )
            except self.client.exceptions.NoSuchKey:
                return None
            return answer["Body"].read(), answer["ETag"]

    def put_control(self, data: bytes, *parts: str, version: str | None) -> None:
        """Write a control object if nobody wrote it since.

        Args:
            data: The new content.
            parts: The object's place.
            version: What `get_control` gave; ``None`` where the object must not exist yet.

        Raises:
            ConflictError: somebody else was first; read again and decide again.
        """
        if not self.is_s3:
            with storage_errors(self.uri):
                self._put_control_local(data, Path(self.path(*parts)), version)
            return
        bucket, prefix = self.bucket_and_prefix
        key = "/".join((*filter(None, [prefix]), *parts))
        with storage_errors(self.uri):
            if version is None:
                self.client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            else:
                self.client.put_object(Bucket=bucket, Key=key, Body=data, IfMatch=version)

    def _put_control_local(self, data: bytes, path: Path, version: str | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = _digest(path.read_bytes()) if path.is_file() else None
            if current != version:
                raise ConflictError(f"{path.name} was changed by another writer; read it again and retry")
            self.write_bytes(data, *path.relative_to(self.root).parts)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_etag(stat: os.stat_result) -> str:
    """A name for the version of a file in a folder."""
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def store_of(uri: str, s3: S3Config) -> Store:
    """The store that a URI or a folder names.

    Raises:
        StorageError: neither ``s3://bucket/prefix`` nor a folder, or a key stands in the address.
    """
    parts = urlparse(uri)
    if parts.scheme not in ("", "s3", "file"):
        raise StorageError(f"expected s3://bucket/prefix or a folder, found scheme {parts.scheme!r}")
    if parts.scheme == "s3":
        if "@" in parts.netloc or parts.query:
            raise StorageError(
                "expected s3://bucket/prefix, found keys or options in the address; keys go into "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the endpoint into [s3] endpoint_url"
            )
        if not _BUCKET.fullmatch(parts.netloc):
            raise StorageError(f"expected s3://bucket/prefix, found no valid bucket name in {uri!r}")
    return Store(uri.rstrip("/") if uri != "/" else uri, s3)


_BUCKET = re.compile(r"[a-zA-Z0-9._-]{1,255}")
