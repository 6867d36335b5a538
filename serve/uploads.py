"""Uploaded images: pixels in this door's memory, for a while, each for the key that brought it.

Nothing is written to a disk. A file's name and whatever else it holds beside its pixels are forgotten at
once, since they may name a patient. Another door, or this one after a restart, knows nothing of an upload:
its asker is told so (404) and uploads again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from http import HTTPStatus

from PIL import Image

from sonoloop.model.openai.images import FILE_PREFIX
from sonoloop.serve.config import UploadsConfig
from sonoloop.serve.protocol import ApiError, FileObject


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """An image that is kept.

    Attributes:
        owner: Name of the key that brought it.
        about: What is told of it.
        picture: Mode RGB.
    """

    owner: str
    about: FileObject
    picture: Image.Image

    @property
    def num_bytes(self) -> int:
        """What the pixels take."""
        return 3 * self.picture.width * self.picture.height


class Uploads:
    """All uploads of one door. Belongs to one event loop; only `picture` may be called elsewhere.

    Args:
        config: How many, how large, how long.
    """

    def __init__(self, config: UploadsConfig) -> None:
        self._config = config
        self._kept: dict[str, Upload] = {}

    def put(self, owner: str, picture: Image.Image, num_bytes: int) -> FileObject:
        """Keep a picture for its time.

        Args:
            owner: Name of the key that brings it.
            picture: Mode RGB.
            num_bytes: Size of the file that it was.

        Raises:
            ApiError: 429, there is no room; the oldest upload goes at the time that is told.
        """
        now = time.time()
        about = FileObject(
            id=f"{FILE_PREFIX}{secrets.token_hex(16)}",
            bytes=num_bytes,
            created_at=int(now),
            expires_at=int(now + self._config.keep_s),
        )
        upload = Upload(owner, about, picture)
        self._check_room(upload)
        self._kept[about.id] = upload
        asyncio.get_running_loop().call_later(self._config.keep_s, self._kept.pop, about.id, None)
        return about

    def of(self, owner: str) -> list[FileObject]:
        """What a key has here, oldest first."""
        return [upload.about for upload in self._kept.values() if upload.owner == owner]

    def get(self, owner: str, file_id: str) -> FileObject:
        """What is known of an upload.

        Raises:
            ApiError: 404; not here, no longer, or another key's.
        """
        found = self._kept.get(file_id)
        if found is None or found.owner != owner:
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                "no such upload of this key is here, or no longer",
                code="file_not_found",
                param="file_id",
            )
        return found.about

    def delete(self, owner: str, file_id: str) -> None:
        """Forget an upload.

        Raises:
            ApiError: as of `get`.
        """
        self.get(owner, file_id)
        del self._kept[file_id]

    def picture(self, owner: str, file_id: str) -> Image.Image | None:
        """An upload's picture; None where this key has none of that id."""
        found = self._kept.get(file_id)
        return found.picture if found is not None and found.owner == owner else None

    def _check_room(self, upload: Upload) -> None:
        mine = [other for other in self._kept.values() if other.owner == upload.owner]
        for found, most, what in (
            (1 + len(mine), self._config.max_files, "images of one key"),
            (_num_bytes(upload, *mine), self._config.max_bytes, "bytes of pixels of one key"),
            (_num_bytes(upload, *self._kept.values()), self._config.max_total_bytes, "bytes of all pixels"),
        ):
            if found > most:
                oldest = next(iter(mine or self._kept.values()))
                raise ApiError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"expected at most {most} {what} at once, this would make {found}; delete some",
                    code="uploads_full",
                    param="file",
                    retry_after_s=max(1, oldest.about.expires_at - int(time.time())),
                )


def _num_bytes(*uploads: Upload) -> int:
    return sum(upload.num_bytes for upload in uploads)
