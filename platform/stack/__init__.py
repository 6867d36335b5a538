"""The local stack of one machine: S3 (SeaweedFS), Label Studio and a Ray head, behind `start` and `stop`.

Linux only: a process is known by its ``/proc`` entry, so that a stale pid file harms nobody.
"""

from sonoloop.platform.stack.environment import StackInfo, environment, info
from sonoloop.platform.stack.labelstudio import LabelStudioConfig
from sonoloop.platform.stack.ray_head import RayConfig
from sonoloop.platform.stack.s3 import S3Config
from sonoloop.platform.stack.stack import Component, StackConfig, start, stop

__all__ = [
    "Component",
    "LabelStudioConfig",
    "RayConfig",
    "S3Config",
    "StackConfig",
    "StackInfo",
    "environment",
    "info",
    "start",
    "stop",
]
