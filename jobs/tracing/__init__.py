"""What `sonoloop lineage` tells: of models, cases and tasks, backward to where they came from and forward."""
