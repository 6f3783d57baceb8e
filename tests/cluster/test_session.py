"""What an error is told as: a user's mistake, the machine's doing, or a fault of this program; and a place that not
every node sees is such a mistake. No Ray is started."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

from ezxmc_ray.cluster import shared_places
from ezxmc_ray.cluster.session import user_errors
from ezxmc_ray.cluster.shared_places import check_seen
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import LockLost
from ezxmc_ray.storage import Storage


@pytest.mark.parametrize("handled", [WorkerCrashedError(), UserError("A mistake.")])
def test_a_fault_in_the_handling_of_another_error_stays_a_fault(handled: Exception) -> None:
    with pytest.raises(KeyError, match="lost"), user_errors():
        try:
            raise handled
        except type(handled):
            raise KeyError("lost")  # noqa: B904 - as a fault does it


def test_a_mistake_and_the_machines_doing_are_told_behind_what_was_raised_from_them() -> None:
    with pytest.raises(UserError, match=r"^A mistake\.$"), user_errors():
        raise RuntimeError("in a task") from UserError("A mistake.")
    with pytest.raises(UserError, match=r"^Ray lost a worker or a node"), user_errors():
        raise RuntimeError("in a task") from WorkerCrashedError()


def test_a_lock_lost_in_a_task_is_the_plain_sentence() -> None:
    """As Ray raises it: as one of its own kind and the task's kind in one, whose text is a traceback."""
    lost = RayTaskError("remove", "Traceback: …", pickle.loads(pickle.dumps(LockLost("The lock was lost."))))
    assert isinstance(lost.as_instanceof_cause(), LockLost)
    with pytest.raises(UserError, match=r"^The lock was lost\.$"), user_errors():
        raise lost.as_instanceof_cause()


def test_a_log_that_somebody_tidied_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^A mistake\.$"), user_errors(str(tmp_path / "gone.log")):
        raise UserError("A mistake.")


class FakeRay:
    """In place of ray: a cluster of ``nodes``, by id the folder that each has at the place of ``shared``."""

    def __init__(self, shared: Path, nodes: dict[str, Path | None]) -> None:
        self.shared, self.folders = shared, nodes
        self.is_initialized = lambda: True

    def nodes(self) -> list[dict[str, Any]]:
        alive = [
            {"NodeID": one, "Alive": True, "NodeManagerHostname": f"host-{int(one, 16)}", "Resources": {"CPU": 1.0}}
            for one in self.folders
        ]
        dead = {"NodeID": "dead", "Alive": False, "Resources": {"CPU": 1.0}}
        return [dead, *alive, {"NodeID": "head", "Alive": True, "Resources": {"memory": 1.0}}]

    def remote(self, function: Callable[[str], bool]) -> Any:
        def options(num_cpus: int, max_retries: int, scheduling_strategy: Any) -> Any:
            folder = self.folders[scheduling_strategy.node_id]
            return SimpleNamespace(remote=lambda file: (function, folder and str(folder / Path(file).name)))

        return SimpleNamespace(options=options)

    def wait(self, asked: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return asked, []

    def get(self, asked: Any) -> bool:
        function, file = asked
        if file is None:
            raise NodeDiedError("gone")
        found: bool = function(file)
        return found


@pytest.fixture
def nodes_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Storage]:
    """``nodes_have(folder, …)``: a cluster has been joined whose nodes have these in the place of the storage."""

    def joined(*folders: Path | None) -> Storage:
        fake = FakeRay(tmp_path / "run", {f"{number:056x}": folder for number, folder in enumerate(folders)})
        monkeypatch.setattr(shared_places, "ray", fake)
        monkeypatch.setattr(shared_places, "SEEN_S", 0.0)
        return Storage(str(tmp_path / "run"))

    return joined


def test_a_path_that_a_node_has_on_its_own_disk_is_refused(nodes_have: Callable[..., Storage], tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "of-another-node"
    with pytest.raises(UserError, match=rf"^run is {run}, and the node host-1 of the Ray cluster does not see what "):
        check_seen("run", nodes_have(run, other))
    check_seen("run", nodes_have(run, run, None))  # the last is lost meanwhile
    assert list(run.iterdir()) == []
    check_seen("run", nodes_have(other))  # one node, whose disk is the driver's


def test_what_no_node_shares_is_asked_only_of_a_cluster_that_was_joined(
    nodes_have: Callable[..., Storage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = nodes_have(tmp_path / "a", tmp_path / "b")
    check_seen("run", Storage("s3://bucket/run?region=us-east-1"))
    monkeypatch.setattr("ezxmc_ray.cluster.shared_places.ray.is_initialized", lambda: False)
    check_seen("run", storage)
    assert not (tmp_path / "run").exists()
