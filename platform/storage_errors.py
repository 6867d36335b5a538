"""What boto3 and pyarrow raise, as errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from sonoloop.platform.errors import ConflictError, StorageError, UnreachableError


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn what boto3 and pyarrow raise into one clear `StorageError`; missing objects stay as they are."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BotoCoreError, ClientError, OSError, pa.ArrowInvalid) as err:
        if isinstance(err, OSError) and re.search(_GONE, str(err)):
            raise FileNotFoundError(f"{where}: an object is gone since it was opened") from err
        raise _translated(err, where) from err


_GONE = r"AWS Error (NO_SUCH_KEY|RESOURCE_NOT_FOUND) during GetObject"
"""What pyarrow says of an object that was removed between two requests for it."""
_CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_SILENT = (
    # Tried first: such a message quotes the whole address, in which any of the words below may occur.
    r"Could not connect|EndpointConnection|ConnectionClosed|curlCode|NETWORK_CONNECTION|[Tt]imed? ?out"
)
_BUSY = (
    r"HTTP status 5\d\d|\(50\d\)|SLOW_?DOWN|SlowDown|SERVICE_UNAVAILABLE|ServiceUnavailable|INTERNAL_FAILURE|"
    r"InternalError|InternalFailure|REQUEST_TIMEOUT|RequestTimeout|THROTTLING|Throttling|IncompleteRead"
)
_CAUSES = (
    (
        r"RequestTimeTooSkewed|REQUEST_TIME_TOO_SKEWED",
        "this machine's clock is more than 15 minutes off; let chrony or systemd-timesyncd set it",
    ),
    (r"NoSuchBucket|NO_SUCH_BUCKET", "no such bucket; create it or correct the address"),
    (
        r"InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH|AccessDenied|"
        r"ACCESS_DENIED|ExpiredToken|\(403\)|HTTP status 403",
        "access refused; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do there",
    ),
    (
        r"Unable to locate credentials|NoCredentials",
        "no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
)


def _translated(err: Exception, where: str) -> StorageError:
    response: Any = getattr(err, "response", None) or {}  # botocore: None where a connection was closed
    code = str(response.get("Error", {}).get("Code", ""))
    if code in _CHANGED:
        return ConflictError(f"an object of {where} was changed by another writer; read it again and retry")
    text = f"{type(err).__name__} {code} {err}"
    if where.startswith("s3://") and re.search(_SILENT, text):
        return UnreachableError(
            f"{where}: the S3 endpoint does not answer; check [s3] endpoint_url or AWS_ENDPOINT_URL, and "
            "that it is up"
        )
    if where.startswith("s3://") and re.search(_BUSY, text):
        return UnreachableError(f"{where}: S3 answers that it is busy or broken; try again later")
    for words, message in _CAUSES:
        if where.startswith("s3://") and re.search(words, text):
            return StorageError(f"{where}: {message}")
    reason = code or getattr(err, "strerror", None) or type(err).__name__
    return StorageError(f"{where}: {reason}")
