"""What a model folder may hold: weights as safetensors, settings, tokenizer files, words; nothing that runs.

Pickled weights run what they hold when they are read, and ``auto_map`` lets a configuration name code to be
imported. Neither is ever used by our loaders; refusing both here keeps them out of the reach of others, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sonoloop.platform.errors import CheckpointError
from sonoloop.platform.registry.names import OURS

WEIGHTS = ".safetensors"
_PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_CODE = {".py", ".pyc", ".pyi", ".so", ".sh"}
_ALLOWED = {WEIGHTS, ".json", ".txt", ".jinja", ".md", ".model", ".yaml"}
_ALLOWED_NAMES = {"LICENSE", "NOTICE"}
_SETTINGS = "config.json"
"""What ends so may name code: ``config.json``, ``tokenizer_config.json``, ``generation_config.json``."""


def files_of_model(folder: Path) -> list[Path]:
    """The files that make a model, sorted by name; not what the registry writes, nor hidden ones.

    Raises:
        CheckpointError: no ``config.json``, a file of a kind that is not let in, settings that name code or
            cannot be read, weights that are cut short.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder.name} holds no config.json; expected a Hugging Face model folder")
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    files = sorted(path for path in files if path.name not in OURS)
    check_names(folder.name, (path.name for path in files))
    check_contents(folder.name, files)
    return files


def check_names(what: str, names: Iterable[str]) -> None:
    """Refuse files of a kind that is not let in.

    Args:
        what: The model, for the message.
        names: Of its files.

    Raises:
        CheckpointError: at the first one.
    """
    for name in names:
        suffix = Path(name).suffix.lower()
        if suffix in _PICKLED:
            raise CheckpointError(
                f"{what} holds {name}, a pickle or the like; only safetensors are let in: remove it"
            )
        if suffix in _CODE:
            raise CheckpointError(f"{what} holds {name}; models bring no code here: remove it")
        if suffix not in _ALLOWED and name not in _ALLOWED_NAMES:
            raise CheckpointError(
                f"{what} holds {name}; expected {', '.join(sorted(_ALLOWED))} files: remove it"
            )


def check_contents(what: str, files: Iterable[Path]) -> None:
    """Refuse settings that name code, and weights that are not whole safetensors.

    Raises:
        CheckpointError: at the first one.
    """
    for path in files:
        if path.name.endswith(_SETTINGS):
            _check_settings(what, path)
        elif path.suffix == WEIGHTS:
            _check_weights(what, path)


def _check_settings(what: str, path: Path) -> None:
    try:
        settings = json.loads(path.read_bytes())
    except ValueError as err:
        raise CheckpointError(f"{path.name} of {what} is no JSON; copy it again") from err
    if any(found.get("auto_map") for found in _objects(settings)):
        raise CheckpointError(
            f"{path.name} of {what} names code to import (auto_map); models bring no code here: remove it"
        )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(inner)


def _check_weights(what: str, path: Path) -> None:
    """By the header alone: it says how long the file must be."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as err:
        raise CheckpointError(f"{path.name} of {what} is cut short or no safetensors; copy it again") from err
