"""Keyed hashes in place of identifiers: HMAC-SHA-256, key from ``SONOLOOP_PSEUDONYM_KEY``.

Without the key nobody can go from a hash back to a person, nor try identifiers against it.
"""

from __future__ import annotations

import hmac
import os

from pydantic import SecretStr

from sonoloop.platform.errors import ConfigError

KEY_VARIABLE = "SONOLOOP_PSEUDONYM_KEY"


def pseudonym_key() -> SecretStr:
    """The key from the environment.

    Raises:
        ConfigError: it is not set, or shorter than 16 characters.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < 16:
        raise ConfigError(
            f"{KEY_VARIABLE} must hold a secret of at least 16 characters; "
            "make one with `python -c 'import secrets; print(secrets.token_hex(32))'` and keep it"
        )
    return SecretStr(key)


def pseudonym(key: SecretStr, kind: str, identifier: str) -> str:
    """24 hex digits that stand for one identifier of one kind (``patient``, ``study``, ``reader``...)."""
    return hmac.digest(key.get_secret_value().encode(), f"{kind}\x00{identifier}".encode(), "sha256").hex()[
        :24
    ]
