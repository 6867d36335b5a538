"""This machine: Python, packages, disk, memory, GPU, ports, and the environment's variables."""

from __future__ import annotations

import difflib
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sonoloop.jobs.config import Config
from sonoloop.jobs.doctoring.finding import Finding, ok, problem, warning
from sonoloop.platform.cluster import joins_cluster
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.identity import KEY_VARIABLE as PSEUDONYM
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.labelstudio.config import KEY_VARIABLE as STUDIO
from sonoloop.platform.labelstudio.config import api_key
from sonoloop.platform.registry.cache import cache_root

GIB = 2**30
LEAST_FREE, ENOUGH_FREE = 1 * GIB, 10 * GIB
LEAST_MEMORY = 4 * GIB
_LAST_PORT = 65_535
_VARIABLES = (
    "SONOLOOP_PSEUDONYM_KEY", "SONOLOOP_API_KEY", "SONOLOOP_CACHE_DIR", "SONOLOOP_LOG", "SONOLOOP_LOG_LEVEL",
    "SONOLOOP_LABELSTUDIO_VENV",
)  # fmt: skip


def python() -> Iterator[Finding]:
    """The interpreter, and every package that sonoloop wants."""
    wanted = SpecifierSet(metadata("sonoloop")["Requires-Python"] or "")
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.python_version() not in wanted:
        yield problem("python", "version", f"{found}, {wanted} is required", "make the environment with it")
    elif sys.platform != "linux":
        yield warning(
            "python", "version", found, "tested on Linux only; use a container or a virtual machine"
        )
    else:
        yield ok("python", "version", found)
    yield from _packages()


def _packages() -> Iterator[Finding]:
    wrong, num_right = [], 0
    for text in requires("sonoloop") or ():
        wanted = Requirement(text)
        is_extra = wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})
        try:
            has = version(wanted.name)
        except PackageNotFoundError:
            if not is_extra:
                wrong.append(f"{wanted.name} is missing")
            continue
        num_right += has in wanted.specifier
        if has not in wanted.specifier:
            wrong.append(f"{wanted.name} is {has}, {wanted.specifier} is required")
    if wrong:
        remedy = "install sonoloop and its extras anew from the wheel or the clone that it came from"
        yield problem("python", "packages", "; ".join(wrong), remedy)
    else:
        yield ok("python", "packages", f"{num_right} installed ones are of the versions that are required")


def machine(config: Config | None) -> Iterator[Finding]:
    """Room on the disks that are written to, and memory."""
    places = {"Ray's files": Path(tempfile.gettempdir()), "cache of models": cache_root()}
    if config is not None and "://" not in config.workspace:
        places["workspace"] = Path(config.workspace)
    for name, place in places.items():
        yield _disk(name, place)
    memory = _memory()
    text = f"{memory / GIB:.1f} GiB"
    if memory < LEAST_MEMORY:
        yield warning(
            "machine", "memory", text, "lower ray.num_cpus and annotate.cases_per_unit, or add memory"
        )
    else:
        yield ok("machine", "memory", text)


def _disk(name: str, place: Path) -> Finding:
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / GIB:.1f} GiB free for {place}"
    if free < LEAST_FREE:
        return problem("machine", f"disk, {name}", found, f"free some, or put {name} on another disk")
    if free < ENOUGH_FREE:
        return warning("machine", f"disk, {name}", found, "enough to try; models and images want tens of GiB")
    return ok("machine", f"disk, {name}", found)


def _memory() -> int:
    """Bytes of this machine, or what its container may have."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def gpu(config: Config | None) -> Iterator[Finding]:
    """What torch can compute on, against what the configuration asks for."""
    import torch

    build = f"torch {torch.__version__}"
    wants = config is not None and (config.annotate.gpus_per_actor > 0 or config.finetune.use_gpu)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count()))
        yield ok("gpu", "torch", f"{build} on {names}")
    elif wants and not joins_cluster():
        remedy = (
            "set annotate.gpus_per_actor = 0 and finetune.use_gpu = false, or join a cluster (RAY_ADDRESS)"
        )
        yield problem("gpu", "torch", f"{build} sees no GPU, the configuration asks for one", remedy)
    elif shutil.which("nvidia-smi"):
        remedy = "install a CUDA build of torch that fits the driver (nvidia-smi names it)"
        yield warning("gpu", "torch", f"{build} sees no GPU, though there is a driver", remedy)
    else:
        yield ok("gpu", "torch", f"{build} on the CPU")


def ports(config: Config | None) -> Iterator[Finding]:
    """Whether `sonoloop serve` may listen; its own section of the configuration says where."""
    serve = {} if config is None else config.serve
    host, port = str(serve.get("host", "127.0.0.1")), serve.get("port", 8000)
    if not (isinstance(port, int) and 1 <= port <= _LAST_PORT):
        yield problem("ports", "serve.port", "is no TCP port", f"name one from 1 to {_LAST_PORT}")
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as err:
            reason = err.strerror or "no such address"  # of names its numbers are not the system's
            remedy = "fine if that is `sonoloop serve`; else stop it, or change serve.port"
            yield warning("ports", f"{host}:{port}", f"cannot be listened on: {reason}", remedy)
        else:
            yield ok("ports", f"{host}:{port}", "free for `sonoloop serve`")


def environment() -> Iterator[Finding]:
    """Secrets that are asked for, and variables that look like ours and are not. Never a value."""
    for name, read, use in ((PSEUDONYM, pseudonym_key, "index"), (STUDIO, api_key, "push and pull")):
        try:
            read()
        except ConfigError as err:
            text, _, remedy = str(err).partition("; ")
            yield warning("environment", name, f"{text} ({use} will ask for it)", remedy)
        else:
            yield ok("environment", name, "is set")
    for name in sorted(os.environ):
        if name.startswith("SONOLOOP_") and not name.startswith("SONOLOOP__") and name not in _VARIABLES:
            near = difflib.get_close_matches(name, _VARIABLES, n=1)
            remedy = (
                f"did you mean {near[0]}?" if near else "unset it, or spell a setting SONOLOOP__SECTION__KEY"
            )
            yield warning("environment", name, "is read by nothing", remedy)
