"""``python -m benchmarks``: every program of this folder, one after the other."""

from sonoloop.platform.cluster import choose_authentication

if __name__ == "__main__":
    choose_authentication()  # before a program imports Ray
    from benchmarks import drafting

    drafting.main()
