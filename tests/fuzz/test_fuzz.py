"""Whatever a file holds that users bring, or that a run stores: it is read, or told in one sentence; never a traceback.

EZXMC_EXAMPLES=1500 python -m pytest tests/fuzz --timeout 0        # 10,500 inputs
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import starmap, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ezxmc_ray import curriculum, layout
from ezxmc_ray.config import Config, PrepareConfig, fingerprint, load_config, to_dict
from ezxmc_ray.context import Context
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import clear_damage, note_damage, noted_damage, verify
from ezxmc_ray.stages import prepare as prepare_stage
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import EXPORTED_VERDICTS_SCHEMA
from ezxmc_ray.teacher.engine import asked_form
from ezxmc_ray.teacher.prompts import load_template
from ezxmc_ray.verdicts.summary import compact, summary
from ezxmc_ray.verdicts.transfer import export_verdicts, import_verdicts
from tests.fuzz.mutations import VALUES, fuzzed, in_time, nearly
from tests.verdicts.judged_run import OLD, Run

ROWS: list[dict[str, Any]] = [
    {"id": "a", "title": "One", "text": "a game of chess", "split": "train", "labels": ["1", "2"]},
    {"id": "b", "title": "", "text": "bread, flour; dough", "split": "test", "labels": []},
]
LABELS = [{"id": "1", "text": "chess", "description": "a game"}, {"id": "2", "text": "bread", "description": ""}]


def in_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def in_npz(dense: list[list[int]]) -> bytes:
    sink = io.BytesIO()
    scipy.sparse.save_npz(sink, scipy.sparse.csr_matrix(np.array(dense, float)))
    return sink.getvalue()


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CSV = b'id,title,text,split,labels\na,One,"a game, of chess",train,1;2\nb,,"bread ""flour""\ndough",test,[]\n'
SKOS = b"""@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
<http://x/1> a skos:Concept ; skos:prefLabel "chess"@en, "Schach"@de ; skos:altLabel "check"@en .
<http://x/2> a skos:Concept ; skos:prefLabel "bread"@en .
"""
#: By the name of the file: what it holds. The first two are documents and labels that go with any of the others.
FILES = {
    "documents.jsonl": json_lines(ROWS),
    "labels.jsonl": json_lines(LABELS),
    "documents.jsonl.gz": gzip.compress(json_lines(ROWS), mtime=0),
    "documents.json": json.dumps(ROWS, indent=1).encode(),
    "documents.parquet": in_parquet(ROWS),
    "documents.csv": CSV,
    "documents.tsv": CSV.replace(b",", b"\t"),
    "labels.csv": b"id;text;description\n1;chess;a game\n2;bread;\n",
    "labels.parquet": in_parquet(LABELS),
    "labels.txt": b"chess\nbread\n",
    "labels.ttl": SKOS,
    "labels.rdf": b"""<?xml version="1.0"?><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:skos="http://www.w3.org/2004/02/skos/core#"><skos:Concept rdf:about="http://x/1"><skos:prefLabel xml:lang="en">
chess</skos:prefLabel></skos:Concept></rdf:RDF>""",
}
#: Files of the Extreme Classification Repository's layouts, as JSON and as text.
REPOSITORY = {
    "json": {
        "lbl.json": json_lines([{"uid": one["id"], "title": one["text"]} for one in LABELS]),
        "trn.json": json_lines(
            [{"uid": one["id"], "title": "t", "content": one["text"], "target_ind": [0, 1]} for one in ROWS]
        ),
    },
    "text": {
        "Y.txt": b"chess\nbread\n",
        "trn_X.txt": b"a game of chess\nbread and flour\n",
        "trn_X_Y.txt": b"2 2\n0:1\n0:1 1:1\n",
    },
    "npz": {
        "Y.txt": b"chess\nbread\n",
        "trn_X.txt": b"a game of chess\nbread and flour\n",
        "Y.trn.npz": in_npz([[1, 0], [1, 1]]),
    },
}
TEMPLATE = Path(load_template.__code__.co_filename).with_name("package.yaml").read_bytes()
EXAMPLES_FILE = b"- document: A game of chess.\n  yes: [chess]\n  no: [bread, 'law']\n- document: x\n  no:\n  - y\n"


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``prepare(**knobs)``: the stage, its tasks one after the other in this process."""
    monkeypatch.setattr(prepare_stage, "run_tasks", starmap)
    monkeypatch.setattr(prepare_stage, "cluster_cpus", lambda: 2)
    monkeypatch.setattr(prepare_stage, "run_task", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(prepare_stage, "say", lambda _: None)
    monkeypatch.setattr(prepare_stage, "check_counts", lambda *counts: None)  # few documents are read as many are
    monkeypatch.setattr("ezxmc_ray.storage.os.fsync", lambda _: None)

    def run(**knobs: Any) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        config = Config(prepare=PrepareConfig(test_share=0, held_out_share=0, on_bad_rows="skip", **knobs))
        with in_time(), suppress(UserError):
            prepare_stage.prepare(Context(config, Storage(str(tmp_path / "run"))))

    return run


@given(data=st.data(), name=st.sampled_from(list(FILES)))
@fuzzed
def test_documents_and_labels(tmp_path: Path, prepare: Callable[..., None], data: Any, name: str) -> None:
    for whole in ("documents.jsonl", "labels.jsonl"):
        (tmp_path / whole).write_bytes(FILES[whole])
    (tmp_path / name).write_bytes(data.draw(nearly([FILES[name]])))
    which = name.partition(".")[0]
    files = {"documents": "documents.jsonl", "labels": "labels.jsonl"} | {which: name}
    prepare(**{kind: [str(tmp_path / file)] for kind, file in files.items()})


@given(data=st.data(), layout=st.sampled_from(list(REPOSITORY)))
@fuzzed
def test_directories_of_the_repository(tmp_path: Path, prepare: Callable[..., None], data: Any, layout: str) -> None:
    folder = tmp_path / layout
    folder.mkdir(exist_ok=True)
    changed = data.draw(st.sampled_from(list(REPOSITORY[layout])))
    for name, content in REPOSITORY[layout].items():
        (folder / name).write_bytes(data.draw(nearly([content])) if name == changed else content)
    prepare(xmc_directory=str(folder))


@given(data=st.data(), kinds=st.sampled_from(["text", "values"]))
@fuzzed
def test_configurations(tmp_path: Path, data: Any, kinds: str) -> None:
    whole = to_dict(Config())
    if kinds == "text":
        content = data.draw(nearly([yaml.safe_dump(whole).encode(), b"run: here\nteacher:\n  model: a/b\n"]))
    else:
        section = data.draw(st.sampled_from([name for name, value in whole.items() if isinstance(value, dict)]))
        key = data.draw(st.sampled_from(list(whole[section])))
        content = yaml.safe_dump({section: {key: data.draw(VALUES)}}, allow_unicode=True).encode()
    (tmp_path / "conf.yaml").write_bytes(content)
    overrides = data.draw(st.lists(st.one_of(st.text(max_size=9), st.just("seed=" + "9" * 5000)), max_size=1))
    with in_time(), suppress(UserError):
        fingerprint(to_dict(load_config(str(tmp_path / "conf.yaml"), overrides)))


@given(data=st.data(), kinds=st.sampled_from(["text", "values"]))
@fuzzed
def test_prompt_templates(tmp_path: Path, data: Any, kinds: str) -> None:
    whole = yaml.safe_load(TEMPLATE)
    if kinds == "text":
        content = data.draw(nearly([TEMPLATE]))
    else:
        key = data.draw(st.sampled_from(list(whole)))
        content = yaml.safe_dump({**whole, key: data.draw(VALUES)}).encode()
    (tmp_path / "prompt.yaml").write_bytes(content)
    with in_time(), suppress(UserError):
        template = load_template(str(tmp_path / "prompt.yaml"))
        fingerprint([asked_form(template, readout) for readout in ("yes_no", "likelihood")])


@given(content=st.one_of(nearly([EXAMPLES_FILE]), VALUES.map(lambda value: yaml.safe_dump([value]).encode())))
@fuzzed
def test_worked_examples(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "examples.yaml").write_bytes(content)
    with in_time(), suppress(UserError):
        fingerprint(asked_form(load_template("generic", str(tmp_path / "examples.yaml")), "yes_no"))


@contextmanager
def as_it_was(run: Run, aside: Path) -> Iterator[None]:
    """What the block does to the run is undone."""
    if not aside.exists():
        shutil.copytree(run.path, aside)
    try:
        yield
    finally:
        shutil.rmtree(run.path)
        shutil.copytree(aside, run.path)


@given(data=st.data())
@fuzzed
def test_imported_verdicts(judged: Run, tmp_path: Path, data: Any) -> None:
    file = tmp_path / "import.parquet"
    if not (tmp_path / "whole.parquet").exists():
        export_verdicts(judged.context, str(tmp_path / "whole.parquet"), None)
    whole = pq.read_table(tmp_path / "whole.parquet")
    kind = data.draw(st.sampled_from(["bytes", "note", "column", "by hand"]))
    if kind == "bytes":
        file.write_bytes(data.draw(nearly([(tmp_path / "whole.parquet").read_bytes()])))
    elif kind == "note":
        name = data.draw(st.sampled_from([b"ezxmc.teacher", b"ezxmc.costs"]))
        told = json.loads(whole.schema.metadata[name])
        told = data.draw(st.one_of(VALUES, st.sampled_from(list(told) or ["x"]).flatmap(_with_another_value(told))))
        note = data.draw(st.one_of(st.just(json.dumps(told).encode()), nearly([json.dumps(told).encode()])))
        pq.write_table(whole.replace_schema_metadata({**whole.schema.metadata, name: note}), file)
    else:
        columns = list(EXPORTED_VERDICTS_SCHEMA.names)
        column = data.draw(st.sampled_from(columns))
        values = data.draw(st.lists(st.one_of(st.none(), st.floats()), min_size=len(whole), max_size=len(whole)))
        text = data.draw(st.booleans())
        array = pa.array([None if one is None else str(one) for one in values] if text else values)
        changed = whole.set_column(columns.index(column), column, array)
        pq.write_table(changed if kind == "column" else changed.replace_schema_metadata(None), file)
    teacher = data.draw(st.sampled_from([None, "people", "configured", "../x", ""]))
    with as_it_was(judged, tmp_path / "aside"), in_time(), suppress(UserError):
        import_verdicts(judged.context, str(file), teacher)


def _with_another_value(told: dict[str, Any]) -> Callable[[str], st.SearchStrategy[dict[str, Any]]]:
    return lambda key: VALUES.map(lambda value: {**told, key: value})


@pytest.fixture
def judged(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with verdicts."""
    monkeypatch.setattr("ezxmc_ray.storage.os.fsync", lambda _: None)
    run = make_run(OLD[:6])
    run.judge()
    run.judge_priors()
    return run


@given(data=st.data())
@fuzzed
def test_files_of_a_run(judged: Run, tmp_path: Path, data: Any) -> None:
    storage = judged.storage
    name = data.draw(st.sampled_from([one for one in storage.list(recursive=True) if ".lock" not in one]))
    content = data.draw(nearly([storage.read_bytes(name)]))
    with as_it_was(judged, tmp_path / "aside"):
        storage.write_bytes(name, content)
        context = Context(judged.context.config, storage)
        for read in (
            lambda: look(judged, name),
            lambda: summary(context),
            lambda: export_verdicts(context, str(tmp_path / "out.parquet"), None),
            lambda: compact(context),
        ):
            with in_time(), suppress(UserError):
                read()
        note_damage(storage, verify(storage, starmap).damaged)
        if noted_damage(storage):
            clear_damage(storage)


def look(run: Run, name: str) -> None:
    """As `ezxmc status` does, which reads config.yaml too: that takes longer than all else."""
    if name == layout.CONFIG:
        curriculum.status(run.path)
    plan = RunPlan(run.context.config, run.storage)
    for step in plan.steps_of(1):
        plan.damage(step)
    list(takewhile(plan.done, plan.steps()))
    run.pending()
