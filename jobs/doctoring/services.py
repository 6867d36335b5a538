"""Label Studio, Ray and the model: each asked the way that the loop asks it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sonoloop.jobs.config import Config
from sonoloop.jobs.doctoring.finding import Finding, ok, problem, warning
from sonoloop.model.checkpoint import load_model
from sonoloop.platform import registry
from sonoloop.platform.cluster import joins_cluster
from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import KEY_VARIABLE, api_key, configured_page
from sonoloop.platform.labelstudio.page import page_hash
from sonoloop.platform.stack import info as stack_of
from sonoloop.platform.stack import postgres
from sonoloop.platform.workspace import store_of

STUDIO, RAY, MODEL = "label studio", "ray", "model"
TESTED_STUDIO = "1.23"
_KEY_REMEDY = (
    f"make a personal access token under Account & Settings, export it as {KEY_VARIABLE}; if it worked "
    "before a restart, the server's SECRET_KEY changed (one with $ in front does): give it a hexadecimal one"
)
LARGEST_FETCH = 2**30
"""Bytes of a model that is fetched to see whether it loads; of a larger one only the files are looked for."""
RAY_LIMIT_S = 40
_STACK = Path(".sonoloop")


def label_studio(config: Config) -> Iterator[Finding]:
    """Version, key, project and page, database."""
    quick = config.labelstudio.model_copy(update={"timeout_s": 10.0, "patience_s": 0.0})
    try:
        key = api_key()
    except ConfigError as err:
        yield problem(STUDIO, "key", str(err).partition(";")[0], _KEY_REMEDY)
        return
    with LabelStudioDoor(quick, key) as door:
        try:
            release = str(door.connection.get("/api/version").get("release", "unknown"))
        except ServiceError as err:
            yield _studio_fault(err, "start it, or correct labelstudio.url")
            return
        yield _release(release)
        try:
            yield from _project(config, door)
            yield from _tokens(door)
        except ServiceError as err:
            yield _studio_fault(
                err, "look into the server's own log; is its database there, is it overloaded?"
            )
    yield from _local_server(config)


def _studio_fault(err: ServiceError, remedy: str) -> Finding:
    text, _, _ = str(err).partition(";")
    if "refuses the key" in text:
        return problem(STUDIO, "key", text, _KEY_REMEDY)
    return problem(STUDIO, "answer", text, remedy)


def _release(release: str) -> Finding:
    if release.startswith(TESTED_STUDIO):
        return ok(STUDIO, "version", release)
    return warning(
        STUDIO, "version", release, f"sonoloop is tested with {TESTED_STUDIO}; try a small push first"
    )


def _project(config: Config, door: LabelStudioDoor) -> Iterator[Finding]:
    title, page = config.labelstudio.project, configured_page(config.labelstudio)
    found = door.find_project(title)
    yield ok(STUDIO, "key", "is accepted")
    if found is None:
        yield ok(STUDIO, "project", f"{title!r} is not there yet; push makes it")
        return
    if page_hash(page) in (found.description or ""):
        yield ok(STUDIO, "project", f"{title!r} has the configured page")
    else:
        remedy = "push renews the page; where it has fields fewer than before, choose another project title"
        yield warning(STUDIO, "project", f"{title!r} has another page than the configured one", remedy)

    settings = door.connection.get(f"/api/projects/{found.id}/")
    if not settings.get("show_collab_predictions"):
        remedy = "turn on `use predictions to prelabel tasks` in the project's settings, Annotation"
        yield warning(STUDIO, "drafts", "readers start from empty pages", remedy)


def _tokens(door: LabelStudioDoor) -> Iterator[Finding]:
    """Which kinds of key the server takes; only its owner may see that."""
    try:
        settings = door.connection.get("/api/jwt/settings")
    except ServiceError:
        return
    if settings.get("legacy_api_tokens_enabled"):
        remedy = "turn them off under Organization, API Tokens Settings, and make personal ones"
        yield warning(STUDIO, "tokens", "legacy tokens, which never expire, are accepted", remedy)
    else:
        yield ok(STUDIO, "tokens", "personal ones only")


def _local_server(config: Config) -> Iterator[Finding]:
    """Of a server of `sonoloop up` also what no API tells."""
    try:
        is_ours = stack_of(_STACK).labelstudio_url == config.labelstudio.url.rstrip("/")
    except ConfigError:
        is_ours = False
    if not is_ours:
        yield ok(STUDIO, "database", "cannot be seen from here; several readers want PostgreSQL, not SQLite")
        return
    if postgres.database_file(_STACK).exists():
        yield ok(STUDIO, "database", "PostgreSQL")
    else:
        yield warning(
            STUDIO,
            "database",
            "SQLite",
            "enough for one reader; for several `sonoloop up --database postgresql`",
        )
    secret = _STACK / "labelstudio" / ".env"
    if secret.exists() and "SECRET_KEY=$" in secret.read_text():
        yield problem(
            STUDIO, "SECRET_KEY", f"begins with $ in {secret}", "replace it by `openssl rand -hex 32`"
        )


_RAY_PROGRAM = """
import json, logging, sys
import ray
address, num_cpus = json.loads(sys.argv[1])
ray.init(address=address, num_cpus=num_cpus, log_to_driver=False, logging_level=logging.ERROR,
         include_dashboard=None if num_cpus is None else False)
nodes = [node for node in ray.nodes() if node["Alive"]]
print(json.dumps({"nodes": len(nodes), "resources": ray.cluster_resources(),
                  "answer": ray.get(ray.remote(num_cpus=0)(lambda: 42).remote())}))
"""


def ray_answers(config: Config | None) -> Iterator[Finding]:
    """Starts a Ray, or joins the one that is named, in a process that can be ended, and runs a task there."""
    joins, num_cpus = joins_cluster(), 4 if config is None else config.ray.num_cpus
    arguments = json.dumps([None, None] if joins else ["local", num_cpus])
    place = f"the Ray at {os.environ['RAY_ADDRESS']}" if joins else "a Ray of its own"
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _RAY_PROGRAM, arguments], stdout=out, stderr=err, start_new_session=True
        )
        try:
            code = process.wait(RAY_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            remedy = "check RAY_ADDRESS and that its port can be reached" if joins else "look into /tmp/ray"
            yield problem(RAY, "start", f"{place} does not answer within {RAY_LIMIT_S} s", remedy)
            return
        out.seek(0)
        err.seek(0)
        said, told = out.read().decode(), err.read().decode(errors="replace")
    yield _ray_finding(place, code, said, told)
    if joins and os.environ.get("RAY_AUTH_MODE") == "disabled":
        remedy = "start the cluster with RAY_AUTH_MODE=token, and give jobs RAY_AUTH_TOKEN_PATH"
        yield warning(RAY, "auth", f"{place} is asked without a token", remedy)
    else:
        yield ok(RAY, "auth", "by token")


def _ray_finding(place: str, code: int, said: str, told: str) -> Finding:
    if code == 0:
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        cpus, gpus = (found["resources"].get(name, 0) for name in ("CPU", "GPU"))
        return ok(RAY, "start", f"{place}: {found['nodes']} nodes, {cpus:g} CPUs, {gpus:g} GPUs; a task ran")
    if re.search(r"[Aa]uthentication|\b[Tt]oken", told):
        remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
        return problem(RAY, "start", f"{place} refuses the token", remedy)
    if re.search("[Vv]ersion mismatch", told):
        return problem(
            RAY, "start", f"{place} has another version", "install the cluster's versions of ray and Python"
        )
    return problem(
        RAY, "start", f"{place} does not start or answer", "run `python -c 'import ray; ray.init()'`"
    )


def model(config: Config) -> Iterator[Finding]:
    """The champion: named, whole, right by hash, and of a shape that loads."""
    workspace, name = store_of(config.workspace, config.s3), config.model.name
    workspace.check()
    champion = registry.read_aliases(workspace, name).champion
    if champion is None:
        yield problem(MODEL, "champion", f"{name} has none", "run `sonoloop init`")
        return
    registry.check_available(workspace, champion)
    size = sum(max(0, found.size_bytes) for found in workspace.list_objects(f"models/{champion}"))
    yield ok(MODEL, "champion", f"{champion}, {size / 2**20:.0f} MiB")
    if size > LARGEST_FETCH:
        yield ok(MODEL, "files", "are there; too large to be fetched for a look")
        return
    load_model(registry.fetch(workspace, champion), device="meta")
    yield ok(MODEL, "files", "are right by hash, and load")
