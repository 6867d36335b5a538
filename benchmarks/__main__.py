"""``python -m benchmarks``: every program of this folder, one after the other."""

from benchmarks import drafting

if __name__ == "__main__":
    drafting.main()
