"""The errors a caller can act on. Messages say what was expected, what was found and what to do next.

None of them ever carries patient text, pixels, prompts, payloads or keys.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial


class Reason(StrEnum):
    """Why an object or a case was rejected; the code that tables and counts carry."""

    EMPTY_OBJECT = "empty-object"
    NOT_AN_IMAGE = "not-an-image"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    NOT_ULTRASOUND = "not-ultrasound"
    DOCUMENT = "document"
    TOO_LARGE = "too-large"
    NO_PIXELS = "no-pixels"
    PHI_SUSPECTED = "phi-suspected"
    STORAGE = "storage"
    IMAGE_MISSING = "image-missing"
    TOO_MANY_TOKENS = "too-many-tokens"
    INVALID_OUTPUT = "invalid-output"
    MODEL_FAILED = "model-failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    NOT_DICOM = "not-dicom"
    NOT_REVIEWED = "not-reviewed"
    NO_RESULT = "no-result"
    BAD_JSON = "bad-json"
    BAD_ENTRY = "bad-entry"
    UNKNOWN_ROLE = "unknown-role"
    IMAGE_COUNT = "image-count"
    EMPTY_ANSWER = "empty-answer"
    NO_ANSWER = "no-answer"


class SonoloopError(Exception):
    """Base of all our errors; ``exit_code`` is what the command line returns."""

    exit_code = 1


class ConfigError(SonoloopError):
    """The configuration cannot be used: unknown key, impossible value, missing secret."""

    exit_code = 2


class StorageError(SonoloopError):
    """S3 or the local folder refused: missing bucket, wrong key, no permission, unreachable."""

    exit_code = 3


class UnreachableError(StorageError):
    """The store does not answer, or says that it cannot just now: the same call may succeed later."""


class ConflictError(StorageError):
    """A conditional write lost: somebody else changed the object first."""


class ServiceError(SonoloopError):
    """A service we depend on (Label Studio, Ray, Serve) does not answer or refused."""

    exit_code = 4


class CountError(SonoloopError):
    """in = out + rejected does not hold; the run is not to be trusted."""

    exit_code = 5


class NothingToDoError(SonoloopError):
    """The input is empty: no readable object, no case, no review."""

    exit_code = 6


class TooManyRejectionsError(SonoloopError):
    """Rejections passed the configured share; the run stopped early."""

    exit_code = 7


class CheckpointError(SonoloopError):
    """A model folder is incomplete, altered or of another architecture."""

    exit_code = 8


class RejectedError(SonoloopError):
    """One object or case cannot be processed; the stage boundary turns this into a rejection row.

    Args:
        reason: The code the table will carry.
        detail: What was expected and found, free of patient text.
        retryable: Whether the same input may succeed later.
        tries: How often it was tried before it was given up.
    """

    def __init__(self, reason: Reason, detail: str, *, retryable: bool = False, tries: int = 1) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retryable = retryable
        self.tries = tries

    def __reduce__(self) -> tuple[partial[RejectedError], tuple[Reason, str]]:
        """Travel between Ray's processes, which the default cannot with a keyword argument."""
        return partial(type(self), retryable=self.retryable, tries=self.tries), (self.reason, self.detail)


class GateRefusedError(SonoloopError):
    """The challenger did not win, or too few cases are held out to tell; the champion stays."""

    exit_code = 9


class HeldOutError(SonoloopError):
    """What was to be trained on is held out, or is too close to what is; nothing was trained."""

    exit_code = 10
