"""Bundles on a hub. A server on this machine simulates what is used of the hub's HTTP interface."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

from ezxmc_ray import hub as hub_module
from ezxmc_ray.commands.serving import _replicas
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import pinned
from ezxmc_ray.serving.live import LiveTagger
from ezxmc_ray.serving.settings import ServeSettings
from ezxmc_ray.tagging.changes import add_labels, remove_labels
from ezxmc_ray.tagging.push import push_bundle
from ezxmc_ray.tagging.tagger import Tagger
from tests.student.toy import TOPICS


class SimulatedHub(BaseHTTPRequestHandler):
    """A hub of one repository, ``org/tagger``: its ``files`` by name, the commits that made it what it is, and what it
    held after each of them (``past``)."""

    files: dict[str, bytes]
    past: dict[str, dict[str, bytes]]
    commits: list[dict[str, list[str]]]
    made: list[bool]
    token = "Bearer hf_simulated"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/tagger"):
            if not self.made:
                return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
            commit = path.partition("/revision/")[2]
            commit = commit if commit in self.past else self.commit
            siblings = [{"rfilename": name} for name in sorted(self.past.get(commit, {}))]
            if "/tree/" in path:
                return self.answer(
                    200, [{"type": "file", "path": n, "size": len(c), "oid": sha(c)} for n, c in self.files.items()]
                )
            return self.answer(200, {"id": "org/tagger", "sha": commit, "siblings": siblings})
        self.send_file(path, with_body=True)

    def do_HEAD(self) -> None:
        self.send_file(self.path.split("?")[0], with_body=False)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != self.token:
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            self.made.append(True)
            return self.answer(200, {"url": f"{huggingface_hub.constants.ENDPOINT}/org/{json.loads(content)['name']}"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            wanted = json.loads(content)["files"]
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]
            return self.answer(200, {"files": files})
        commit: dict[str, list[str]] = {"file": [], "deletedFile": []}
        for line in map(json.loads, content.splitlines()):
            if line["key"] in commit:
                commit[line["key"]].append(name := line["value"]["path"])
                self.files.pop(name, None)
            if line["key"] == "file":
                self.files[name] = base64.b64decode(line["value"]["content"])
        self.commits.append(commit)
        self.past[self.commit] = dict(self.files)
        told = {
            "commitUrl": f"{huggingface_hub.constants.ENDPOINT}/org/tagger/commit/{self.commit}",
            "commitOid": self.commit,
        }
        return self.answer(200, told | {"pullRequestUrl": None, "hookOutput": "", "success": True})

    @property
    def commit(self) -> str:
        return f"{len(self.commits):040x}"

    def send_file(self, path: str, with_body: bool) -> None:
        commit, _, name = path.removeprefix("/org/tagger/resolve/").partition("/")
        commit = self.commit if commit == "main" else commit
        if name not in self.past.get(commit, {}):
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = self.past[commit][name]
        headers = {"ETag": f'"{sha(content)}"', "X-Repo-Commit": commit, "Content-Length": str(len(content))}
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)
        return None

    def answer(self, status: int, told: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


def sha(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def simulated_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[SimulatedHub]]:
    class Hub(SimulatedHub):
        pass

    Hub.files, Hub.past, Hub.commits, Hub.made = {}, {}, [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = huggingface_hub.constants
    for name, value in (
        ("ENDPOINT", f"http://127.0.0.1:{server.server_port}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("HF_HUB_DISABLE_XET", True),
        (
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        ),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_simulated")
    monkeypatch.setattr(hub_module, "_ask", lambda hub_id, revision: huggingface_hub.HfApi().model_info(hub_id))
    hub_module.hub_commit.cache_clear()
    yield Hub
    hub_module.hub_commit.cache_clear()
    server.shutdown()


def test_what_is_pushed_is_loaded_by_its_name(
    run: str, tagger: Tagger, simulated_hub: type[SimulatedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push_bundle(run, "org/tagger", "torch").endswith("org/tagger")
    assert {"README.md", "bundle.json"} < set(simulated_hub.files)
    loaded = Tagger.load("org/tagger")
    for one, other in zip(loaded.tag(TOPICS), tagger.tag(TOPICS), strict=True):
        np.testing.assert_allclose([label.score for label in one], [label.score for label in other], atol=1e-5)

    old = {name for name in simulated_hub.files if name.startswith("files-")}
    push_bundle(run, "org/tagger", "torch")
    assert old == set(simulated_hub.commits[1]["deletedFile"]) and not old & set(simulated_hub.files)
    hub_module.hub_commit.cache_clear()
    assert [len(one) for one in Tagger.load("org/tagger").tag(TOPICS)] == [4] * len(TOPICS)


@pytest.mark.parametrize("way", ["offline", "away", "busy"])
def test_a_bundle_in_the_cache_serves_where_the_hub_does_not(
    run: str, simulated_hub: type[SimulatedHub], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    push_bundle(run, "org/tagger", "torch")
    tagged = Tagger.load("org/tagger").tag(TOPICS)
    hub_module.hub_commit.cache_clear()
    if way == "busy":
        monkeypatch.setattr(simulated_hub, "do_GET", lambda self: self.answer(503, {}))
        monkeypatch.setattr(simulated_hub, "do_HEAD", lambda self: self.answer(503, {}))
        monkeypatch.setattr(hub_module, "AGAIN_S", (0.0,))
    else:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", way == "offline")
        monkeypatch.setenv("HF_HUB_OFFLINE", str(int(way == "offline")))
    assert Tagger.load("org/tagger").tag(TOPICS) == tagged


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What replicas were told to serve, in place of starting them."""
    pytest.importorskip("grpc_reflection", reason="Ray Serve needs ezxmc-ray[serve]")
    told = list[str]()
    monkeypatch.setattr("ezxmc_ray.serving.deployment.ray_replicas", lambda where, *_: told.append(where))
    return told


@pytest.mark.parametrize("is_away", [False, True])
def test_replicas_serve_the_commit_of_the_servers_start_whenever_they_start(
    run: str, simulated_hub: type[SimulatedHub], monkeypatch: pytest.MonkeyPatch, served: list[str], is_away: bool
) -> None:
    push_bundle(run, "org/tagger", "torch")
    _replicas("org/tagger", [], ServeSettings(), False)
    export = LiveTagger(served[0]).export
    push_bundle(run, "org/tagger", "torch")
    newer = json.loads(simulated_hub.files["bundle.json"])["folder"]
    hub_module.hub_commit.cache_clear()  # of another process
    shutil.rmtree(Path(huggingface_hub.constants.HF_HUB_CACHE))
    if is_away:  # of a node that was never asked for the newest
        LiveTagger(served[0])
        hub_module.hub_commit.cache_clear()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert LiveTagger(served[0]).export == export != newer
    assert is_away or LiveTagger("org/tagger").export == newer


@pytest.mark.parametrize("was_tagged_before", [False, True])
def test_a_server_that_is_started_again_while_the_hub_is_away_serves_what_it_served(
    run: str,
    simulated_hub: type[SimulatedHub],
    monkeypatch: pytest.MonkeyPatch,
    served: list[str],
    was_tagged_before: bool,
) -> None:
    push_bundle(run, "org/tagger", "torch")
    if was_tagged_before:  # the cache has an older bundle, too
        Tagger.load("org/tagger")
        push_bundle(run, "org/tagger", "torch")
        hub_module.hub_commit.cache_clear()
    newest = json.loads(simulated_hub.files["bundle.json"])["folder"]
    _replicas("org/tagger", [], ServeSettings(), False)
    hub_module.hub_commit.cache_clear()  # of another process
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _replicas("org/tagger", [], ServeSettings(), False)
    assert served == [f"org/tagger@{len(simulated_hub.commits):040x}"] * 2
    assert [LiveTagger(where).export for where in ("org/tagger", *served)] == [newest] * 3


def test_a_bundle_is_pushed_with_all_of_its_parts(
    bundle: Path, tmp_path: Path, simulated_hub: type[SimulatedHub]
) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "labels.csv").write_text("id,text\nnew,river law\n")
    (tmp_path / "gone.txt").write_text("id salt\n")
    add_labels(str(tmp_path / "copy"), [str(tmp_path / "labels.csv")])
    remove_labels(str(tmp_path / "copy"), [str(tmp_path / "gone.txt")])
    (tmp_path / "copy/files-00000000000000ff").mkdir()  # of a command that was killed
    (tmp_path / "copy/files-00000000000000ff/labels.parquet").write_bytes(b"half")
    push_bundle(str(tmp_path / "copy"), "org/tagger")
    folders = {name.partition("/")[0] for name in simulated_hub.files}
    assert len(folders) == 4 and "files-00000000000000ff" not in folders and not {".lock", ".owner.json"} & folders
    loaded, here = Tagger.load("org/tagger"), Tagger.load(str(tmp_path / "copy"))
    assert loaded.labels.equals(here.labels) and "new" in loaded.labels["id"].to_pylist()
    assert loaded.tag(TOPICS) == here.tag(TOPICS)


def test_what_the_hub_refuses_or_has_not_is_a_sentence(
    run: str, simulated_hub: type[SimulatedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"^org/tagger is neither a run nor a bundle here\. The Hugging Face hub has no"
    ):
        Tagger.load("org/tagger")
    for name in ("tagger", "org/", "a b/c", "s3://bucket/x"):
        with pytest.raises(UserError, match=r"is no name on the Hugging Face hub: give org/name\.$"):
            push_bundle(run, name)
    monkeypatch.setattr(simulated_hub, "token", "Bearer another")
    with pytest.raises(UserError, match=r"cannot be put on the Hugging Face hub as org/tagger .*log in with `hf auth"):
        push_bundle(run, "org/tagger", "torch")
    assert simulated_hub.commits == []


@pytest.mark.parametrize("file", ["config.json", "modules.json"])
def test_a_model_that_was_loaded_by_its_commit_is_found_by_its_name_where_the_hub_is_away(
    simulated_hub: type[SimulatedHub], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    hub_module.hub_config.cache_clear()
    simulated_hub.made, simulated_hub.commits = [True], [{}]
    commit = f"{1:040x}"
    simulated_hub.past = {commit: {file: b"{}"}}
    assert pinned("org/tagger") == f"org/tagger@{commit}"
    huggingface_hub.hf_hub_download("org/tagger", file, revision=commit)  # what loading does
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_module.hub_commit.cache_clear()
    hub_module.hub_config.cache_clear()
    assert pinned("org/tagger") == f"org/tagger@{commit}"
