"""Fine-tuning on Ray Train and DeepSpeed, part by part."""
