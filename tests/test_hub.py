"""The hub is asked quickly, its local cache serves where it is not there, and what is in neither is one sentence.

A server on this machine stands in for the hub; what asks it is a process of its own, since the hub's library reads its
settings when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.student.toy import save_tiny_bert

ASK = """
import os, sys
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model, weights_fingerprint
from ezxmc_ray.teacher.readout import resolve_readout
from ezxmc_ray.config import TeacherConfig
try:
    print(resolve_model("org/model"), resolve_readout(TeacherConfig(model="org/model")))
    print("key", weights_fingerprint("org/model"))
except UserError as error:
    print(error)
if "load" in sys.argv:
    from transformers import AutoConfig
    print("loaded", AutoConfig.from_pretrained("org/model").model_type)
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"

#: Of each pair of arguments: the hub's main branch goes to the first, and the second is loaded.
LOAD = """
import sys
from pathlib import Path
from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.hub import hub_commit, hub_config
from ezxmc_ray.models import pinned, weights_fingerprint
config = EncoderConfig(dtype="float32", max_document_tokens=32, max_label_tokens=32)
branch, *rest = sys.argv[1:]
for commit, model in zip(rest[::2], rest[1::2]):
    hub_commit.cache_clear()
    hub_config.cache_clear()
    Path(branch).write_text(commit)
    [vector] = Encoder.load(model, config).encode_labels(["astronomy"]).vectors
    print(pinned(model), weights_fingerprint(model), vector[:4].tolist(), sep="|")
"""


class FakeHub(BaseHTTPRequestHandler):
    """Stands in for the hub: knows org/model unless told otherwise, and answers late if it is told to."""

    status, delay_s, asked = 200, 0.0, 0

    def do_GET(self) -> None:
        type(self).asked += self.path == "/api/models/org/model"
        time.sleep(self.delay_s)
        body = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": []} if self.status == 200 else {}).encode()
        self.send_response(self.status)
        if self.status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[FakeHub]]]:
    class Hub(FakeHub):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    # A caller that has gone is no news: told on standard error, it would stand in the output of a later test.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Hub
    server.shutdown()


def cached(folder: Path, architecture: str) -> None:
    """A local cache that holds org/model."""
    model = folder / "hub" / "models--org--model"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": [architecture]}))


def ask(folder: Path, endpoint: str, *arguments: str, offline: bool = False) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(folder), "HF_ENDPOINT": endpoint} | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    command = [sys.executable, "-c", ASK, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True).stdout


def test_a_model_that_neither_hub_nor_cache_has_is_one_sentence(tmp_path: Path, hub: tuple[str, type[FakeHub]]) -> None:
    endpoint, answers = hub
    answers.status = 404
    assert ask(tmp_path, endpoint).startswith("The Hugging Face hub has no model org/model for you")
    for offline in (True, False):
        said = ask(tmp_path, "http://127.0.0.1:9", offline=offline)
        assert (
            said.startswith("The model org/model is no directory here, not in the local cache")
            and len(said.splitlines()) == 1
        )


def test_a_hub_that_does_not_answer_is_not_waited_for(tmp_path: Path, hub: tuple[str, type[FakeHub]]) -> None:
    endpoint, answers = hub
    answers.delay_s = 60.0
    started = time.monotonic()
    said = ask(tmp_path, endpoint)
    assert "could not be had from the Hugging Face hub (" in said
    assert time.monotonic() - started < 20  # six, and what a busy machine adds; transformers would ask for minutes


def test_a_model_in_the_cache_serves_where_the_hub_does_not(tmp_path: Path) -> None:
    cached(tmp_path, "BertForSequenceClassification")
    started = time.monotonic()
    said = ask(tmp_path, "http://127.0.0.1:9", "load").splitlines()
    assert said[0].startswith("The Hugging Face hub cannot be reached (")
    assert said[-3] == "org/model classify" and said[-1] == "loaded bert"
    assert time.monotonic() - started < 60  # transformers' own tries alone would take half a minute a file
    quiet = ask(tmp_path, "http://127.0.0.1:9", offline=True).splitlines()
    assert quiet == [said[-3], said[-2]]


def test_a_hub_that_is_there_says_which_commit_counts(tmp_path: Path, hub: tuple[str, type[FakeHub]]) -> None:
    endpoint, answers = hub
    cached(tmp_path, "LlamaForCausalLM")
    there = ask(tmp_path, endpoint, offline=True)
    answers.status = 503
    assert there.startswith("org/model yes_no")
    told, answer = ask(tmp_path, endpoint).split("\n", 1)
    assert answer == there
    assert told.startswith("The Hugging Face hub does not give org/model (Server error '503 Service Unavailable' ")
    assert told.endswith("): it is taken from the local cache, commit 0123456789ab, which may be older.")
    answers.status = 404
    assert "it is taken from the local cache, commit 0123456789ab" in ask(tmp_path, endpoint)


def test_a_busy_hub_is_asked_again_and_an_unknown_commit_is_not_taken_for_another(
    tmp_path: Path, hub: tuple[str, type[FakeHub]]
) -> None:
    """Else what a run was made by would be another encoder, or teacher, for the time of one error."""
    endpoint, answers = hub
    answers.status = 429
    said = ask(tmp_path, endpoint)
    assert said.startswith("The Hugging Face hub does not say which commit of org/model it has (")
    assert said.rstrip().endswith("try again in a minute, or give a directory.") and len(said.splitlines()) == 1
    assert answers.asked == 3


def test_a_commit_stays_what_it_was_while_the_hub_goes_on(tmp_path: Path) -> None:
    """A node that comes later must not load what the key of the verdicts does not name."""
    later = "f" * 40
    model = tmp_path / "hub" / "models--org--model"
    (model / "refs").mkdir(parents=True)
    for commit in (COMMIT, later):
        weights = save_tiny_bert(model / "snapshots" / commit, 0.0) / "model.safetensors"
    others = {name: -weight if "word_embeddings" in name else weight for name, weight in load_file(weights).items()}
    save_file(others, weights, {"format": "pt"})

    pinned = f"org/model@{COMMIT}"
    asked = [COMMIT, "org/model", later, pinned, later, "org/model", later, str(model / "snapshots" / COMMIT)]
    command = [sys.executable, "-c", LOAD, str(model / "refs" / "main"), *asked]
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    before, then, now, itself = (line.split("|") for line in done.stdout.splitlines())
    assert before[0] == pinned and then == before and itself[2] == before[2]
    assert now[0] == f"org/model@{later}" and now[1] != before[1] and now[2] != before[2]
