"""What a picture looks like in four figures, and a bounded sample of a workspace's pictures in them.

| figure | what it is |
|---|---|
| filled | share of pixels that are not black |
| brightness | mean grey of these, 0..1 |
| contrast | standard deviation of grey of these, 0..1 |
| sharpness | log10 of 1 + the variance of the Laplacian of the picture |

Masks of de-identification are black, so they change ``filled`` alone, and ``sharpness`` a little. Source of
sharpness: Pech-Pacheco et al., Proc 15th ICPR 2000;3:314-317. A picture's name is its content, so its figures
are measured once: ``drift/pictures-1.parquet`` keeps those of the last sample.
"""

from __future__ import annotations

import heapq
import logging
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sonoloop.model.frames import decode_frame
from sonoloop.platform.archive.perceptual import as_grey
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.records import content_id
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

FIGURES = ("filled", "brightness", "contrast", "sharpness")
_FILE = "pictures-1.parquet"
_SCHEMA = pa.schema([("image_key", pa.string()), *((name, pa.float64()) for name in FIGURES)])
_BLACK = 8
"""Grey levels up to this are black: JPEG leaves some."""
_READ_AT_ONCE = 8


def figures_of(picture: NDArray[np.uint8]) -> dict[str, float]:
    """The figures of a picture, ``(H, W)`` or ``(H, W, 3)`` RGB, uint8."""
    grey = as_grey(picture)
    lit = grey[grey > _BLACK].astype(np.float64) / 255
    edges = cv2.Laplacian(grey, cv2.CV_64F)
    return {
        "filled": lit.size / grey.size,
        "brightness": float(lit.mean()) if lit.size else 0.0,
        "contrast": float(lit.std()) if lit.size else 0.0,
        "sharpness": float(np.log10(1 + edges.var())),
    }


class Sample:
    """A few pictures of each group, drawn by lot: the same ones for the same cases.

    Args:
        size: Of each group, at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._groups: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)

    def offer(self, group: tuple[str, str], case_id: str, image_key: str) -> None:
        """One of a group's pictures."""
        lot = (-int(content_id(case_id, length=12), 16), image_key)
        own = self._groups[group]
        if len(own) < self._size:
            heapq.heappush(own, lot)
        elif own and lot > own[0]:  # the lowest lots stay
            heapq.heapreplace(own, lot)

    def keys(self, group: tuple[str, str]) -> list[str]:
        """The image keys that were drawn of a group."""
        return [key for _, key in self._groups[group]]

    def groups(self) -> list[tuple[str, str]]:
        """Every group that has some."""
        return sorted(self._groups)


def measure(workspace: Store, image_keys: Iterable[str]) -> dict[str, dict[str, float]]:
    """The figures of pictures by key, those left out that are gone or cannot be decoded.

    Raises:
        StorageError: the workspace cannot be read or written.
    """
    wanted = sorted(set(image_keys))
    known = {row["image_key"]: row for row in _kept(workspace).to_pylist()}
    missing = [key for key in wanted if key not in known]
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        for key, found in zip(missing, pool.map(lambda key: _measured(workspace, key), missing), strict=True):
            if found is not None:
                known[key] = {"image_key": key, **found}
    rows = [known[key] for key in wanted if key in known]
    if len(rows) < len(wanted):
        logger.warning("%d pictures are gone or cannot be decoded", len(wanted) - len(rows))
    if missing:
        workspace.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), "drift", _FILE)
    return {row["image_key"]: {name: row[name] for name in FIGURES} for row in rows}


def _kept(workspace: Store) -> pa.Table:
    if not workspace.exists("drift", _FILE):
        return _SCHEMA.empty_table()
    return workspace.read_table(_SCHEMA, workspace.path("drift", _FILE))


def _measured(workspace: Store, image_key: str) -> dict[str, float] | None:
    try:
        return figures_of(decode_frame(workspace.read_bytes(image_key)))
    except (FileNotFoundError, RejectedError):
        return None
