"""Published benchmarks: each module reads one's files and gives its figures."""
