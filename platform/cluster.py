"""Which Ray to use, and how it authenticates. Ray reads these variables when it is loaded: no import here."""

from __future__ import annotations

import os
import secrets

from pydantic import BaseModel, ConfigDict, Field


class RayConfig(BaseModel):
    """Ray where no cluster is named; a cluster is named by ``RAY_ADDRESS``, as everywhere in Ray."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_cpus: int = Field(default=4, ge=3, description="logical CPUs of a Ray of this process's own")


def joins_cluster() -> bool:
    """Whether this process joins a running Ray instead of starting one of its own."""
    return bool(os.environ.get("RAY_ADDRESS"))


def choose_authentication() -> None:
    """Say how Ray authenticates, unless the environment says so; to be called before Ray is imported.

    A Ray of our own listens on every interface (2.60), so it gets a token that nobody else has. A cluster
    that is joined without a token is taken to have none.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    if not joins_cluster():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"
