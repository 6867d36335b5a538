"""The gate between challenger and champion: evidence, checks, and the decision a person can read."""
