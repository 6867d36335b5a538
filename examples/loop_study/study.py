"""Does choosing teach more than chance? The loop over several rounds, strategies side by side.

    python examples/loop_study/study.py --rounds 5 --seeds 3 --strategies uncertain random --output DIR

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import get_args

from sonoloop.jobs.config import Strategy
from sonoloop.platform.cluster import choose_authentication
from sonoloop.platform.identity import KEY_VARIABLE


def main() -> None:
    """Do the rounds that are missing, then draw all that are there."""
    options = _options()
    os.environ.setdefault(KEY_VARIABLE, "phantoms have no names")  # who is held out depends on it
    choose_authentication()
    # Here, not above: Ray reads its authentication mode from the environment when it is first imported.
    from study_rounds import run_study

    run_study(
        options.output,
        options.strategies,
        num_seeds=options.seeds,
        num_rounds=options.rounds,
        num_cases=options.cases,
        num_per_round=options.per_round,
        num_first=options.first or options.per_round,
        num_test=options.test,
        settings=options.settings,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds after round 0")
    parser.add_argument("--seeds", type=int, default=3, help="archives, each with its own cases and lots")
    parser.add_argument(
        "--strategies", nargs="+", choices=get_args(Strategy), default=["uncertain", "random"]
    )
    parser.add_argument("--cases", type=int, default=400, help="studies to choose from")
    parser.add_argument("--per-round", type=int, default=40, help="cases read in a round")
    parser.add_argument(
        "--first", type=int, help="cases read by lot before; as many as in a round when absent"
    )
    parser.add_argument("--test", type=int, default=96, help="studies that every round is measured on")
    parser.add_argument(
        "--settings",
        type=Path,
        default=Path(__file__).with_name("study.toml"),
        help="how is trained and judged",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the study; go on with it if there"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
