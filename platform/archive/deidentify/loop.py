"""A whole cine loop cleaned, for export: looked at in one pass over its frames, written in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sonoloop.platform.archive.deidentify.clean import FrameAudit, apply_audit, audit_of
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.quarantine import Release
from sonoloop.platform.archive.instance import Frame, Instance

SECOND_LOOKS = 8
"""Every frame is looked at once, so many again: overlays stand still."""


@dataclass(frozen=True)
class CleanLoop:
    """The frames of an instance, masked by all that any of them showed; decoded anew in each iteration."""

    instance: Instance
    audit: FrameAudit

    def __len__(self) -> int:
        return self.instance.num_frames

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.instance.num_frames):
            yield apply_audit(self.instance.frame(index), self.instance, self.audit)


def clean_loop(instance: Instance, config: DeidentifyConfig, *, release: Release | None = None) -> CleanLoop:
    """All frames of an instance, cleaned; one frame at a time is in memory.

    Args:
        instance: The object.
        config: The rules' settings.
        release: As in `clean_frames`.

    Raises:
        RejectedError: `PHI_SUSPECTED`, they cannot be shown clean; or a frame cannot be decoded.
    """
    every = range(instance.num_frames)
    spread = np.linspace(0, instance.num_frames - 1, min(SECOND_LOOKS, instance.num_frames))
    again = sorted({int(index) for index in spread.round()})
    return CleanLoop(instance, audit_of(instance.frame, every, again, instance, config, release))
