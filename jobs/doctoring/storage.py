"""Workspace and archive: what the keys may do there, tried on an object in ``doctor/`` that is removed again.

A store that takes a conditional put although its condition is not met would let two writers both win: models
could be promoted over each other. So that is tried, not believed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from sonoloop.jobs.config import Config
from sonoloop.jobs.doctoring.finding import Finding, ok, problem, warning
from sonoloop.platform.errors import ConflictError, SonoloopError
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store, store_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AREA = "storage"
LARGEST_SKEW_S = 300
"""S3 refuses requests that are signed with a clock 15 minutes off; a third of that is not to be left."""
_QUICK: dict[str, Any] = {"connect_timeout": 3, "read_timeout": 10, "retries": {"total_max_attempts": 2}}
_CORS_REMEDY = (
    "allow GET and HEAD from that origin in the bucket's CORS rules, or set labelstudio.presign = false"
)


def archive(config: Config) -> Iterator[Finding]:
    """Whether the archive can be listed and read."""
    store = _quick(store_of(config.archive, config.s3))
    store.check()
    first = next(islice(store.list_objects(), 1), None)
    if first is None:
        yield warning(
            AREA, "archive", f"{store.uri} holds no object", "correct archive, or bring studies there"
        )
        return
    with storage_errors(store.uri), store.fs.open_input_file(first.uri.removeprefix("s3://")) as stream:
        stream.read(1)
    yield ok(AREA, "archive", f"{store.uri} can be listed and read")


def workspace(config: Config) -> Iterator[Finding]:
    """Every right that the loop uses, the conditions of writes, the clock, and what a browser may load."""
    store = _quick(store_of(config.workspace, config.s3))
    store.check()
    yield ok(AREA, "list", f"{store.uri} can be listed")
    name = f"doctor/{secrets.token_hex(8)}"
    try:
        failed = yield from _basics(store, name)
        if failed:
            return
        yield from _conditions(store, name)
        if store.is_s3:
            yield from _s3_only(config, store, name)
    finally:
        with suppress(SonoloopError, OSError):
            store.remove(name)


def _quick(store: Store) -> Store:
    """The same store with a client that does not wait for long."""
    if store.is_s3:
        store.__dict__["client"] = store.new_client(**_QUICK)
    return store


def _basics(store: Store, name: str) -> Generator[Finding, None, bool]:
    """Put, get and delete; returns whether something failed."""
    body = secrets.token_bytes(64)
    steps: tuple[tuple[str, Callable[[], object], str], ...] = (
        ("put", lambda: store.write_bytes(body, name), "s3:PutObject"),
        ("get", lambda: _same(store.read_bytes(name), body), "s3:GetObject"),
        ("delete", lambda: store.remove(name), "s3:DeleteObject"),
    )
    for what, step, right in steps:
        try:
            step()
        except (SonoloopError, OSError) as err:
            remedy = (
                f"give the key the right {right} there" if store.is_s3 else "is the disk full, or read-only?"
            )
            yield problem(AREA, what, str(err), remedy)
            return True
        yield ok(AREA, what, "works")
    return False


def _same(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise OSError("other bytes came back than were put")


def _conditions(store: Store, name: str) -> Iterator[Finding]:
    """A first writer wins, a second and an outdated one are refused."""
    remedy = (
        "this store cannot hold a workspace: use one that refuses conditional puts (AWS S3, SeaweedFS, MinIO)"
    )
    store.put_control(b"first", name, version=None)
    for what, version in (("If-None-Match", None), ("If-Match", "0" * 32)):
        try:
            store.put_control(b"second", name, version=version)
        except ConflictError:
            yield ok(AREA, what, "a write whose condition is not met is refused")
        else:
            yield problem(AREA, what, "a write whose condition is not met goes through", remedy)
    found = store.get_control(name)
    assert found is not None, "it was just written"
    store.put_control(b"third", name, version=found[1])
    yield ok(AREA, "conditional put", "a write whose condition is met goes through")


def _s3_only(config: Config, store: Store, name: str) -> Iterator[Finding]:
    bucket, prefix = store.bucket_and_prefix
    key = "/".join(part for part in (prefix, name) if part)
    yield from _multipart(store.client, bucket, key)
    yield _clock(store.client, bucket, key)
    if config.labelstudio.presign:
        yield _cors(config, store.client, bucket, key)


def _multipart(client: Any, bucket: str, key: str) -> Iterator[Finding]:
    """An upload in parts, finished and given up."""
    place = {"Bucket": bucket, "Key": key}
    try:
        upload = client.create_multipart_upload(**place)["UploadId"]
        part = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"part")
        parts: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)
        given_up = client.create_multipart_upload(**place)["UploadId"]
        client.abort_multipart_upload(**place, UploadId=given_up)
    except (ClientError, BotoCoreError) as err:
        remedy = "give the key s3:PutObject and s3:AbortMultipartUpload there; models are uploaded in parts"
        yield problem(AREA, "upload in parts", f"refused ({_code(err)})", remedy)
    else:
        yield ok(AREA, "upload in parts", "works")


def _clock(client: S3Client, bucket: str, key: str) -> Finding:
    answer: Any = client.head_object(Bucket=bucket, Key=key)  # all rights end at the workspace's prefix
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        return warning(AREA, "clock", "S3 tells no time", "compare this machine's clock by hand")
    skew_s = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    if abs(skew_s) > LARGEST_SKEW_S:
        return problem(
            AREA, "clock", f"{skew_s:+.0f} s from S3's", "let chrony or systemd-timesyncd set the clock"
        )
    return ok(AREA, "clock", f"{skew_s:+.0f} s from S3's")


def _cors(config: Config, client: S3Client, bucket: str, key: str) -> Finding:
    """Asks as the browser of a person in Label Studio will: a presigned URL, with that page's origin."""
    page = urlsplit(config.labelstudio.url)
    origin = f"{page.scheme}://{page.netloc}"
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=60)
    try:
        with httpx.Client(timeout=10, trust_env=False) as http:
            answer = http.get(url, headers={"Origin": origin})
    except httpx.HTTPError as err:
        return warning(AREA, "browser", f"no answer to a presigned URL ({type(err).__name__})", _CORS_REMEDY)
    allowed = answer.headers.get("access-control-allow-origin", "")
    if answer.is_success and allowed in ("*", origin):
        return ok(AREA, "browser", f"pages of {origin} may load images")
    return problem(AREA, "browser", f"pages of {origin} may not load images from {bucket}", _CORS_REMEDY)


def _code(err: Exception) -> str:
    response: Any = getattr(err, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(err).__name__)
