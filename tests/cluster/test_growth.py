"""How much a cluster may grow to, by what `ray up` writes for its autoscaler. No Ray is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from ezxmc_ray.cluster import growth as module
from ezxmc_ray.cluster.growth import Growth, _growth_in, growth, growth_of
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError

ROOT = Path(__file__).parents[2]
BIG: dict[str, float] = {"CPU": 64, "GPU": 8}
SMALL: dict[str, float] = {"CPU": 8, "GPU": 1}


def config(max_workers: int, **types: tuple[dict[str, float] | None, int]) -> dict[str, Any]:
    named = {name: {"max_workers": most, "resources": has} for name, (has, most) in types.items()}
    head = {"max_workers": 0, "resources": {"CPU": 4}}
    return {"max_workers": max_workers, "head_node_type": "head", "available_node_types": {"head": head, **named}}


def test_our_cluster_file_lets_it_grow_to_eight_gpus() -> None:
    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    found = growth_of(prepared)
    assert found == Growth({"CPU": 64, "GPU": 8}, [{"CPU": 8, "GPU": 1}])


def test_of_all_nodes_together_those_count_that_have_most() -> None:
    found = growth_of(config(5, small=(SMALL, 9), big=(BIG, 2), none=(BIG, 0)))
    assert found == Growth({"CPU": 4 + 2 * 64 + 3 * 8, "GPU": 2 * 8 + 3 * 1}, [SMALL, BIG])


def test_a_cluster_that_may_not_grow_has_its_head() -> None:
    assert growth_of(config(0, big=(BIG, 2))) == Growth({"CPU": 4, "GPU": 0}, [])


def test_a_type_whose_resources_are_not_written_counts_as_nothing() -> None:
    assert growth_of(config(3, unknown=(None, 3))) == Growth({"CPU": 4}, [{}])


@pytest.mark.parametrize("text", [None, "a: [", "[]", "{}", "available_node_types: {}\nhead_node_type: head\n"])
def test_a_file_that_cannot_be_read_is_told_with_the_knob_to_set(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=rf"stands in {file}, .* cannot be read .*: set cluster\.max_gpus\.$"):
        _growth_in(file)


def test_the_knob_tells_where_the_file_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(address: str) -> Growth:
        return _growth_in(tmp_path / "gone.yaml")

    monkeypatch.setattr(module, "ray_state", SimpleNamespace(get_cluster_config=lambda: None))
    monkeypatch.setattr(module, "_growth_on_this_machine", unreadable)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="here:1"))
    with pytest.raises(UserError, match=r"set cluster\.max_gpus\.$"):
        growth(ClusterConfig())
    assert growth(ClusterConfig(max_gpus=8)) == Growth({"GPU": 8}, [])
