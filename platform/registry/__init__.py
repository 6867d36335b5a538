"""The model registry: ``models/<name>/<version>/`` in the workspace, and aliases changed by conditional put.

A version is a Hugging Face folder with ``lineage.json``, a model card and ``manifest.json`` (file name to
SHA-256); its version string is the hash of that manifest, so one set of weights has one name. A model version
is written ``<name>/<version>``.
"""

from __future__ import annotations

from sonoloop.platform.registry.aliases import (
    Alias,
    AliasChange,
    Aliases,
    Span,
    alias_changes,
    champion_at,
    read_aliases,
    resolve,
    set_aliases,
    spans_of,
)
from sonoloop.platform.registry.beside import base_of, read_evaluations, read_lineage, read_object
from sonoloop.platform.registry.card import write_card
from sonoloop.platform.registry.names import ModelConfig, place_of
from sonoloop.platform.registry.retiring import Retired, read_retired, retire, weights_left
from sonoloop.platform.registry.versions import (
    check_available,
    fetch,
    is_version,
    model_versions,
    publish,
    read_manifest,
)

__all__ = [
    "Alias",
    "AliasChange",
    "Aliases",
    "ModelConfig",
    "Retired",
    "Span",
    "alias_changes",
    "base_of",
    "champion_at",
    "check_available",
    "fetch",
    "is_version",
    "model_versions",
    "place_of",
    "publish",
    "read_aliases",
    "read_evaluations",
    "read_lineage",
    "read_manifest",
    "read_object",
    "read_retired",
    "resolve",
    "retire",
    "set_aliases",
    "spans_of",
    "weights_left",
    "write_card",
]
