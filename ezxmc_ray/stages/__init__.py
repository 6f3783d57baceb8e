"""The stages: one module each, holding the Ray graph that runs the parts over shards, and nothing else."""
