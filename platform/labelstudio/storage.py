"""Where Label Studio finds a project's images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from sonoloop.platform.labelstudio.config import LabelStudioConfig

STORAGE_TITLE = "sonoloop images"
"""By this title our storage is known among a project's."""
# A person who presses "Sync" on the storage would otherwise get one task per image.
_SYNC_NOTHING = "^$"


@dataclass(frozen=True)
class ImageStorage:
    """The S3 place from which Label Studio shows images; without keys it uses its own role."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    session_token: SecretStr | None = None

    def body(self, config: LabelStudioConfig) -> dict[str, Any]:
        """As Label Studio's storage API takes it, keys in the clear."""
        secrets = {
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "aws_session_token": self.session_token,
        }
        return {
            "title": STORAGE_TITLE,
            "bucket": self.bucket,
            "prefix": self.prefix,
            "s3_endpoint": config.s3_endpoint or self.endpoint,
            "region_name": self.region,
            "regex_filter": _SYNC_NOTHING,
            "use_blob_urls": True,
            "presign": config.presign,
            "presign_ttl": config.presign_minutes,
            **{name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None},
        }
