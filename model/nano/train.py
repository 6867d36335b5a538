"""Make ``echovlm-nano`` from nothing: phantoms, tokenizer, warm-up, conversations, model card.

``python -m sonoloop.model.nano.train --output FOLDER`` runs the whole recipe; the same seed on the same
machine gives the same weights. The phantoms are breast and thyroid on one kind of scanner; liver, kidney and
the other kind stay unseen, so that the loop has something to learn.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sonoloop.model.checkpoint import load_model, save_model
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.nano.card import write_card
from sonoloop.model.nano.data import (
    SEEN_ORGANS,
    SEEN_SCANNER,
    UNSEEN_ORGANS,
    UNSEEN_SCANNER,
    PhantomCase,
    corpus,
    phantom_cases,
)
from sonoloop.model.nano.recipe import NanoConfig
from sonoloop.model.nano.scores import NanoScores, StoredScores, evaluate, write_scores
from sonoloop.model.nano.tokenizer import train_tokenizer
from sonoloop.model.nano.trainer import Trainer
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.scanners import ScannerKind

logger = logging.getLogger(__name__)

MAX_PIXELS = 224 * 168
"""48 image tokens for a 4:3 frame."""
HELD_OUT = 1
"""Added to the seed for the phantoms that score the weights."""


def make_processor(config: NanoConfig) -> EchoVLMProcessor:
    """Nano's tokenizer, trained here, and its pixel budget."""
    tokenizer = train_tokenizer(corpus(config.seed, config.num_texts), vocab_size=config.vocab_size)
    image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": MAX_PIXELS})
    return EchoVLMProcessor(image_processor, tokenizer)


def measure(folder: Path, seed: int, num_cases: int) -> StoredScores:
    """Score a folder on held-out phantoms of the seen kind and on the unseen one."""
    engine = TransformersEngine(folder, EngineConfig(device="cpu", dtype="float32", max_report_tokens=192))

    def scores(organs: Sequence[Organ], scanner: ScannerKind) -> NanoScores:
        cases = phantom_cases(seed, num_cases, organs, scanner)
        return evaluate(engine, engine.processor, cases)

    return StoredScores(seen=scores(SEEN_ORGANS, SEEN_SCANNER), unseen=scores(UNSEEN_ORGANS, UNSEEN_SCANNER))


def _simulated(config: NanoConfig, cases_file: Path) -> list[PhantomCase]:
    """The training cases, from ``cases_file`` where it exists, else simulated and kept there."""
    if not cases_file.exists():
        cases = phantom_cases(config.seed, config.num_cases, SEEN_ORGANS, SEEN_SCANNER)
        cases_file.write_bytes(pickle.dumps(cases, protocol=5))
    loaded: list[PhantomCase] = pickle.loads(cases_file.read_bytes())
    return loaded


def _work(rank: int, config: NanoConfig, folder: Path, cases_file: Path, meeting: Path) -> None:
    """One training process; the first writes the weights."""
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=config.num_processes
    )
    processor = EchoVLMProcessor.from_folder(folder)
    trainer = Trainer(config, processor, _simulated(config, cases_file))
    trainer.warm_up()
    trainer.converse()
    if rank == 0:
        save_model(trainer.model.to(torch.bfloat16), folder)
    dist.destroy_process_group()


def train(config: NanoConfig, folder: Path, cases_file: Path | None = None) -> StoredScores:
    """The whole recipe; the folder ends with weights, tokenizer, scores and card.

    Args:
        config: The recipe's numbers.
        folder: Must not hold weights.
        cases_file: Where simulated training cases are kept for another run; None keeps none.

    Raises:
        CheckpointError: the folder already holds weights.
    """
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    make_processor(config).save(folder)
    with tempfile.TemporaryDirectory() as scratch:
        kept = cases_file or Path(scratch) / "cases.pkl"
        _simulated(config, kept)
        options = (config, folder, kept, Path(scratch) / "meeting")
        spawn(_work, options, nprocs=config.num_processes)  # type: ignore[no-untyped-call]
    stored = measure(folder, config.seed + HELD_OUT, config.num_held_out)
    write_scores(stored, folder)
    write_card(
        folder,
        stored,
        seed=config.seed,
        num_cases=config.num_cases,
        num_parameters=load_model(folder).num_parameters(),
        scanner=f"kind {SEEN_SCANNER}",
        minutes=(time.monotonic() - start) / 60,
    )
    return stored


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description="train echovlm-nano from scratch")
    parser.add_argument("--output", type=Path, required=True, help="new model folder")
    parser.add_argument("--cases", type=Path, help="file that keeps the simulated training cases")
    for name, field in NanoConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help=field.description)
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder, cases_file = options.pop("output"), options.pop("cases")
    logger.info("scores: %s", train(NanoConfig(**options), folder, cases_file).model_dump_json())


if __name__ == "__main__":
    main()
