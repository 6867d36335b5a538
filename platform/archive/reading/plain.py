"""What a file without a DICOM header is an instance of: its folder is the case, its name the instance."""

from __future__ import annotations

from collections.abc import Callable

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.sense.facts import UltrasoundFacts
from sonoloop.platform.archive.sense.organs import organ_from_text


def plain_instance(
    name: str, *, kind: str, num_frames: int, size: tuple[int, int], frame: Callable[[int], Frame]
) -> Instance:
    """An instance of a plain file; a folder of them is one study.

    Args:
        name: The file's key below the archive's root.
        kind: Its format, in place of a transfer syntax.
        num_frames: One for a still picture.
        size: Rows and columns.
        frame: Decodes one of them.
    """
    case_name = name.rpartition("/")[0] or name
    return Instance(
        study_id=case_name,
        series_id=case_name,
        patient_id=case_name,
        instance_uid=name,
        name=name,
        modality="US",
        transfer_syntax=kind,
        num_frames=num_frames,
        rows=size[0],
        columns=size[1],
        regions=(),
        facts=UltrasoundFacts(organ_hint=organ_from_text(case_name)),
        frame=frame,
    )
