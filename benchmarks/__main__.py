"""``python -m benchmarks [NAME]``: every program of this folder, one after the other, or those named.

Options (``--repeats=1``) are passed on to the programs named; see their ``--help``.
"""

import sys
from importlib import import_module

from sonoloop.platform.cluster import choose_authentication

NAMES = (
    "indexing",
    "decoding",
    "generation",
    "structured",
    "answering",
    "drafting",
    "deidentifying",
    "scaling",
    "pushing",
    "pulling",
    "training",
    "serving",
)

if __name__ == "__main__":
    choose_authentication()  # before a program imports Ray
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]  # --repeats=1
    for name in [argument for argument in sys.argv[1:] if argument not in options] or NAMES:
        if name not in NAMES:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
        print(f"== {name}", flush=True)
        import_module(f"benchmarks.{name}").main(*([options] if options else []))
