"""The tree of errors: distinct exit codes, and whole after a trip between processes."""

from __future__ import annotations

import pickle

from sonoloop.platform import errors
from sonoloop.platform.errors import (
    ConflictError,
    Reason,
    RejectedError,
    SonoloopError,
    StorageError,
    UnreachableError,
)


def test_every_kind_of_failure_has_an_exit_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, SonoloopError) and kind is not RejectedError
    ]
    codes = {kind: kind.exit_code for kind in kinds if kind not in (ConflictError, UnreachableError)}
    assert len(set(codes.values())) == len(codes)
    assert 0 not in codes.values()
    assert ConflictError.exit_code == UnreachableError.exit_code == StorageError.exit_code


def test_a_rejection_survives_pickling() -> None:
    sent = RejectedError(Reason.STORAGE, "gone", retryable=True)
    got = pickle.loads(pickle.dumps(sent))
    assert (got.reason, got.detail, got.retryable, str(got)) == (sent.reason, "gone", True, "storage: gone")
