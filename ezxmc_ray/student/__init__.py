"""How the bi-encoder learns from the verdicts: losses, targets, batches and the training step."""
