"""What push and pull share: the project of a workspace, and the storage its images come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from pydantic import SecretStr

from sonoloop.jobs.config import Config
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.labelstudio.answers import Project
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import api_key, configured_page
from sonoloop.platform.labelstudio.storage import ImageStorage
from sonoloop.platform.workspace import Store


@contextmanager
def open_project(config: Config) -> Iterator[tuple[LabelStudioDoor, Project]]:
    """The door, and the project with its page.

    Raises:
        ConfigError: no API key.
        ServiceError: Label Studio does not answer or refuses.
    """
    with LabelStudioDoor(config.labelstudio, api_key()) as door:
        yield door, door.ensure_project(config.labelstudio.project, configured_page(config.labelstudio))


def image_storage(workspace: Store) -> ImageStorage:
    """The workspace's images, as Label Studio reaches them, with this job's own S3 keys.

    Raises:
        ConfigError: the workspace is a local folder.
    """
    if not workspace.is_s3:
        raise ConfigError(
            "Label Studio shows images from S3; push needs a workspace on S3, not a local folder"
        )
    bucket, prefix = workspace.bucket_and_prefix
    keys = boto3.Session().get_credentials()
    return ImageStorage(
        bucket=bucket,
        prefix="/".join(part for part in (prefix, "images") if part),
        endpoint=workspace.s3.resolved_endpoint(),
        region=workspace.s3.resolved_region(),
        access_key=SecretStr(keys.access_key) if keys else None,
        secret_key=SecretStr(keys.secret_key) if keys else None,
        session_token=SecretStr(keys.token) if keys and keys.token else None,
    )
