"""Images of conversations on their way into the workspace: only de-identified, as those of the archive."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from sonoloop.platform.archive.deidentify.clean import clean_frames
from sonoloop.platform.archive.deidentify.png import encode_png
from sonoloop.platform.archive.objects.ranged import store_faults
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.workspace import ObjectInfo, Store


@dataclass(frozen=True)
class PictureImporter:
    """Brings pictures of a folder or S3 prefix into the workspace; each name is read once."""

    workspace: Store
    root: Store
    config: IndexConfig
    _known: dict[str, str | RejectedError] = field(default_factory=dict, repr=False)

    @cached_property
    def _objects(self) -> ArchiveReader:
        return ArchiveReader(self.root, self.config)

    def bring(self, name: str) -> str:
        """Store a picture by its content, cleaned; gives its workspace key.

        Args:
            name: Path below the root.

        Raises:
            RejectedError: ``IMAGE_MISSING``, it is not there or not below the root; ``PHI_SUSPECTED``, it
                cannot be shown clean; or what reading an object of the archive raises.
            StorageError: no object can be had, or the workspace cannot be written.
        """
        if name not in self._known:
            try:
                self._known[name] = self._bring(name)
            except RejectedError as err:
                self._known[name] = err
        found = self._known[name]
        if isinstance(found, RejectedError):
            raise found
        return found

    def _bring(self, name: str) -> str:
        info = ObjectInfo(self._uri(name), -1, "")
        try:
            with self._objects.open(info) as file, store_faults(file):
                instance = open_instance(cast(BinaryIO, file), name=name)
                if instance.num_frames != 1:
                    raise RejectedError(
                        Reason.NOT_AN_IMAGE, f"expected one picture, found a loop of {instance.num_frames}"
                    )
                cleaned = clean_frames([instance.frame(0)], instance, self.config.deidentify)
        except RejectedError as err:
            if err.reason is Reason.STORAGE and not err.retryable:
                raise RejectedError(Reason.IMAGE_MISSING, "an image is not below --images") from None
            raise
        key, data = encode_png(cleaned.frames[0])
        if not self.workspace.exists(key):
            self.workspace.write_bytes(data, key)
        return key

    def _uri(self, name: str) -> str:
        path = PurePosixPath(name)
        outside = RejectedError(Reason.IMAGE_MISSING, "an image's path leads out of --images")
        if path.is_absolute() or ".." in path.parts or "://" in name or "\x00" in name:
            raise outside
        if not self.root.is_s3:
            with suppress(OSError):
                if not Path(self.root.root, name).resolve().is_relative_to(Path(self.root.root).resolve()):
                    raise outside
        return self.root.uri_of(str(path))
