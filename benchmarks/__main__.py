"""``python -m benchmarks [NAME]``: every program of this folder, one after the other, or the one named."""

import sys
from importlib import import_module

from sonoloop.platform.cluster import choose_authentication

NAMES = ("indexing", "decoding", "generation", "structured", "drafting", "deidentifying")

if __name__ == "__main__":
    choose_authentication()  # before a program imports Ray
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
        print(f"== {name}", flush=True)
        import_module(f"benchmarks.{name}").main()
