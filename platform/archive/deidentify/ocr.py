"""Finding text in pixels and reading it: PP-OCRv6 detection and recognition, models from the rapidocr wheel.

The models run on onnxruntime with one thread, so that as many workers as cores do not fight. rapidocr's own
pipeline is left aside: it fetches missing models from the network, logs, reads text by text at a fixed width
of 320 columns (short marks take a third of that) and offers no batches. Its pre- and post-processing is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.errors import ConfigError

MAX_LONG_SIDE = 1600
"""The detector never sees more columns or rows: about 1 s and 600 MB on one core."""
HIGHEST_SHARE = 0.1
"""Of the picture's shorter side. What is found taller than this is looked at twice: it may be tissue."""
_HEIGHT, _MAX_WIDTH, _BATCH = 48, 1600, 8
"""What the recogniser takes: rows of one text, columns at most, and texts of like width at once."""


class Reading(NamedTuple):
    """What a text says, and the mean probability of its characters, 0..1."""

    text: str
    score: float


@dataclass(frozen=True)
class Found:
    """Where a text lies: its corners clockwise from the upper left, ``(4, 2)`` float32, x before y."""

    corners: NDArray[np.float32]

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; both ends inside."""
        (left, top), (right, bottom) = self.corners.min(axis=0), self.corners.max(axis=0)
        return int(left), int(top), int(right), int(bottom)

    @property
    def height(self) -> int:
        """Pixels across the text, whether it runs level or upright."""
        left, top, right, bottom = self.bounds
        return min(right - left, bottom - top) + 1


class TextReader:
    """Both models, loaded. `text_reader` gives the one of this process.

    Raises:
        ConfigError: the package rapidocr lies here without its models.
    """

    def __init__(self) -> None:
        from rapidocr.ch_ppocr_det.utils import DBPostProcess
        from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

        self._detector, self._recogniser = _session("PP-OCRv6_det_small"), _session("PP-OCRv6_rec_small")
        # Low thresholds: what is found for nothing costs a look, what is missed costs a name.
        self._levels = [
            DBPostProcess(thresh=level, box_thresh=score, unclip_ratio=1.6, use_dilation=True)
            for level, score in ((0.2, 0.35), (0.5, 0.5))
        ]
        characters = self._recogniser.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._decode = CTCLabelDecode(character=characters)

    def find(self, picture: Frame, scale: float) -> list[Found]:
        """Texts of any direction.

        Args:
            picture: ``(rows, columns, 3)``.
            scale: The detector looks at the picture enlarged by so much.
        """
        rows, columns = picture.shape[:2]
        scale = min(scale, MAX_LONG_SIDE / max(rows, columns))
        size = [max(32, round(side * scale / 32) * 32) for side in (columns, rows)]
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        values = cv2.resize(picture, size, interpolation=method).astype(np.float32) / 127.5 - 1
        probability = self._detector.run(None, {"x": values.transpose(2, 0, 1)[None].copy()})[0]
        low, high = (boxes(probability, (rows, columns))[0] for boxes in self._levels)
        found = [Found(np.asarray(one, dtype=np.float32)) for one in low]
        # On bare speckle the low level takes a field for one text; a text inside it stands out on the high.
        wide = [one for one in found if one.height > HIGHEST_SHARE * min(rows, columns)]
        inside = (Found(np.asarray(one, dtype=np.float32)) for one in high) if wide else ()
        return found + [one for one in inside if one.height <= HIGHEST_SHARE * min(rows, columns)]

    def read(self, picture: Frame, found: Sequence[Found]) -> list[Reading]:
        """What the texts of a picture say; those that run up or down are tried both ways."""
        from rapidocr.utils.process_img import get_rotate_crop_image

        crops = [np.ascontiguousarray(get_rotate_crop_image(picture, one.corners)) for one in found]
        readings = self._recognise(crops)
        turned = [i for i, one in enumerate(found) if _is_upright(one) and readings[i].score < 0.9]
        others = self._recognise([np.ascontiguousarray(crops[i][::-1, ::-1]) for i in turned])
        for index, other in zip(turned, others, strict=True):
            readings[index] = max(readings[index], other, key=lambda reading: reading.score)
        return readings

    def _recognise(self, crops: list[Frame]) -> list[Reading]:
        widths = [_columns(crop) for crop in crops]
        order = sorted(range(len(crops)), key=lambda index: widths[index])
        readings = [Reading("", 0.0)] * len(crops)
        while order:
            # Padding costs as much as text: only texts of nearly one width go together.
            batch = [index for index in order[:_BATCH] if widths[index] <= 1.25 * widths[order[0]]]
            del order[: len(batch)]
            inputs = np.zeros((len(batch), 3, _HEIGHT, widths[batch[-1]]), np.float32)
            for place, index in enumerate(batch):
                line = cv2.resize(crops[index], (widths[index], _HEIGHT), interpolation=cv2.INTER_CUBIC)
                inputs[place, :, :, : widths[index]] = line.transpose(2, 0, 1) / np.float32(127.5) - 1
            lines, _ = self._decode(self._recogniser.run(None, {"x": inputs})[0])
            for index, (text, score) in zip(batch, lines, strict=True):
                readings[index] = Reading(text, score)
        return readings


@cache
def text_reader() -> TextReader:
    """The reader of this process, loaded on the first call (0.3 s)."""
    return TextReader()


def _session(name: str) -> onnxruntime.InferenceSession:
    path = files("rapidocr") / "models" / f"{name}.onnx"
    if not path.is_file():
        raise ConfigError(
            f"the text recogniser's model {name} is missing; `pip install --force-reinstall rapidocr`"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _columns(crop: Frame) -> int:
    """Columns of the text brought to the recogniser's height, a multiple of its stride."""
    rows, columns = crop.shape[:2]
    return int(np.clip(-(-_HEIGHT * columns // rows // 16) * 16, _HEIGHT, _MAX_WIDTH))


def _is_upright(found: Found) -> bool:
    left, top, right, bottom = found.bounds
    return bottom - top > 1.5 * (right - left)
