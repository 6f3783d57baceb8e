"""Bundles: the same labels as the run, nothing imported that is not needed, and damage that is named."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ezxmc_ray.encoder import onnx_export
from ezxmc_ray.encoder.document_encoder import DocumentEncoder
from ezxmc_ray.encoder.onnx_encoder import OnnxEncoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from ezxmc_ray.tagging import export
from ezxmc_ray.tagging.bundle_lock import owned_bundle
from ezxmc_ray.tagging.changes import remove_labels
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.tagger import Tagger, open_settings
from tests.student.toy import LABELS, TOPICS
from tests.tagging.made_run import make_run

HEAVY = ("ray", "torch", "transformers", "sentence_transformers", "vllm", "scipy", "sklearn", "matplotlib", "jinja2")
TEXTS = [*TOPICS, *LABELS, "a long text " * 40, "", "größe 文 🙂"]


def assert_alike(one: Tagger, other: Tagger) -> None:
    ours, theirs = (tagger.rank([""] * len(TEXTS), TEXTS, k=6, min_score=-9.0) for tagger in (one, other))
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    apart = ours.labels != theirs.labels  # two labels of one score, but for rounding
    assert apart.mean() < 0.02
    assert ours.truncated == theirs.truncated > 0


def test_a_bundle_gives_the_labels_and_scores_of_the_run(tagger: Tagger, bundle: Path) -> None:
    with Tagger.load(str(bundle)) as lean:
        assert isinstance(lean.encoder, OnnxEncoder)
        assert_alike(tagger, lean)
        assert (lean.top_k, lean.min_score) == (tagger.top_k, tagger.min_score)
        assert lean.labels.equals(tagger.labels)
        assert Tagger.load(str(bundle), ["predict.top_k=2", "prepare.text_column=body"]).top_k == 2


def test_the_encoder_may_stay_with_pytorch(run: str, tagger: Tagger, tmp_path: Path) -> None:
    export_bundle(run, str(tmp_path / "bundle"), "torch")
    assert_alike(tagger, Tagger.load(str(tmp_path / "bundle")))
    assert not list((tmp_path / "bundle").rglob("*.onnx"))


def test_a_bundle_is_loaded_and_tags_without_what_runs_are_made_by(bundle: Path) -> None:
    program = (
        f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
        "from ezxmc_ray import Tagger\nfrom ezxmc_ray.tagging import files\n"
        "print([one.text for one in Tagger.load(sys.argv[1]).tag(['a salt lamp'], k=3)[0]])"
    )
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([one.text for one in Tagger.load(str(bundle)).tag(["a salt lamp"], k=3)[0]])


def test_a_flipped_byte_in_any_file_is_found_and_named(bundle: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file())
    assert len(files) > 8
    for file in files:
        shutil.copytree(bundle, tmp_path / "copy", dirs_exist_ok=True)
        content = bytearray((tmp_path / "copy" / file).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "copy" / file).write_bytes(content)
        if file.name == "README.md":
            Tagger.load(str(tmp_path / "copy"))
            continue
        with pytest.raises(UserError, match=file.name):
            Tagger.load(str(tmp_path / "copy"))


def test_files_of_another_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "run", shard_labels=100)
    export_bundle(str(tmp_path / "run"), str(tmp_path / "other"), "torch")
    for folder in ("index", "encoder"):
        shutil.copytree(bundle, tmp_path / "mixed", dirs_exist_ok=True)
        ours, theirs = (next(one.glob("files-*")) for one in (tmp_path / "mixed", tmp_path / "other"))
        shutil.rmtree(ours / folder)
        if folder == "index":
            shutil.copytree(theirs / folder, ours / folder)
        with pytest.raises(UserError, match=rf"The bundle is damaged: .*/{folder}/.*export it again"):
            Tagger.load(str(tmp_path / "mixed"))


def test_a_bundle_of_another_version_and_other_settings_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was built with other settings of lexical"):
        Tagger.load(str(bundle), ["lexical.weight=0.9"])
    shutil.copytree(bundle, tmp_path / "copy")
    storage = Storage(str(tmp_path / "copy"))
    storage.write_note("bundle.json", storage.read_note("bundle.json") | {"version": 99})
    with pytest.raises(UserError, match="is of version 99, and this ezxmc reads versions 2 and 3"):
        Tagger.load(str(tmp_path / "copy"))
    (tmp_path / "copy" / "bundle.json").write_text("{")
    with pytest.raises(UserError, match=r"The bundle is damaged: .*bundle\.json"):
        Tagger.load(str(tmp_path / "copy"))


def test_an_export_over_an_older_one_is_there_as_a_whole_or_not_at_all(
    run: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    before = Storage(str(tmp_path / "copy")).sizes(recursive=True)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    for where in ("_copy_labels", "_write_encoder", "_try", "_readme"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(export, where, stop)
            export_bundle(run, str(tmp_path / "copy"), "torch")
        assert Storage(str(tmp_path / "copy")).sizes(recursive=True) == before
    old = Tagger.load(str(tmp_path / "copy"))
    export_bundle(run, str(tmp_path / "copy"), "torch")
    assert len(list((tmp_path / "copy").glob("files-*"))) == 1
    assert_alike(old, Tagger.load(str(tmp_path / "copy")))  # the old one's files are gone, and it goes on


def test_what_a_killed_export_left_goes_with_the_next(run: str, tmp_path: Path) -> None:
    (tmp_path / "files-0123456789abcdef/index").mkdir(parents=True)
    (tmp_path / "files-0123456789abcdef/index/shard-000.faiss").write_bytes(b"half")
    export_bundle(run, str(tmp_path), "torch")
    assert len(list(tmp_path.glob("files-*"))) == 1
    Tagger.load(str(tmp_path))


def test_two_exports_into_one_directory_do_not_meet(run: str, tmp_path: Path) -> None:
    with run_lock(Storage(str(tmp_path))), pytest.raises(UserError, match="another"):
        export_bundle(run, str(tmp_path), "torch")


def test_a_bundle_chooses_its_least_score_as_the_run_does(run: str, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    storage = Storage(str(tmp_path / "run"))
    fitted = {"min_score": 0.25, "precision_thresholds": [None if one > 80 else one / 100 for one in range(1, 100)]}
    selected = read_manifest(storage, "student")
    assert selected is not None
    write_manifest(storage, "student", replace(selected, details=selected.details | fitted))
    config = (tmp_path / "run/config.yaml").read_text().partition("\n")[2]
    (tmp_path / "run/config.yaml").write_text(config.replace("min_score: -1.0", "min_score: null"))
    export_bundle(str(tmp_path / "run"), str(tmp_path / "bundle"), "torch")
    for where in (tmp_path / "run", tmp_path / "bundle"):
        choices: list[tuple[list[str], float]] = [([], 0.25), (["predict.precision=0.3"], 0.3)]
        for knobs, least in [*choices, (["predict.min_score=0.7"], 0.7)]:
            assert Tagger.load(str(where), knobs).min_score == least
        with pytest.raises(UserError, match="no least score makes the teacher say yes to 90% of the labels"):
            Tagger.load(str(where), ["predict.precision=0.9"])


def test_a_bundle_searches_on_gpus_if_the_run_does(run: str, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = (tmp_path / "run/config.yaml").read_text().partition("\n")[2]
    config = config.replace("  gpu: true", "  gpu: false").replace("  gpus_per_actor: 1", "  gpus_per_actor: 2")
    (tmp_path / "run/config.yaml").write_text(config)
    bundle = str(tmp_path / "bundle")
    export_bundle(str(tmp_path / "run"), bundle, "torch")

    def searches(*knobs: str) -> tuple[str | None, int]:
        settings = open_settings(bundle, knobs)[1]
        return settings.gpu_dtype, settings.gpus_per_actor

    assert searches() == (None, 2)
    assert searches("index.gpu=true", "index.gpus_per_actor=4") == ("float32", 4)  # as error messages advise
    note = Storage(bundle).read_note("bundle.json")
    Storage(bundle).write_note("bundle.json", {key: value for key, value in note.items() if key != "index"})
    assert searches() == ("float32", 1)  # of a version that did not note it
    assert searches("index.gpu=false") == (None, 1)


def test_labels_of_a_bundle_for_onnx_are_searched_on_cpus(bundle: Path, copy: Path) -> None:
    assert open_settings(str(bundle), ["index.gpu=false", "encoder.batch_tokens=99"])[1].encoder.batch_tokens == 99
    with pytest.raises(UserError, match=r"leave out index\.gpu, or export the run with --encoder torch"):
        open_settings(str(bundle), ["index.gpu=true"])
    note = Storage(str(copy)).read_note("bundle.json")
    Storage(str(copy)).write_note("bundle.json", {key: value for key, value in note.items() if key != "index"})
    assert open_settings(str(copy))[1].gpu_dtype is None


@pytest.mark.parametrize(
    "knob",
    ["index.probes=3", "run=elsewhere", "seed=3", "prepare.labels=x", "teacher.model=a/b", "encoder.model=a/b"],
)
def test_a_bundle_refuses_knobs_that_would_do_nothing(bundle: Path, knob: str) -> None:
    with pytest.raises(UserError, match=r"is a knob of runs, which a bundle has no use for; it takes those of predict"):
        Tagger.load(str(bundle), [knob])


def test_no_other_number_format_is_promised_than_a_bundle_has(bundle: Path) -> None:
    with pytest.raises(UserError, match=r"computes in float32, as that of every export: leave out encoder\.dtype"):
        Tagger.load(str(bundle), ["encoder.dtype=bfloat16"])
    assert open_settings(str(bundle), ["encoder.dtype=float32"])[1].encoder.dtype == "float32"


def test_only_a_bundle_or_nothing_is_written_over(run: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else than a bundle: name an empty directory"):
        export_bundle(run, str(tmp_path))
    with pytest.raises(UserError, match="--encoder tensorflow is not one of onnx, torch"):
        export_bundle(run, str(tmp_path / "new"), "tensorflow")


def test_an_encoder_that_onnx_runtime_reads_otherwise_is_not_exported(
    run: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = next(bundle.rglob("*.onnx"))  # it takes seconds to write
    monkeypatch.setattr(onnx_export, "_write", lambda written, example, path: shutil.copy(network, path))
    real = OnnxEncoder.forward
    monkeypatch.setattr(OnnxEncoder, "forward", lambda self, groups: np.roll(real(self, groups), 1, axis=1))
    with pytest.raises(UserError, match=r"its vectors in ONNX Runtime lie up to .* apart\): give --encoder torch"):
        export_bundle(run, str(tmp_path / "bundle"))
    monkeypatch.setattr(OnnxEncoder, "forward", real)
    reading = DocumentEncoder.document_tokens
    monkeypatch.setattr(OnnxEncoder, "document_tokens", lambda self, texts: reading(self, [*texts[:-1], "x"]))
    with pytest.raises(UserError, match=r"its tokenizer\.json alone reads 'word word"):
        export_bundle(run, str(tmp_path / "bundle"))
    monkeypatch.setattr(onnx_export, "_write", stop_with(ModuleNotFoundError("no", name="onnxscript")))
    with pytest.raises(UserError, match="exporter needs onnxscript, which is not installed"):
        export_bundle(run, str(tmp_path / "bundle"))
    assert not (tmp_path / "bundle" / "bundle.json").exists() and not list((tmp_path / "bundle").glob("files-*/*"))


def stop_with(error: BaseException) -> object:
    def stop(*arguments: object) -> None:
        raise error

    return stop


def test_a_bundle_says_nothing_of_the_machine_that_made_it(run: str, bundle: Path) -> None:
    told = (bundle / "bundle.json").read_text() + (bundle / "README.md").read_text()
    assert str(Path(run).parent) not in told and str(Path.home()) not in told
    assert json.loads((bundle / "bundle.json").read_text())["encoder"]["model"] == "the student of this bundle"


@pytest.mark.parametrize("name", ["README.md", "bundle.json", "files-of-mine/data.csv"])
def test_files_that_are_called_as_those_of_a_bundle_stay(run: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match="holds something else than a bundle: name an empty directory"):
        export_bundle(run, str(tmp_path), "torch")
    assert Storage(str(tmp_path)).sizes(recursive=True) == {name: 13}


def test_a_killed_export_that_had_begun_is_made_anew(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its README.md was there, and somebody removed the folder."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(export, "bundle_note", stop_with(KeyboardInterrupt()))
        export_bundle(run, str(tmp_path), "torch")
    shutil.rmtree(next(tmp_path.glob("files-*")))
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    export_bundle(run, str(tmp_path), "torch")
    Tagger.load(str(tmp_path))


def test_folders_that_are_not_the_bundles_stay(copy: Path, run: str) -> None:
    (copy / "files-backup").mkdir()
    (copy / "files-0000000000000000").mkdir()
    with owned_bundle(Storage(str(copy))):
        assert (copy / "files-backup").is_dir() and not (copy / "files-0000000000000000").is_dir()


def test_labels_that_changed_while_an_export_waited_for_the_lock_stay(
    run: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an object store it waits until it knows whether somebody holds the lock."""
    (tmp_path / "gone.txt").write_text("id salt\n")

    @contextlib.contextmanager
    def wait(target: Storage) -> Iterator[None]:
        remove_labels(str(copy), [str(tmp_path / "gone.txt")])
        yield

    monkeypatch.setattr(export, "bundle_lock", wait)
    with pytest.raises(UserError, match="were changed since it was exported, and this would bring back the run's"):
        export_bundle(run, str(copy), "torch")
    assert "id salt" not in Tagger.load(str(copy)).labels["id"].to_pylist()
