"""The loop on one machine: phantoms in S3, drafts, a scripted reader, a better model, before and after."""
