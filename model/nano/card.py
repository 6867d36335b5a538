"""The model card that is written beside nano's weights."""

from __future__ import annotations

from pathlib import Path

from sonoloop.model.nano.scores import NanoScores, StoredScores

_CARD = """---
license: apache-2.0
tags: [ultrasound, synthetic, demo]
---

# echovlm-nano

EchoVLM's architecture (Qwen2-VL with a sparse block of experts beside the dense MLP of every layer) at
{num_parameters:.1f} million parameters, so that every step of sonoloop runs on two CPU cores in minutes.
**It has seen simulated images only. Not for clinical use, and no measure of the published EchoVLM.**

## How it was made

`python -m sonoloop.model.nano.train --output FOLDER` (seed {seed}, {minutes:.0f} minutes on 2 CPU cores; the
recipe's numbers are the defaults of `NanoConfig`).

1. {num_cases} phantom studies of breast and thyroid on one scanner ({scanner}) were simulated
   (`sonoloop.platform.phantoms`); a third of the cases have two images.
2. A byte-level BPE tokenizer was trained on reports, entity JSON and prompts of all four organs: vocabulary
   is no knowledge, and sequences stay short.
3. The vision tower was warmed up under direct heads: every entity field, the box, a map of the lesion.
4. The whole model learnt the two-turn conversation (report, then entities as JSON), with loss on the answers,
   the router's load-balancing loss and the direct heads at a small weight.
5. The heads were thrown away and the weights rounded to bfloat16.

## What it scores

Phantoms drawn with another seed than the training's, organ named in the prompt, greedy decoding under the
grammar. Definitions: `sonoloop.model.metrics`.

| | same kind as trained | unseen: liver, kidney, other scanner |
|---|---|---|
{rows}

## Limits

- Phantoms only: speckle, attenuation, shadow and enhancement are simulated, anatomy hardly at all.
- Liver, kidney and every scanner but one are unseen: drafts for them follow the grammar and are mostly wrong.
  The demo fine-tunes on corrected drafts of these.
- English, one report style, at most a few images of about 224 x 168 pixels after resizing.
- The confidence that comes with a draft is not calibrated on the unseen kind.
"""


def _rows(seen: NanoScores, unseen: NanoScores) -> str:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = [
        ("cases", str(seen.scores.num_cases), str(unseen.scores.num_cases)),
        ("valid drafts", cell(seen.valid_share), cell(unseen.valid_share)),
        ("entity macro-F1", cell(seen.scores.entity_macro_f1), cell(unseen.scores.entity_macro_f1)),
        (
            "entity macro-F1 of the commonest answer",
            cell(seen.majority_entity_macro_f1),
            cell(unseen.majority_entity_macro_f1),
        ),
        ("lesion status right", cell(seen.lesion_accuracy), cell(unseen.lesion_accuracy)),
        ("box IoU", cell(seen.scores.box_iou), cell(unseen.scores.box_iou)),
        ("report BLEU-1", cell(seen.scores.bleu_1), cell(unseen.scores.bleu_1)),
        ("report ROUGE-L", cell(seen.scores.rouge_l), cell(unseen.scores.rouge_l)),
        ("edit distance", cell(seen.scores.edit_distance), cell(unseen.scores.edit_distance)),
    ]
    return "\n".join(f"| {name} | {one} | {other} |" for name, one, other in lines)


def write_card(
    folder: Path,
    stored: StoredScores,
    *,
    seed: int,
    num_cases: int,
    num_parameters: int,
    scanner: str,
    minutes: float,
) -> None:
    """Write ``README.md`` into the model folder."""
    text = _CARD.format(
        num_parameters=num_parameters / 1e6,
        seed=seed,
        minutes=minutes,
        num_cases=num_cases,
        scanner=scanner,
        rows=_rows(stored.seen, stored.unseen),
    )
    (folder / "README.md").write_text(text)
