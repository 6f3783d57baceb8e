"""What ``teacher.dtype: auto`` is where the engines will work: asked of the cluster, once a command.

In: the teacher's configuration, and Ray. Out: the same with the dtype itself, as the teacher key needs it. The driver
may be a head node without a GPU, so it does not go by its own hardware.
"""

from __future__ import annotations

from dataclasses import replace

import ray

from ezxmc_ray.cluster.session import cluster_gpus, user_errors, wait_for_gpus
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.hardware import AUTO, machine_dtype


def of_cluster(config: TeacherConfig) -> TeacherConfig:
    """``config`` with the dtype that auto is on the cluster's GPUs, or on its CPUs where it has none.

    One GPU (or CPU) answers for all: on a cluster of several kinds set teacher.dtype.
    """
    if config.dtype != AUTO:
        return config
    wait_for_gpus()
    task = ray.remote(machine_dtype).options(num_cpus=1, num_gpus=1 if cluster_gpus() else 0)
    with user_errors():
        return replace(config, dtype=ray.get(task.remote()))
