"""Ray: its start, what a cluster has, tasks and pools of actors on it, and what its workers tell of themselves."""
