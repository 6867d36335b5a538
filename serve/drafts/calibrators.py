"""The calibrator that belongs to a draft."""

from __future__ import annotations

from sonoloop.model.calibration import Calibrator
from sonoloop.platform.workspace import Store


def calibrator_of(workspace: Store, version: str, prompt_version: str) -> Calibrator | None:
    """The version's calibrator where it fits its prompts, so that scores are those of `sonoloop push`.

    Args:
        workspace: Where models lie.
        version: ``<name>/<version>``.
        prompt_version: Of the drafts.

    Raises:
        StorageError: the workspace does not answer.
    """
    name, _, number = version.partition("/")
    try:
        data = workspace.read_bytes("models", name, number, "calibration.json")
    except FileNotFoundError:
        return None
    found = Calibrator.model_validate_json(data)
    return found if found.prompt_version == prompt_version else None
