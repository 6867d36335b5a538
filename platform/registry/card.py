"""The card of a version, ``README.md`` with Hugging Face's header, made from what lies beside the weights.

It says nothing that stands nowhere else, so it may be written anew at any time: when a version is published
and when an alias comes to name it. A card that came with a model (the base's own) is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sonoloop.platform.registry.beside import base_of, read_evaluations, read_lineage, read_object
from sonoloop.platform.registry.names import CARD, DECISION, place_of
from sonoloop.platform.workspace import Store

_MARK = "<!-- written by sonoloop: it is written anew, edits are lost -->"
_NUM_FIGURES = 40
"""Of an evaluation; all stand in its file."""
_APART = ("organs", "scanners", "confidence")
"""Parts of an evaluation that repeat its figures for some of the cases."""
_KNOWN = ("base", "upcycled_from", "snapshot", "run", "published_at")
_USE = """## Intended use

Drafts of structured ultrasound reports (findings, impression, coded entities, lesion boxes) that a qualified
person reads and corrects before anything is done with them.

## Limits

- Not a medical device, and not for diagnosis without a reader.
- It has learned from the scanners, organs, languages and readers of the reviews named above; elsewhere it is
  unproven. `sonoloop drift` tells when what it is given moves away from that.
- Readers started from drafts of earlier versions: where they let an error stand, it learned it.
- The figures are over few cases where the intervals are wide, and over the cases that were sent to readers.
"""


def write_card(workspace: Store, model_version: str) -> None:
    """Write a version's card, if it is new or says something new.

    Raises:
        StorageError: the store refuses.
    """
    if not (lineage := read_lineage(workspace, model_version)):
        return
    place = (*place_of(model_version), CARD)
    try:
        before = workspace.read_bytes(*place).decode()
    except FileNotFoundError:
        before = None
    if before is None or _MARK in before:
        text = _card(workspace, model_version, lineage)
        if text != before:
            workspace.write_bytes(text.encode(), *place)


def _card(workspace: Store, model_version: str, lineage: Mapping[str, Any]) -> str:
    snapshot = read_object(workspace, "training", str(lineage.get("snapshot")), "snapshot.json")
    evaluations = read_evaluations(workspace, model_version)
    licence = licence_of(workspace, model_version)
    parts = [
        f"# {model_version}\n\n{_MARK}\n\nA vision-language model that drafts ultrasound reports, "
        "made and kept by sonoloop.\n",
        _origin(lineage, snapshot),
        *(_measured(name, figures) for name, figures in evaluations.items()),
        _decision(read_object(workspace, *place_of(model_version), DECISION)),
        _USE,
        f"## Licence\n\n{licence or 'That of its base model; it is not recorded here.'}\n",
    ]
    return f"---\n{_header(model_version, lineage, licence, evaluations)}---\n\n" + "\n".join(
        filter(None, parts)
    )


def licence_of(workspace: Store, model_version: str) -> str | None:
    """The licence that the card of the model's first ancestor names; ``None`` where none does."""
    from huggingface_hub import ModelCard  # slow, and seldom wanted

    seen: set[str] = set()
    while model_version not in seen and "/" in model_version:
        seen.add(model_version)
        try:
            text = workspace.read_bytes(*place_of(model_version), CARD).decode()
        except FileNotFoundError:
            text = ""
        if text and _MARK not in text:
            licence = ModelCard(text, ignore_metadata_errors=True).data.get("license")
            return str(licence) if licence else None
        model_version = base_of(read_lineage(workspace, model_version)) or ""
    return None


def _header(
    model_version: str,
    lineage: Mapping[str, Any],
    licence: str | None,
    evaluations: Mapping[str, Mapping[str, Any]],
) -> str:
    """Hugging Face's metadata, YAML; what its own class writes is what its hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type="sonoloop-reviews",
            dataset_name=name,
            metric_type=metric,
            metric_value=value,
        )
        for name, figures in evaluations.items()
        for metric, value, _ in list(_figures(figures))[:_NUM_FIGURES]
    ]
    base = base_of(lineage) or ""
    data = ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["ultrasound", "sonoloop"],
        base_model=base if "/" in base else None,
        model_name=model_version,
        eval_results=results or None,
    )
    return f"{data.to_yaml()}\n"


def _origin(lineage: Mapping[str, Any], snapshot: Mapping[str, Any]) -> str:
    rows = {
        "base": base_of(lineage),
        "published": lineage.get("published_at"),
        "run": lineage.get("run"),
        "snapshot of reviews": lineage.get("snapshot"),
        **{
            f"snapshot: {name.removeprefix('num_').replace('_', ' ')}": value
            for name, value in snapshot.items()
            if name.startswith("num_")
        },
        **{
            name.replace("_", " "): value
            for name, value in _leaves({k: v for k, v in lineage.items() if k not in _KNOWN})
        },
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    return "\n".join(["## Where it comes from", "", "| what | value |", "|---|---|", *lines, ""])


def _measured(name: str, figures: Mapping[str, Any]) -> str:
    found = list(_figures(figures))
    if not found:
        return ""
    lines = [f"| {metric} | {value:.4g} | {rest} |" for metric, value, rest in found[:_NUM_FIGURES]]
    return "\n".join(
        [
            f"## Measured: {name}",
            "",
            "| figure | value | interval of 95 % |",
            "|---|---|---|",
            *lines,
            "",
            f"The whole evaluation, by organ and scanner where that was measured: `evaluations/{name}.json`.",
            "",
        ]
    )


def _decision(decision: Mapping[str, Any]) -> str:
    if "promoted" not in decision:
        return ""
    verdict = "Promoted" if decision["promoted"] else "Not promoted"
    return f"## The gate\n\n{verdict} on {decision.get('decided_at')}: {decision.get('reason')}\n"


def _figures(value: Any, name: str = "") -> Iterator[tuple[str, float, str]]:
    """Name, value and interval of every figure of an evaluation, those of some of its cases apart."""
    if not isinstance(value, Mapping):
        return
    if isinstance(value.get("value"), int | float):
        ends = [value.get("low"), value.get("high")]
        known = "" if None in ends else f"{ends[0]:.4g} to {ends[1]:.4g}"
        yield name, float(value["value"]), f"{known}, n = {value['n']}".strip(", ") if "n" in value else known
        return
    for key, inner in value.items():
        if key in _APART:
            continue
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            yield f"{name}.{key}".strip("."), float(inner), ""
        else:
            yield from _figures(inner, f"{name}.{key}".strip("."))


def _leaves(value: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """What a lineage says beside the usual, flat: the recipe, for one."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{name}{key} ")
        elif not isinstance(inner, list):
            yield f"{name}{key}", inner
