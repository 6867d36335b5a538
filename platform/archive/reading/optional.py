"""Decoders under the GPL: optional, ``pip install 'sonoloop[gpl]'``. Without one its objects are rejections.

libjpeg (GPL-3.0) reads JPEG lossless in colour and JPEG of more than 8 bits; pillow-jxl (GPL-3.0-or-later)
reads JPEG XL.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from sonoloop.platform.errors import Reason, RejectedError

HAS_LIBJPEG = find_spec("libjpeg") is not None
HAS_JPEG_XL = find_spec("pillow_jxl") is not None
if HAS_JPEG_XL:
    import_module("pillow_jxl")  # Pillow learns JPEG XL by the import


def refuse_without(has_decoder: bool) -> None:
    """Refuse an object whose decoder is not installed.

    Raises:
        RejectedError: `UNREADABLE`; it may be tried again when the decoder is there.
    """
    if not has_decoder:
        raise RejectedError(
            Reason.UNREADABLE, "its decoder is not installed; pip install 'sonoloop[gpl]'", retryable=True
        )
