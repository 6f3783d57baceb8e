"""Labels of a bundle come, go and are called otherwise: as a plain list of them says, whole or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import run_lock
from ezxmc_ray.config import fingerprint
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.onnx_encoder import OnnxEncoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.serving.contract import Options, TagRequest
from ezxmc_ray.serving.live import LiveTagger
from ezxmc_ray.stages import tagged_files
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.changes import add_labels, listed_labels, remove_labels, rename_labels
from ezxmc_ray.tagging.compaction import compact_labels
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.tagger import Tagger, open_settings
from tests.conftest import Ezxmc
from tests.student.toy import LABELS, TOPICS
from tests.tagging.made_run import ALTERNATIVES
from tests.tagging.test_bundle import HEAVY

WORDS = [*TOPICS, *LABELS]
DOCUMENTS = [f"{one} and {other} {third}" for one, other, third in zip(WORDS, WORDS[3:], WORDS[8:], strict=False)]
ROWS: list[dict[str, Any]] = [
    {"id": f"id {text}", "text": text} | ({"alternatives": more} if more else {})
    for text, more in zip(LABELS, [*ALTERNATIVES, *[[]] * len(LABELS)], strict=False)
]
NEW: list[dict[str, Any]] = [
    {"id": "new 1", "text": "river law"},
    {"id": "new 2", "text": "poem", "alternatives": ["steel horse", "wave"]},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class PlainLabels:
    """What a bundle should hold: rows by number, the numbers that are removed, and the words as they weighed when each
    label came."""

    def __init__(self, tagger: Tagger) -> None:
        self.rows, self.removed = list(ROWS), set[int]()
        table = tagger.searcher.parts[0].lexical
        assert table is not None
        self.language = table.names.language
        self.words: dict[int, tuple[LexicalTable, int]] = {}
        self.weigh(range(len(ROWS)))

    @property
    def now(self) -> list[int]:
        return [number for number in range(len(self.rows)) if number not in self.removed]

    def weigh(self, came: Any) -> None:
        rows = [self.rows[number] for number in self.now]
        more = [row.get("alternatives", []) for row in rows]
        texts = LabelTexts(np.concatenate([[0], np.cumsum(list(map(len, more)))]))
        table = LexicalTable.from_texts(
            [row["text"] for row in rows] + list(chain.from_iterable(more)), texts, self.language
        )
        self.words |= {number: (table, self.now.index(number)) for number in came}

    def change(self, rows: list[dict[str, Any]], removed: set[int]) -> None:
        self.removed |= removed
        self.rows += rows
        self.weigh(range(len(self.rows) - len(rows), len(self.rows)))

    def scores(self, tagger: Tagger, document: str) -> dict[int, float]:
        config, scores = tagger.settings.lexical, {}
        vector = tagger.encoder.encode_documents([""], [document]).vectors[0]
        for number in self.now:
            row = self.rows[number]
            vectors = tagger.encoder.encode_labels([row["text"], *row.get("alternatives", [])]).vectors
            table, place = self.words[number]
            at = np.array([[place]], np.int32)
            words = table.shares([""], [document], at)[0, 0]
            words += config.name_bonus * table.names.find([""], [document]).of(at)[0, 0]
            scores[number] = float((vectors @ vector).max() + config.weight * words)
        return scores


def check(tagger: Tagger, plain: PlainLabels, draw: random.Random) -> None:
    """The tagger answers as the plain list does."""
    now = plain.now
    assert tagger.label_ids.to_pylist() == [row["id"] for row in plain.rows]  # numbers mean what they meant
    assert tagger.labels.to_pylist() == [{name: plain.rows[number][name] for name in ("id", "text")} for number in now]
    documents = draw.sample(DOCUMENTS, 3)
    few = draw.sample(now, min(3, len(now)))
    excluded = [draw.sample(now, 2) for _ in documents]
    for row, document in enumerate(documents):
        scores = plain.scores(tagger, document)
        for k in (2, 50):
            for allowed, found in (
                (now, tagger.rank([""], [document], k, -9.0)),
                (few, tagger.rank([""], [document], k, -9.0, among=[plain.rows[one]["id"] for one in few])),
                (sorted({*now} - {*excluded[row]}), tagger.rank([""], [document], k, -9.0, [excluded[row]])),
            ):
                numbers = found.labels[0, : found.counts[0]].tolist()
                assert len(set(numbers)) == len(numbers) == min(k, len(allowed)) and set(numbers) <= set(allowed)
                ours = found.scores[0, : len(numbers)]
                np.testing.assert_allclose(ours, [scores[number] for number in numbers], atol=1e-5)
                best = sorted((scores[number] for number in allowed), reverse=True)[:k]
                np.testing.assert_allclose(ours, best, atol=1e-5)
    tagged = tagger.tag(documents, 50, -9.0)
    for labels, whys in zip(tagged, tagger.explain(documents, tagged), strict=True):
        for label, one in zip(labels, whys, strict=True):
            words = tagger.settings.lexical
            added = words.weight * (one.share + words.name_bonus * one.name)
            assert one.cosine + added == pytest.approx(label.score, abs=1e-6) and one.cosine <= 1 + 1e-6
            assert bool(one.words) == (one.share > 0)


def drawn_row(draw: random.Random, label_id: str) -> dict[str, Any]:
    texts = [" ".join(draw.sample(WORDS, draw.randint(1, 3))) for _ in range(draw.choice([1, 1, 3]))]
    return {"id": label_id, "text": texts[0]} | ({"alternatives": texts[1:]} if len(texts) > 1 else {})


@pytest.mark.parametrize("seed", range(3))
def test_any_changes_give_what_a_plain_list_of_the_labels_gives(copy: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    where, file = str(copy), tmp_path / "labels.jsonl"
    plain = PlainLabels(Tagger.load(where))
    for step in range(5):
        some = draw.sample(plain.now, draw.randint(1, 4))
        command = draw.choice(["add", "remove", "rename"]) if step else "add"
        if command == "add":
            rows = [drawn_row(draw, f"new {step} {n}") for n in range(draw.randint(1, 4))]
            add_labels(where, [write(file, rows)])
            plain.change(rows, set())
        elif command == "remove":
            remove_labels(where, [write(file, [{"id": plain.rows[number]["id"]} for number in some])])
            plain.change([], set(some))
        else:
            rows = [drawn_row(draw, plain.rows[number]["id"]) for number in some]
            rename_labels(where, [write(file, rows)])
            plain.change(rows, set(some))
        check(Tagger.load(where), plain, draw)
    listed = list(listed_labels(where))
    assert listed == [plain.rows[number] for number in plain.now]


def test_a_bundle_of_the_listed_labels_has_the_same_cosines_and_names(
    run: str, copy: Path, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    file = tmp_path / "labels.jsonl"
    add_labels(str(copy), [write(file, NEW)])
    rename_labels(str(copy), [write(file, [{"id": "id wheel", "text": "garden"}])])
    remove_labels(str(copy), [write(file, [{"id": "id iron"}])])
    assert ezxmc("labels", "list", str(copy), "--output", str(file)).stdout == f"Wrote 11 labels to {file}\n"
    again = ezxmc("export", run, str(tmp_path / "again"), "--encoder", "torch", "--labels", str(file))
    assert again.returncode == 0
    one, other = Tagger.load(str(copy)), Tagger.load(str(tmp_path / "again"))
    assert one.labels.equals(other.labels)
    found = []
    for tagger in (one, other):
        tagged = tagger.tag(DOCUMENTS, 50, -9.0)
        whys = tagger.explain(DOCUMENTS, tagged)
        found.append(
            [
                {label.label_id: (why.cosine, why.name, why.words) for label, why in zip(*both, strict=True)}
                for both in zip(tagged, whys, strict=True)
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        assert ours.keys() == theirs.keys()
        for label, (cosine, name, words) in theirs.items():
            assert ours[label] == (pytest.approx(cosine, abs=1e-5), name, words)


def test_both_encoders_give_labels_the_vectors_of_the_student(run: str, bundle: Path, tmp_path: Path) -> None:
    export_bundle(run, str(tmp_path / "torch"), "torch")
    texts = [*WORDS, "größe 文 🙂", "a long label " * 20, ""]
    onnx, torch = Tagger.load(str(bundle)).encoder, Tagger.load(str(tmp_path / "torch")).encoder
    assert isinstance(onnx, OnnxEncoder) and isinstance(torch, Encoder)
    one, other = onnx.encode_labels(texts), torch.encode_labels(texts)
    np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-5)
    assert (one.truncated, one.unreadable) == (other.truncated, other.unreadable) and one.truncated > 0
    documents = onnx.encode_documents([""] * len(texts), texts)
    assert documents.truncated == one.truncated
    onnx.reads_labels = False
    with pytest.raises(UserError, match="reads documents alone: export the run again with --encoder torch"):
        onnx.encode_labels(texts)


COMMANDS: dict[str, tuple[Callable[[str, list[str]], Any], list[dict[str, Any]]]] = {
    "add": (add_labels, NEW),
    "remove": (remove_labels, [{"id": "id salt"}, {"id": "id wool"}]),
    "rename": (rename_labels, [{"id": "id salt", "text": "river"}, {"id": "id wool", "text": "tax"}]),
}


def killed_at_each_write(monkeypatch: pytest.MonkeyPatch, command: Callable[[], Any]) -> Iterator[None]:
    """Give ``command`` until it comes to its end, each time with a (simulated) kill one write later; yields after
    each."""
    real = Storage._commit
    for at in range(100):
        writes = count(1)

        def simulated_kill(storage: Storage, relative: str, at: int = at, writes: Iterator[int] = writes) -> Any:
            if next(writes) > at:
                raise KeyboardInterrupt
            return real(storage, relative)

        with monkeypatch.context() as patch:
            patch.setattr(Storage, "_commit", simulated_kill)
            patch.setattr(Storage, "remove", lambda storage, name: None)  # nothing tidies up after a kill
            try:
                command()
                return
            except KeyboardInterrupt:
                pass
        yield
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_any_write_leaves_the_old_labels(
    copy: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, rows = COMMANDS[name]
    file, where = write(tmp_path / "labels.jsonl", rows), str(copy)
    before = Tagger.load(where).labels.to_pylist()
    kills = 0
    for _ in killed_at_each_write(monkeypatch, lambda: command(where, [file])):
        assert Tagger.load(where).labels.to_pylist() == before
        kills += 1
    assert kills == {"add": 14, "remove": 3, "rename": 14}[name]
    assert Tagger.load(where).labels.to_pylist() != before
    left = len(list(copy.glob("files-*")))
    remove_labels(where, [write(tmp_path / "more.jsonl", [{"id": "id lamp"}])])
    assert len(list(copy.glob("files-*"))) == {"add": 2, "remove": 1, "rename": 2}[name] <= left


KILLED = f"""
import os, signal, sys
for name in {HEAVY}: sys.modules[name] = None
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.changes import rename_labels
real = Storage._commit
def commit(storage, relative):
    if relative == "bundle.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(storage, relative)
Storage._commit = commit
rename_labels(sys.argv[1], [sys.argv[2]])
"""


def test_a_command_that_is_killed_before_its_last_write_can_be_given_again(copy: Path, tmp_path: Path) -> None:
    """On a machine without what runs are made by."""
    command, rows = COMMANDS["rename"]
    file, where = write(tmp_path / "labels.jsonl", rows), str(copy)
    before = list(listed_labels(where))
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-c", KILLED, where, file], env=environment, check=False)
    assert done.returncode == -9 and len(list(copy.glob("files-*"))) == 2
    assert list(listed_labels(where)) == before
    command(where, [file])
    there = sorted(one.name for one in copy.iterdir())
    assert there[:2] == ["README.md", "bundle.json"] and len(there) == 4
    assert list(listed_labels(where))[-2:] == rows


def test_labels_change_on_an_object_store_too(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: a local folder that is taken for a store."""
    monkeypatch.setenv("EZXMC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run_lock, "SETTLE_S", 0.01)
    monkeypatch.setattr(run_lock, "LOOK_S", 0)
    monkeypatch.setattr(Storage, "is_local", property(lambda self: False))
    put = Storage._put

    def put_anywhere(self: Storage, local: str, relative: str) -> None:
        Path(self.path(relative)).parent.mkdir(exist_ok=True, parents=True)  # which no object store asks for
        put(self, local, relative)

    monkeypatch.setattr(Storage, "_put", put_anywhere)
    looks, real = list[str](), run_lock.ObjectLock.check
    monkeypatch.setattr(run_lock.ObjectLock, "check", lambda self: (looks.append(""), real(self)))
    add_labels(str(copy), [write(tmp_path / "labels.jsonl", NEW)])
    assert len(looks) >= 12  # before each write of the part's
    remove_labels(str(copy), [write(tmp_path / "ids.jsonl", [{"id": "id salt"}])])
    assert [row["id"] for row in listed_labels(str(copy))][-3:] == ["id wool", "new 1", "new 2"]
    assert compact_labels(str(copy)).after == 1
    tagger = Tagger.load(str(copy))
    assert tagger.tag(["river law"], 1)[0][0].label_id == "new 1"
    assert not {".lock", ".owner.json"} & {one.name for one in copy.iterdir()}


def test_a_flipped_byte_in_a_part_is_found_and_named(copy: Path, tmp_path: Path) -> None:
    first = next(copy.glob("files-*"))
    add_labels(str(copy), [write(tmp_path / "labels.jsonl", NEW)])
    (part,) = (one for one in copy.glob("files-*") if one != first)
    files = sorted(path for path in part.rglob("*") if path.is_file())
    assert len(files) >= 8
    for file in files:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(UserError, match=rf"The bundle is damaged: .*{part.name}/.*{file.name}"):
            Tagger.load(str(copy))
        with pytest.raises(UserError, match=file.name):
            remove_labels(str(copy), [write(tmp_path / "ids.jsonl", [{"id": "new 1"}])])
        file.write_bytes(content)
    shutil.rmtree(part)
    with pytest.raises(UserError, match=rf"The bundle is damaged: .*{part.name}/.*it is missing"):
        Tagger.load(str(copy))


def test_an_id_that_went_may_come_again_and_has_another_number(copy: Path, tmp_path: Path) -> None:
    where, file = str(copy), write(tmp_path / "labels.jsonl", [{"id": "id salt", "text": "river"}])
    remove_labels(where, [file])
    add_labels(where, [file])
    tagger = Tagger.load(where)
    assert tagger.numbers_of(["id salt"]).tolist() == [10] and len(tagger.labels) == 10
    assert [one.text for one in tagger.tag(["salt"], 1, among=["id salt"])[0]] == ["river"]
    tagged = tagger.tag_table(pa.table({"text": ["salt", "river"]}), 10, -9.0)
    assert sorted(tagged["label_ids"][0].as_py()) == sorted(row["id"] for row in ROWS)
    assert "salt" not in tagged["label_texts"][0].as_py()


def test_files_that_were_tagged_with_other_labels_are_tagged_anew(copy: Path, tmp_path: Path) -> None:
    states = []
    for ids in ([], ["id salt"], ["id lamp"]):
        if ids:
            remove_labels(str(copy), [write(tmp_path / "ids.jsonl", [{"id": one} for one in ids])])
        states.append(fingerprint(tagged_files.what_counts(open_settings(str(copy))[1])))
    add_labels(str(copy), [write(tmp_path / "labels.jsonl", NEW)])
    states.append(fingerprint(tagged_files.what_counts(open_settings(str(copy))[1])))
    assert len(set(states)) == 4


def test_a_replica_takes_each_change_over_and_finds_labels_by_their_new_texts(copy: Path, tmp_path: Path) -> None:
    replica = LiveTagger(str(copy))
    states = [replica.export]
    for name in COMMANDS:
        command, rows = COMMANDS[name]
        rows = [row for row in rows if name != "rename"] or [{"id": "id lamp", "text": "wave"}]
        command(str(copy), [write(tmp_path / "labels.jsonl", rows)])
        assert replica.reload() and not replica.reload()
        states.append(replica.export)
    assert len(set(states)) == 4
    found = replica.find_labels("", 50)
    assert found["total"] == found["matches"] == 10 and {"id": "id lamp", "text": "wave"} in found["labels"]
    assert replica.find_labels("salt", 5)["matches"] == replica.find_labels("text lamp", 5)["matches"] == 0
    answer = replica.tag(TagRequest([""], ["wave"], Options(k=10, min_score=-1.0, explain=True, among=["id lamp"])))
    assert [one["text"] for one in answer.results[0]] == ["wave"] and answer.results[0][0]["why"]["words"] == ["wave"]
    gone = replica.tag(TagRequest([""], ["salt"], Options(among=["id salt"])))
    assert gone.mistake == "No label has the id 'id salt'."
    assert "more than the 10 labels" in str(replica.tag(TagRequest([""], ["x"], Options(k=11))).mistake)
