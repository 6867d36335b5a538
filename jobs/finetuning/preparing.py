"""The CPU stage of training: fetch the images of a micro-batch and cut them into patches, without torch."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from sonoloop.jobs.annotating.patience import Patience
from sonoloop.jobs.finetuning.inputs import TrainingCase, read_inputs
from sonoloop.model.frames import Rgb, decode_frame
from sonoloop.model.patches import PatchCutter
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.platform import registry
from sonoloop.platform.errors import RejectedError, StorageError
from sonoloop.platform.workspace import Store

PREPARED = pa.schema([("prepared", pa.binary())])
"""A micro-batch on its way: a pickled list of `PreparedCase`."""
FETCHED_AT_ONCE = 8


class Preparer:
    """Fetches the images of a micro-batch's cases and makes them ready for the model.

    Args:
        workspace: Where images lie.
        run_id: Whose input names them.
        base: The model that will read them.
        max_pixels: As `PatchCutter.from_folder`.
        patience_s: Seconds that the store may be away.
    """

    def __init__(
        self, workspace: Store, run_id: str, base: str, max_pixels: int | None, patience_s: float
    ) -> None:
        self._workspace, self._patiently = workspace, Patience(patience_s)
        self._cases = self._patiently(read_inputs, workspace, run_id)
        folder = self._patiently(registry.fetch, workspace, base)
        self._cutter = PatchCutter.from_folder(folder, max_pixels=max_pixels)
        self._fetchers = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Lists of indices in, one row of `PREPARED` for each."""
        rows = [
            pickle.dumps([self._case(self._cases[index]) for index in examples], pickle.HIGHEST_PROTOCOL)
            for examples in batch["examples"].to_pylist()
        ]
        return pa.table({"prepared": rows}, schema=PREPARED)

    def _case(self, case: TrainingCase) -> PreparedCase:
        try:
            images = tuple(self._fetchers.map(self._image, case.image_keys))
            taken = CaseInput(case.case_id, images, case.organ_hint, image_indices=case.image_indices)
            return prepare(self._cutter, taken, max_images=None)  # the choice is made
        except (RejectedError, FileNotFoundError) as err:
            reason = str(err.reason) if isinstance(err, RejectedError) else "image-missing"
            raise StorageError(
                f"an image of case {case.case_id} cannot be read ({reason}), and a snapshot with gaps is not "
                "trained on; restore it, or run `sonoloop index` again, then the same command goes on"
            ) from err

    def _image(self, key: str) -> Rgb:
        return decode_frame(self._patiently(self._workspace.read_bytes, key))
