"""A real Ray job, which holds some of the cluster itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import RayHead

COUNT = """
from ezxmc_ray.cluster import session
from ezxmc_ray.config import ClusterConfig
with session.ray_cluster(ClusterConfig(address="auto")):
    print("left:", session.cluster_cpus(), session.cluster_limit("CPU"), session.node_cpus())
"""


def test_a_job_does_not_count_on_what_its_entrypoint_holds(ray_head: RayHead, tmp_path: Path) -> None:
    """Of two CPUs."""
    script = tmp_path / "count.py"
    script.write_text(COUNT)
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", ray_head.job_server]
    job = [*submit, "--entrypoint-num-cpus", "1", "--", sys.executable, str(script)]
    done = subprocess.run(job, capture_output=True, text=True, timeout=200)
    assert "left: 1 1 1" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
