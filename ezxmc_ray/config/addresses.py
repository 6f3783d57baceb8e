"""Which Ray a configuration means."""

from __future__ import annotations

import os

from ezxmc_ray.config.schema import ClusterConfig


def cluster_address(config: ClusterConfig) -> str:
    """The Ray address that ``config.address`` means: as it says, else this job's cluster, else local."""
    return config.address or os.environ.get("RAY_ADDRESS") or "local"
