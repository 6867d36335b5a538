"""From one archive object to one `InstanceRecord`: indexed with its key frames, or rejected."""

from __future__ import annotations

import io
import logging
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from sonoloop.platform.archive.deidentify.clean import DeidentifyConfig, clean_frames
from sonoloop.platform.archive.deidentify.png import encode_png
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.keyframes import choose_key_frames
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError, StorageError
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.records import CaseImage, InstanceRecord, content_id
from sonoloop.platform.workspace import ObjectInfo, Store

logger = logging.getLogger(__name__)


class IndexConfig(BaseModel):
    """How the archive is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key_frames: int = Field(default=2, ge=1, description="frames taken from one cine loop")
    max_images: int = Field(default=4, ge=1, description="images of one case, at most")
    max_object_bytes: int = Field(
        default=2**31, ge=1, description="a larger object is rejected before it is fetched"
    )
    batch_size: int = Field(default=16, ge=1, description="objects per task")
    deidentify: DeidentifyConfig = DeidentifyConfig()


def index_object(
    info: ObjectInfo, *, archive: Store, workspace: Store, config: IndexConfig, key: SecretStr, now: datetime
) -> InstanceRecord:
    """Read one object, write its de-identified key frames, and say what became of it.

    Never raises for a bad object: the rejection is the result.
    """
    name = info.uri.removeprefix(archive.uri_of()).lstrip("/")
    place = {"uri": info.uri, "etag": info.etag, "size_bytes": info.size_bytes, "indexed_at": now}
    try:
        data = _fetch(archive, info, max_bytes=config.max_object_bytes)
        instance = open_instance(io.BytesIO(data), name=name)
        images = _write_key_frames(instance, workspace=workspace, config=config, key=key)
    except RejectedError as err:
        return InstanceRecord(
            instance_id=content_id(info.uri, info.etag),
            status="rejected",
            reason=err.reason,
            detail=err.detail,
            retryable=err.retryable,
            **place,
        )
    return InstanceRecord(
        instance_id=_instance_id(instance, key),
        status="indexed",
        case_id=pseudonym(key, "study", instance.study_id),
        patient_key=pseudonym(key, "patient", instance.patient_id),
        organ_hint=instance.facts.organ_hint,
        scanner=instance.facts.scanner,
        images=images,
        modality=instance.modality,
        transfer_syntax=instance.transfer_syntax,
        num_frames=instance.num_frames,
        rows=instance.rows,
        columns=instance.columns,
        **place,
    )


def _fetch(archive: Store, info: ObjectInfo, *, max_bytes: int) -> bytes:
    if info.size_bytes > max_bytes:
        raise RejectedError(
            Reason.TOO_LARGE, f"{info.size_bytes} bytes, index.max_object_bytes is {max_bytes}"
        )
    try:
        return archive.read_path(info.uri.removeprefix("s3://"))
    except FileNotFoundError as err:
        raise RejectedError(Reason.STORAGE, "the object is gone, or its name is not UTF-8") from err
    except StorageError as err:
        raise RejectedError(Reason.STORAGE, "the object could not be fetched", retryable=True) from err


def _instance_id(instance: Instance, key: SecretStr) -> str:
    return pseudonym(key, "instance", instance.instance_uid)


def _write_key_frames(
    instance: Instance, *, workspace: Store, config: IndexConfig, key: SecretStr
) -> tuple[CaseImage, ...]:
    images = []
    chosen = choose_key_frames(instance.num_frames, config.key_frames, instance.frame)
    cleaned = clean_frames([instance.frame(index) for index in chosen], instance, config.deidentify)
    for index, frame in zip(chosen, cleaned.frames, strict=True):
        image_key, data = encode_png(frame)
        if not workspace.exists(image_key):
            workspace.write_bytes(data, image_key)
        images.append(
            CaseImage(
                image_key=image_key,
                instance_id=_instance_id(instance, key),
                frame_index=index,
                width=frame.shape[1],
                height=frame.shape[0],
            )
        )
    return tuple(images)
