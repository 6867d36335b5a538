"""What a failed request says: about the object, about this moment, or about everything.

- The object: gone, changed since it was listed, or forbidden. A rejection, at once.
- This moment: 5xx, throttling, a dropped connection, silence. Tried again with exponential backoff and full
  jitter, then a rejection that may be retried.
- Everything: keys that expired or were never good, no such bucket, an endpoint that takes no connection. The
  run stops, instead of rejecting an archive object by object.

Source of the backoff: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
)

from sonoloop.platform.errors import Reason, RejectedError, StorageError
from sonoloop.platform.storage_errors import storage_errors

T = TypeVar("T")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 20.0

_EVERYTHING = {
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "AuthFailure",
    "NoSuchBucket",
}
_GONE = {"NoSuchKey", "NotFound", "404"}
_THIS_MOMENT = {"SlowDown", "RequestTimeout", "RequestLimitExceeded", "Throttling", "ThrottlingException"}


def patiently(request: Callable[[], T], *, tries: int, where: str) -> T:
    """Make a request of S3 until it is answered, at most ``tries`` times.

    Args:
        request: May be called any number of times; raises what botocore raises.
        tries: At least 1.
        where: The store, for the message of a `StorageError`.

    Raises:
        RejectedError: ``STORAGE``, this object cannot be had, or not now.
        StorageError: no object of the store can be had.
    """
    for num_failed in range(1, tries + 1):
        try:
            return request()
        except (BotoCoreError, ClientError) as err:
            _refuse_lasting(err, where)
            if num_failed == tries:
                _give_up(err, where, tries)
        time.sleep(pause_s(num_failed))
    raise AssertionError("tries is at least 1")


def pause_s(num_failed: int) -> float:
    """Seconds to wait after so many failures: anything from nothing to a bound that doubles."""
    return random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**num_failed))


def _refuse_lasting(err: BotoCoreError | ClientError, where: str) -> None:
    """Return only where trying again can help."""
    if isinstance(err, ClientError):
        _refuse_answer(err, where)
    elif not isinstance(err, (HTTPClientError, IncompleteReadError)):  # no keys, no region: not the network
        _stop(err, where)


def _refuse_answer(err: ClientError, where: str) -> None:
    answer: Any = err.response
    code, status = str(answer["Error"].get("Code")), int(answer["ResponseMetadata"]["HTTPStatusCode"])
    if code in _EVERYTHING:
        _stop(err, where)
    if code in _GONE:
        raise RejectedError(Reason.STORAGE, "the object is gone") from None
    if status == 412:
        raise RejectedError(
            Reason.STORAGE, "the object changed after it was listed; index again", retryable=True
        ) from None
    if status in (401, 403) and code not in _THIS_MOMENT:
        raise RejectedError(Reason.STORAGE, "access to the object is denied", retryable=True) from None
    if status < 500 and status != 429 and code not in _THIS_MOMENT:
        raise RejectedError(Reason.STORAGE, f"the store answers {status}", retryable=True) from None


def _give_up(err: BotoCoreError | ClientError, where: str, tries: int) -> None:
    if isinstance(err, (EndpointConnectionError, ConnectTimeoutError)):
        _stop(err, where)
    raise RejectedError(
        Reason.STORAGE, f"the object could not be fetched in {tries} tries", retryable=True
    ) from None


def _stop(err: Exception, where: str) -> None:
    with storage_errors(where):
        raise err
    raise StorageError(where)
