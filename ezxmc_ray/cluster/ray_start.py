"""Ray's start: a local one, on a machine that may be slow or busy, and joining one that is there.

Ray's own time limits are for a machine that has nothing else to do: they are raised, the start is tried twice, and what
the first try left is ended. What stops it then is one sentence (UserError) that says what to do.
"""

from __future__ import annotations

import glob
import os
import random
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import grpc
import psutil
import ray
from ray._private import parameter, ray_constants, services
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import persist_port  # type: ignore[attr-defined]
from ray.exceptions import RayError

from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.progress import say
from ezxmc_ray.watchdog import descendants, end

#: Seconds that the node of a try may take to come up, and that a cluster's address may take to answer.
NODE_S, ANSWER_S = 180.0, 10.0
TRIES = 2
#: Of a local Ray only; a user's own value is kept.
ENVIRONMENT = {
    # Ray runs what it starts at nice 15, behind everything else on the machine; here it is the command's own work.
    "RAY_worker_niceness": "0",
    # OpenMP's threads wait asleep: where anything else runs, threads that spin for each other cost more than the work.
    "OMP_WAIT_POLICY": "passive",
    # As in _this_machine_only, for what is started.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # For how long one question for the node waits; it is asked again until NODE_S are over.
    "RAY_raylet_start_wait_time_s": "5",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_gcs_server_port_wait_time_s": "180",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    "RAY_raylet_client_num_connect_attempts": "60",
    "RAY_worker_register_timeout_seconds": "300",
    # A node that does not answer for this long is taken for dead (30 s by Ray's own defaults).
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "10",
}
#: Files in which a node's agents tell it their ports; Ray's parameters have the same names.
PORT_FILES = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
#: Ports that the kernel gives nobody who asks for any.
PORTS = range(20000, 32768)


class NodeFailed(Exception):
    """The node of a local Ray ended, or was not up in time."""


def start_local_ray(config: ClusterConfig, **quiet: Any) -> None:
    """Start Ray on this machine, for this process; it listens to this machine only. Errors: UserError."""
    _check_file_size_limit(config.object_store_mib)
    # Two CPUs at least: training has two workers, and a stage's tasks run beside its actors.
    cpus = max(2, config.cpus or os.cpu_count() or 2)
    memory = config.object_store_mib << 20
    began = time.monotonic()
    for number in range(1, TRIES + 1):
        before = {one.pid for one in descendants(os.getpid())}
        try:
            ports = dict(zip(PORT_FILES, free_ports(len(PORT_FILES)), strict=True))
            quiet["_metrics_export_port"] = ports["metrics_export_port"]
            with _patient_node(ports, before):
                ray.init(address="local", num_cpus=cpus, object_store_memory=memory, include_dashboard=False, **quiet)
            return
        except Exception as error:
            last, reason = number == TRIES, one_line(error).rstrip(".")
            if not _is_of_the_start(error):
                raise
            ray.shutdown()
            end({process for process in descendants(os.getpid(), before) if _is_of_ray(process)})
            if not _may_pass(error):
                raise UserError(f"Ray cannot be started on this machine: {_with_remedy(reason)}.") from error
            logs = f" (Ray's logs: {ray_logs()})" if ray_logs() else ""
            if last:
                raise UserError(
                    f"Ray did not start within {time.monotonic() - began:,.0f} s, in {TRIES} tries ({reason}): the "
                    f"machine is busy, or out of memory or disk; try again when less runs beside it{logs}."
                ) from error
        say(f"Ray did not start ({reason}): trying once more")


def join_ray(address: str, **quiet: Any) -> None:
    """Join the cluster at ``address``. Errors: UserError, within :data:`ANSWER_S` where nobody answers there."""
    try:
        with _this_machine_only() if _answers_here_only(address) else nullcontext():
            ray.init(address=address, **quiet)
    except Exception as error:
        if not _is_of_the_start(error):
            raise
        raise UserError(
            f"The Ray cluster at {address} cannot be joined ({_why(error)}): is it up, and is cluster.address (or "
            "RAY_ADDRESS) right?"
        ) from error


def _why(error: Exception) -> str:
    """What Ray's own error hides in its cause, which may end with a traceback's last line."""
    told = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return one_line(Exception(told[-1] if "Traceback" in told[0] else told[0])).rstrip(".")


def ray_logs() -> str:
    """The folder with the logs of the Ray that this process started last; empty if there is none."""
    found = glob.glob(f"{ray._common.utils.get_default_ray_temp_dir()}/session_*_{os.getpid()}/logs")
    return max(found, key=os.path.getmtime, default="")


def _answers_here_only(address: str) -> bool:
    """Whether the Ray at ``address`` is one that :func:`start_local_ray` made, of this machine only.

    Errors: OSError where it has host and port, and nobody listens there, or somebody who is no Ray; Ray itself would
    ask for minutes.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if not (parts.hostname and parts.port):
        return False
    _listens(parts.hostname, parts.port)
    with init_grpc_channel(f"{parts.hostname}:{parts.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
        except grpc.FutureTimeoutError:
            raise TimeoutError("what answers there is not Ray") from None
    try:
        # By what Ray makes of 127.0.0.1.
        _listens(services.resolve_ip_for_localhost(parts.hostname), parts.port)
    except OSError:
        return True
    return False


def _listens(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=ANSWER_S):
        pass


def _is_of_the_start(error: Exception) -> bool:
    """Whether ``error`` is one that ray.init raises for what it meets; of a fault of ours it is none."""
    kinds = (OSError, RuntimeError, ValueError, RayError, subprocess.SubprocessError, NodeFailed)
    return isinstance(error, kinds) or type(error) is Exception


def _may_pass(error: Exception) -> bool:
    """Whether another try may go better: not where there is no room, no right, or a value that is refused."""
    return isinstance(error, ConnectionError | TimeoutError) or not isinstance(error, OSError | ValueError)


def _with_remedy(reason: str) -> str:
    if "AF_UNIX" in reason:
        return f"{reason}; set TMPDIR to a shorter path"
    if "No space left" in reason:
        return f"{reason}; make room there, or set TMPDIR to where there is some"
    return reason


@contextmanager
def _patient_node(ports: dict[str, int], before: Collection[int]) -> Iterator[None]:
    """For as long as the block runs, ray.init waits for a node that starts slowly, and not for one that has ended.

    Ray 2.60 gives its node 30 s, and the node gives its agents, two Python processes that import a lot, 15 s to write
    down which ``ports`` they took; neither can be set. So they are told which to take, and it stands there already.
    """
    params, get_node, environment = parameter.RayParams, services.get_node, dict(os.environ)
    of_agents = {name: port for name, port in ports.items() if name != "metrics_export_port"}
    parameter.RayParams = partial(params, **of_agents)
    services.get_node = partial(_wait_for_node, get_node, ports, before)
    os.environ.update(ENVIRONMENT | environment)
    try:
        with _this_machine_only():
            yield
    finally:
        parameter.RayParams, services.get_node = params, get_node
        for name in ENVIRONMENT.keys() - environment.keys():
            del os.environ[name]


@contextmanager
def _this_machine_only() -> Iterator[None]:
    """For as long as the block runs, 127.0.0.1 is an address for Ray, and no other name of this machine on a network.

    A Ray that has it cannot be reached from elsewhere: who reaches a Ray may run any code in it.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _wait_for_node(
    get_node: Callable[[str, str], Any], ports: dict[str, int], before: Collection[int], gcs_address: str, node_id: str
) -> Any:
    """Write down the ``ports``; what ``get_node`` says of the node as soon as it knows it. Errors: NodeFailed.

    ``before``: pids of what this process had started before, another Ray perhaps.
    """
    began = time.monotonic()
    for name, port in ports.items():
        persist_port(os.path.dirname(ray_logs()), node_id, name, port)
    while True:
        try:
            return get_node(gcs_address, node_id)
        except RuntimeError as error:
            if not _raylet_runs(before):
                raise NodeFailed("its node ended while it started") from error
            if time.monotonic() - began > NODE_S:
                raise NodeFailed(f"its node was not up after {NODE_S:.0f} s") from error


def _is_of_ray(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(word.startswith("ray::") or ray.__path__[0] in word for word in process.cmdline())
    return False


def _raylet_runs(before: Collection[int]) -> bool:
    for process in descendants(os.getpid(), before):
        with suppress(psutil.Error):
            if process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def free_ports(count: int) -> list[int]:
    """So many ports on which nobody listens now."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError("no port is free between 20000 and 32767")


def _check_file_size_limit(object_store_mib: int) -> None:
    """Ray's object store is one file in memory, and Ray dies without a word where it cannot be made."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < object_store_mib << 20:
        raise UserError(
            f"This shell lets no file grow beyond {limit >> 10} KiB (ulimit -f), and Ray's object store alone has "
            f"{object_store_mib} MiB (cluster.object_store_mib): raise the limit."
        )
