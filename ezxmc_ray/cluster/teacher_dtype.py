"""What ``teacher.dtype: auto`` is where the engines will work: asked of the cluster, once a command.

In: the teacher's configuration, and Ray. Out: the same with the dtype itself, as the teacher key needs it. The driver
may be a head node without a GPU, so it does not go by its own hardware.
"""

from __future__ import annotations

from dataclasses import replace

from ezxmc_ray.cluster.session import cluster_gpus, run_task, wait_for_gpus
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.hardware import AUTO, machine_dtype
from ezxmc_ray.progress import StageProgress


def of_cluster(config: TeacherConfig) -> TeacherConfig:
    """``config`` with the dtype that auto is on the cluster's GPUs, or on its CPUs where it has none.

    One GPU (or CPU) answers for all: on a cluster of several kinds set teacher.dtype. Errors: UserError where none is
    free within ``cluster.wait_s``.
    """
    if config.dtype != AUTO:
        return config
    with StageProgress("Teacher", phase="asking the cluster for its number format"):
        wait_for_gpus()
        return replace(config, dtype=run_task(machine_dtype, gpus=1 if cluster_gpus() else 0))
