"""What `sonoloop evaluate` measures: one module for the loop's held-out reviews, `suites/` for benchmarks."""
