"""The parts of OpenAI's protocol that only a server speaks: models and files. The rest is shared."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from sonoloop.model.openai.errors import ApiError, bad_request, first_fault, refused

__all__ = [
    "ApiError",
    "FileDeleted",
    "FileList",
    "FileObject",
    "Health",
    "ModelCard",
    "ModelList",
    "bad_request",
    "first_fault",
    "refused",
]


class Health(BaseModel):
    """Body of ``GET /healthz``."""

    status: Literal["ok"] = "ok"


class ModelCard(BaseModel):
    """One model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of this server's start, seconds")
    owned_by: str = "sonoloop"


class ModelList(BaseModel):
    """Body of ``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class FileObject(BaseModel):
    """An uploaded image."""

    id: str
    object: Literal["file"] = "file"
    bytes: int = Field(description="size of the file that was sent")
    created_at: int = Field(description="Unix time, seconds")
    expires_at: int = Field(description="Unix time, seconds; nothing is left of it then")
    filename: Literal["image"] = Field(
        default="image", description="never the sender's name for it, which may name a patient"
    )
    purpose: Literal["vision"] = "vision"
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    """Body of ``GET /v1/files``."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """Body of ``DELETE /v1/files/{file_id}``."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
