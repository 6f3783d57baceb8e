"""Ray's start where it fails: two tries, one sentence, and nothing left of the first. ray.init is a fake here."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import exceptions

from ezxmc_ray.cluster import ray_start
from ezxmc_ray.cluster.native_output import native_output_logged
from ezxmc_ray.cluster.ray_start import NodeFailed, free_ports, join_ray, start_local_ray
from ezxmc_ray.cluster.session import user_errors
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.watchdog import descendants

SLOW = Exception("The current node timed out during startup. This could happen because some of the raylet failed")
#: Of a process that looks as one of Ray's does.
SLEEPS = "import time; time.sleep(60)"


class FakeInit:
    """ray.init that raises ``errors`` one after the other, leaving a process each time, and then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0
        self.left: list[subprocess.Popen[bytes]] = []

    def __call__(self, **arguments: Any) -> None:
        self.calls += 1
        self.environment = dict(os.environ)
        if self.errors:
            self.left.append(subprocess.Popen([sys.executable, "-c", SLEEPS, f"{ray.__path__[0]}/gcs_server"]))
            raise self.errors.pop(0)


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeInit]]:
    """Makes ray.init fail as told, and lets the test's environment be as it was."""
    fakes: list[FakeInit] = []

    def fake(*errors: Exception) -> FakeInit:
        fakes.append(FakeInit(*errors))
        monkeypatch.setattr(ray, "init", fakes[-1])
        return fakes[-1]

    for name in ray_start.ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    yield fake
    for process in [process for one in fakes for process in one.left]:
        with suppress(OSError):
            process.kill()
        process.wait()


@pytest.mark.parametrize(
    "error",
    [
        SLOW,
        NodeFailed("its node ended while it started"),
        RuntimeError("Failed to start GCS."),
        exceptions.RaySystemError("System error: Broken pipe"),
        ConnectionError("ray client connection timeout"),
        TimeoutError("Timed out after 30 seconds while waiting for node to startup."),
        subprocess.TimeoutExpired("ray", 30),
    ],
)
def test_two_failed_starts_are_one_sentence(starting: Callable[..., FakeInit], error: Exception) -> None:
    init = starting(error, error)
    with pytest.raises(
        UserError, match=r"^Ray did not start within \d+ s, in 2 tries \(.+\): the machine is busy, "
    ) as told:
        start_local_ray(ClusterConfig())
    assert init.calls == 2 and "try again" in str(told.value) and "\n" not in str(told.value)


def test_after_one_failed_start_the_second_works_and_nothing_is_left_of_the_first(
    starting: Callable[..., FakeInit], capsys: pytest.CaptureFixture[str]
) -> None:
    other = subprocess.Popen([sys.executable, "-c", SLEEPS])  # none of Ray's
    try:
        init = starting(SLOW)
        start_local_ray(ClusterConfig())
        assert init.calls == 2
        assert init.left[0].wait(timeout=10) != 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    assert "trying once more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/ray"),
            "No space left on device.*; make room there, or",
        ),
        (OSError("AF_UNIX path length cannot exceed 107 bytes: '/tmp/a'"), "AF_UNIX .*; set TMPDIR to a shorter path"),
        (ValueError("Attempting to cap object store memory usage at 10 bytes"), "Attempting to cap object store"),
    ],
)
def test_what_another_try_would_meet_again_is_told_at_once(
    starting: Callable[..., FakeInit], error: Exception, sentence: str
) -> None:
    init = starting(error)
    with pytest.raises(UserError, match=f"^Ray cannot be started on this machine: .*{sentence}"):
        start_local_ray(ClusterConfig())
    assert init.calls == 1


def test_a_fault_of_ours_is_no_sentence(starting: Callable[..., FakeInit]) -> None:
    starting(TypeError("init() got an unexpected keyword argument"))
    with pytest.raises(TypeError):
        start_local_ray(ClusterConfig())


def test_a_users_own_value_of_rays_limits_is_kept(
    starting: Callable[..., FakeInit], monkeypatch: pytest.MonkeyPatch
) -> None:
    niceness = "RAY_worker_niceness"
    monkeypatch.setenv(niceness, "7")
    init = starting()
    start_local_ray(ClusterConfig())
    assert [init.environment[name] for name in (niceness, "RAY_worker_register_timeout_seconds")] == ["7", "300"]
    assert os.environ[niceness] == "7" and "RAY_worker_register_timeout_seconds" not in os.environ


def test_a_node_that_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: str) -> None:
        raise RuntimeError("GCS cannot find the node")

    began = time.monotonic()
    before = {one.pid for one in descendants(os.getpid())}  # the tests' own Ray, maybe
    with pytest.raises(NodeFailed, match="ended while it started"):
        ray_start._wait_for_node(unknown, {}, before, "127.0.0.1:1", "ab")
    assert time.monotonic() - began < 5


def test_a_cluster_that_does_not_answer_is_one_sentence() -> None:
    (port,) = free_ports(1)
    with pytest.raises(
        UserError, match=rf"^The Ray cluster at 127\.0\.0\.1:{port} cannot be joined \(.*refused\): is it"
    ):
        join_ray(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    "cause",
    [
        "no node of this machine.",
        "No GCS. Last error: Traceback (most recent call last):\n  f()\nno node of this machine",
    ],
)
def test_why_a_cluster_is_not_joined_is_told_from_the_cause(monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    def init(**options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at a:1") from RuntimeError(cause)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_start, "_answers_here_only", lambda address: False)
    with pytest.raises(UserError, match=r"^The Ray cluster at a:1 cannot be joined \(no node of this machine\): is it"):
        join_ray("a:1")


def test_free_ports_are_free_and_differ() -> None:
    with socket.socket() as taken:
        taken.bind(("", free_ports(1)[0]))
        taken.listen()
        ports = free_ports(5)
        assert len(set(ports)) == 5 and taken.getsockname()[1] not in ports


@pytest.mark.parametrize(
    "error",
    [
        exceptions.GetTimeoutError("Get timed out"),
        exceptions.WorkerCrashedError(),
        exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node: …"),
        exceptions.RaySystemError("the raylet is gone"),
        exceptions.ActorDiedError(),
    ],
)
def test_what_a_busy_machine_does_to_ray_is_one_sentence_that_names_the_log(error: Exception, tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    log.write_text("a state dump\n")
    sentence = rf"^Ray lost a worker .*: the machine is busy.*{log}"
    with pytest.raises(UserError, match=sentence) as told, user_errors(str(log)):
        raise RuntimeError("wrapped") from error
    assert "\n" not in str(told.value)


def test_a_fault_of_a_task_keeps_its_traceback_and_says_where_the_log_is(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    log.write_text("a state dump\n")
    fault = exceptions.RayTaskError("f", "Traceback …", KeyError("x"))
    with pytest.raises(exceptions.RayTaskError) as raised, user_errors(str(log)):
        raise fault
    assert raised.value.__notes__ == [f"What Ray's processes printed is in {log}."]


def test_what_native_code_prints_goes_to_a_file_that_stays_where_something_went_wrong(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with native_output_logged() as log:
        os.write(2, b"*** SIGTERM received ***\n")
        assert "SIGTERM received" in Path(log).read_text()
    assert not Path(log).exists()
    with pytest.raises(UserError), native_output_logged() as log:
        raise UserError("a mistake that has nothing to do with it")
    assert not Path(log).exists()
    with pytest.raises(KeyError), native_output_logged() as log, user_errors(log):
        subprocess.run([sys.executable, "-c", "import sys; print('dump', file=sys.stderr)"], check=True)
        raise KeyError
    assert Path(log).read_text() == "dump\n"
    os.unlink(log)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_pythons_standard_error_stays_on_the_terminal() -> None:
    script = (
        "import os, sys; from ezxmc_ray.cluster.native_output import native_output_logged\n"
        "with native_output_logged() as log:\n"
        "    os.write(2, b'native\\n'); print('a warning', file=sys.stderr)\n"
        "print('after', file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stderr == "a warning\nafter\n"
