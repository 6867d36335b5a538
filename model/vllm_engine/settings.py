"""What has to be known before vLLM is imported; imports neither it nor torch."""

from __future__ import annotations

import importlib.util
import os

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: ours; a second would load torch again
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # a model is a folder; nothing is looked up elsewhere
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # bound, all engines of a machine would share the same cores
    "VLLM_LOGGING_LEVEL": "ERROR",  # on CPU it warns at every call about things that are as intended
}


def is_available() -> bool:
    """Whether vLLM (or its CPU build, which has the same import name) is installed; imports nothing."""
    return importlib.util.find_spec("vllm") is not None


def prepare_environment() -> None:
    """Set what vLLM reads when it is imported; what the user has set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
