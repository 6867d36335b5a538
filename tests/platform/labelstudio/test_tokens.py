"""Both kinds of key on a real server: personal access tokens, and legacy tokens where they are allowed."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.http import Connection

pytestmark = pytest.mark.labelstudio


def test_a_personal_access_token_works(stack_labelstudio) -> None:
    with Connection(stack_labelstudio.url, SecretStr(stack_labelstudio.api_key), timeout_s=120) as connection:
        assert connection.get("/api/current-user/whoami")["email"] == stack_labelstudio.username


def test_a_legacy_token_works_where_the_organisation_allows_it_and_is_refused_otherwise(
    stack_labelstudio,
) -> None:
    with stack_labelstudio.http() as http:
        settings = http.get("/api/jwt/settings").json()
        legacy = SecretStr(http.get("/api/current-user/token").json()["token"])
        try:
            allowed = {**settings, "legacy_api_tokens_enabled": True}
            http.post("/api/jwt/settings", json=allowed).raise_for_status()
            with Connection(stack_labelstudio.url, legacy, timeout_s=120) as connection:
                assert connection.get("/api/current-user/whoami")["email"] == stack_labelstudio.username
        finally:
            http.post("/api/jwt/settings", json={**settings, "legacy_api_tokens_enabled": False})
        with (
            Connection(stack_labelstudio.url, legacy, timeout_s=120) as connection,
            pytest.raises(ServiceError, match="refuses the key"),
        ):
            connection.get("/api/current-user/whoami")
