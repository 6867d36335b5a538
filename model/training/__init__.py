"""Training a challenger, plain torch: recipes, examples, batches, the loss. `jobs` puts Ray around it."""
