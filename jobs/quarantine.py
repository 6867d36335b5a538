"""``sonoloop quarantine``: what could not be shown clean; look at it, let it out or keep it in."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import typer
from PIL import Image
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.platform.archive.archived import ArchivedInstances
from sonoloop.platform.archive.deidentify.clean import RULES_VERSION
from sonoloop.platform.archive.deidentify.masks import Box
from sonoloop.platform.archive.deidentify.quarantine import (
    MAX_NOTE,
    Keep,
    Release,
    decide,
    person,
    read_decisions,
)
from sonoloop.platform.archive.deidentify.showing import outlined
from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.errors import ConfigError, Reason
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.sorted_rooms import FRAMES, INSTANCES, stream
from sonoloop.platform.workspace import Store

T = TypeVar("T")


class Action(StrEnum):
    """What to do with the quarantine."""

    LIST = "list"
    SHOW = "show"
    RELEASE = "release"
    KEEP = "keep"


class Waiting(BaseModel):
    """An instance whose pixels were rejected as suspected of patient data."""

    instance_id: str
    case_id: str
    detail: str
    since: datetime
    decision: str = "none"


class Shown(BaseModel):
    """Where the picture lies, and how many places of it are outlined, by why."""

    instance_id: str
    out: str
    frame_index: int
    num_frames: int
    places: dict[str, int]


class Decided(BaseModel):
    """A decision that was written."""

    instance_id: str
    verdict: str
    by: str
    masks: int = 0


def quarantine(
    action: Annotated[Action, typer.Argument(help="list, show, release or keep.")],
    instance: Annotated[str | None, typer.Argument(help="Instance id, as listed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="show: PNG file to write; it may show patient data.")
    ] = None,
    frame: Annotated[int, typer.Option(min=0, help="show: frame of a loop, from 0.")] = 0,
    by: Annotated[
        str | None, typer.Option(help="release, keep: who decides; stored as a keyed hash.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(help="release: LEFT,TOP,RIGHT,BOTTOM in pixels to blacken; repeatable."),
    ] = None,
    note: Annotated[str, typer.Option(help="release, keep: why; nothing of the patient.")] = "",
    config: ConfigOption = "sonoloop.toml",
    json: JsonOption = False,
) -> None:
    """List what waits; show one to somebody who may see it; let it out or keep it in."""
    settings, action = load_config(config), Action(action)
    if action is Action.LIST:
        _print(run_list(settings), as_json=json)
        return
    if instance is None:
        raise ConfigError(
            f"`sonoloop quarantine {action}` needs an instance id; see `sonoloop quarantine list`"
        )
    summary: BaseModel
    if action is Action.SHOW:
        summary = run_show(settings, instance, _wanted(out, "--out"), frame_index=frame)
    elif action is Action.RELEASE:
        masks = tuple(map(_box, mask or ()))
        summary = run_release(settings, instance, by=_wanted(by, "--by"), masks=masks, note=note)
    else:
        summary = run_keep(settings, instance, by=_wanted(by, "--by"), note=note)
    show(summary, title=f"quarantine {action}", as_json=json)


def run_list(config: Config) -> list[Waiting]:
    """What is rejected as phi-suspected, oldest first, with what people decided about it since.

    Raises:
        StorageError: the workspace cannot be reached.
    """
    workspace = config.open_workspace()
    rows = _rejected(workspace)
    etags = {row.instance_id: row.etag for row in _instances(workspace, list(rows))}
    decisions = read_decisions(workspace)
    found = []
    for row in sorted(rows.values(), key=lambda row: row.prepared_at):
        decision = decisions.get(row.instance_id)
        is_of_this = decision is not None and decision.etag == etags.get(row.instance_id)
        found.append(
            Waiting(
                instance_id=row.instance_id,
                case_id=row.case_id,
                detail=row.detail or "",
                since=row.prepared_at,
                decision=decision.verdict if decision is not None and is_of_this else "none",
            )
        )
    return found


def run_show(config: Config, instance_id: str, out: Path, *, frame_index: int = 0) -> Shown:
    """Fetch an instance from the archive and write one frame of it, suspicious places outlined.

    Raises:
        ConfigError: no such instance or frame, or the file would lie in the workspace.
        RejectedError: the instance cannot be read.
        StorageError: archive or workspace cannot be reached.
    """
    workspace = config.open_workspace()
    if not workspace.is_s3 and out.absolute().is_relative_to(workspace.root):
        raise ConfigError(
            "the picture may show patient data and must not lie in the workspace; another --out"
        )
    if out.exists():
        raise ConfigError(f"{out} exists; another --out")
    row = _instance(workspace, instance_id)
    opened = ArchivedInstances(config.open_archive(), config.index, pseudonym_key())
    with opened.open(row) as instance:
        if frame_index >= instance.num_frames:
            raise ConfigError(f"--frame {frame_index}: the instance has {instance.num_frames}, from 0")
        picture, masks = outlined(instance, frame_index)
        num_frames = instance.num_frames
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        Image.fromarray(picture).save(file, format="PNG")
    typer.echo(f"{out} may show patient data; delete it when you have decided", err=True)
    whys = [mask.why for mask in masks]
    return Shown(
        instance_id=instance_id,
        out=str(out),
        frame_index=frame_index,
        num_frames=num_frames,
        places={why: whys.count(why) for why in sorted(set(whys))},
    )


def run_release(
    config: Config, instance_id: str, *, by: str, masks: tuple[Box, ...] = (), note: str = ""
) -> Decided:
    """Let an instance out in the version that is indexed; the next ``sonoloop index`` prepares it.

    Raises:
        ConfigError: no such instance waits.
        ConflictError: somebody else decided in between.
        StorageError: the workspace cannot be reached.
    """
    workspace = config.open_workspace()
    if instance_id not in _rejected(workspace):
        raise ConfigError(f"no instance {instance_id} waits; see `sonoloop quarantine list`")
    release = Release(**_about(workspace, instance_id, by=by, note=note), masks=masks)
    decide(workspace, release)
    return Decided(instance_id=instance_id, verdict=release.verdict, by=release.by, masks=len(masks))


def run_keep(config: Config, instance_id: str, *, by: str, note: str = "") -> Decided:
    """Keep an instance in; takes back an earlier release for the runs to come.

    Raises:
        ConfigError: no such instance.
        ConflictError: somebody else decided in between.
        StorageError: the workspace cannot be reached.
    """
    workspace = config.open_workspace()
    keep = Keep(**_about(workspace, instance_id, by=by, note=note))
    decide(workspace, keep)
    return Decided(instance_id=instance_id, verdict=keep.verdict, by=keep.by)


def _about(workspace: Store, instance_id: str, *, by: str, note: str) -> dict[str, Any]:
    """What every decision says: on which version of which instance, by whom, under which rules, and when."""
    return {
        "instance_id": instance_id,
        "etag": _instance(workspace, instance_id).etag,
        "by": person(pseudonym_key(), by),
        "note": _checked(note),
        "rules_version": RULES_VERSION,
        "at": datetime.now(UTC),
    }


def _rejected(workspace: Store) -> dict[str, FrameRecord]:
    """The instances whose pixels are rejected as suspected of patient data, by id."""
    found: dict[str, FrameRecord] = {}
    for table in stream(workspace, FRAMES):
        rows = table.filter(pc.equal(table["reason"], Reason.PHI_SUSPECTED.value)).to_pylist()
        found |= {row["instance_id"]: FrameRecord.from_row(row) for row in rows}
    return found


def _instances(workspace: Store, instance_ids: list[str]) -> list[InstanceRecord]:
    """The rows of these instances; of one that is stored more than once, the first by URI counts."""
    found: dict[str, InstanceRecord] = {}
    for table in stream(workspace, INSTANCES):
        wanted = pc.is_in(table["instance_id"], pa.array(instance_ids, pa.string()))
        indexed = pc.and_(wanted, pc.equal(table["status"], "indexed"))
        for row in table.filter(indexed).to_pylist():
            found.setdefault(row["instance_id"], InstanceRecord.from_row(row))
    return list(found.values())


def _instance(workspace: Store, instance_id: str) -> InstanceRecord:
    rows = _instances(workspace, [instance_id])
    if not rows:
        raise ConfigError(f"the workspace knows no instance {instance_id}; see `sonoloop quarantine list`")
    return rows[0]


def _box(text: str) -> Box:
    try:
        left, top, right, bottom = map(int, text.split(","))
    except ValueError:
        raise ConfigError("--mask takes LEFT,TOP,RIGHT,BOTTOM: four whole numbers of pixels") from None
    if not (0 <= left <= right and 0 <= top <= bottom):
        raise ConfigError(f"--mask {text}: expected 0 <= LEFT <= RIGHT and 0 <= TOP <= BOTTOM")
    return Box(left, top, right, bottom)


def _checked(note: str) -> str:
    if len(note) > MAX_NOTE:
        raise ConfigError(f"--note takes {MAX_NOTE} characters at most, got {len(note)}")
    return note


def _wanted(value: T | None, option: str) -> T:
    if value is None:
        raise ConfigError(f"this action needs {option}")
    return value


def _print(waiting: list[Waiting], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(jsonlib.dumps([row.model_dump(mode="json") for row in waiting]) + "\n")
        return
    table = Table(title=f"quarantine: {len(waiting)} instances", title_justify="left")
    for heading, width in (("instance", 24), ("since", 10), ("decision", 8), ("why", 42)):
        table.add_column(heading, width=width)
    for row in waiting:
        table.add_row(row.instance_id, f"{row.since:%Y-%m-%d}", row.decision, row.detail)
    Console(highlight=False, width=100).print(table)
