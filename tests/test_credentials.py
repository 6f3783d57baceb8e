"""Credentials in a URI are in nothing that is written down or said; what is left of the URI still names the place."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ezxmc_ray import cli, curriculum, layout
from ezxmc_ray.config import Config, PrepareConfig, to_dict
from ezxmc_ray.context import stored_configuration
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.documents import inputs
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import read_configuration
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.terminal import explained

SECRET = "SuperSecret123"


@pytest.mark.parametrize(
    ("uri", "left"),
    [
        (f"s3://AKIA:{SECRET}@bucket/run", "s3://bucket/run"),
        (f"s3://AKIA:{SECRET}/with/slashes+=@bucket/run?region=eu", "s3://bucket/run?region=eu"),
        (f"s3://AKIA:12/{SECRET}@bucket/run", "s3://bucket/run"),
        (f"s3://bucket/run?region=eu&secret_key={SECRET}&scheme=http", "s3://bucket/run?region=eu&scheme=http"),
        (f"s3://bucket/run?access_key=AKIA&secret_key={SECRET}", "s3://bucket/run"),
        (f"https://host/f.jsonl?X-Amz-Signature={SECRET}&X-Amz-Credential=A", "https://host/f.jsonl"),
        (f"https://host/f?sig={SECRET}&sv=1", "https://host/f?sv=1"),
        (f"https://host/f?token={SECRET}", "https://host/f"),
        (f"gs://b/f?access_token={SECRET}", "gs://b/f"),
        (f"abfs://account:{SECRET}@container/f", "abfs://container/f"),
        (f"https://user:{SECRET}@proxy:8080/x", "https://proxy:8080/x"),
        (f"https://:{SECRET}@host/x", "https://host/x"),
    ],
)
def test_what_is_secret_goes_and_the_place_stays(uri: str, left: str) -> None:
    assert without_credentials(uri) == left
    assert without_credentials(f"The run '{uri}' and {uri} are in use.") == f"The run '{left}' and {left} are in use."
    assert without_credentials({"run": uri, "sources": [uri, 1, None], uri: {"a": (uri,)}}) == {
        "run": left,
        "sources": [left, 1, None],
        left: {"a": (left,)},
    }
    assert SECRET not in str(UserError(f"There is no file {uri}; give another."))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/run?region=eu-central-1&endpoint_override=localhost:9000",
        "hdfs://user@host:8020/path",
        "ray://127.0.0.1:10001",
        "http://host:9000/a@b",
        "http://[::1]:9000/a@b",
        "a/path with spaces/key=secret?token=x",
        "org/name",
        "",
        "see https://example.org/a?page=2#x, and https://example.org.",
        "s3://bucket/mail@example.org/a:b@c",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert without_credentials(text) == text


RUN = f"s3://AKIA:{SECRET}@bucket/runs/mine?region=eu"
CONFIG = Config(run=RUN, prepare=PrepareConfig(documents=[RUN], labels=[f"gs://b/l.csv?token={SECRET}"]))


def test_what_a_run_writes_down_and_says_holds_no_credentials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, log = Storage(str(tmp_path / "run")), tmp_path / "log"
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("ezxmc_ray"), "handlers", [])
    cli._keep_log(str(log))
    curriculum._note_configuration(CONFIG, storage)
    write_manifest(storage, "documents", Manifest("prepare", "f", 1, 1.0, details={"files": [RUN]}))
    say(f"{RUN} is complete.")
    logging.getLogger("another.library").warning("GET %s", RUN)
    print(*explained(CONFIG), sep="\n")
    written = [Path(storage.path(name)).read_text() for name in storage.list(recursive=True)]
    printed = capsys.readouterr()
    for text in (*written, log.read_text(), printed.out):
        assert SECRET not in text and "s3://bucket/runs/mine?region=eu" in text
    stored = read_configuration(storage)
    assert (stored["run"], stored["prepare"]["labels"]) == ("s3://bucket/runs/mine?region=eu", ["gs://b/l.csv"])


def test_a_run_goes_on_by_its_configuration_and_says_of_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(str(tmp_path / "run"))
    curriculum._note_configuration(CONFIG, storage)
    curriculum._note_configuration(CONFIG, storage)
    curriculum._note_configuration(stored_configuration(storage), storage)
    assert "differs" not in capsys.readouterr().out


def test_where_the_credentials_come_from_makes_nothing_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "find_inputs", lambda prepare: inputs.Inputs([], []))
    given = inputs.inputs_fingerprint(CONFIG.prepare, 0)
    kept = PrepareConfig(**without_credentials(to_dict(CONFIG.prepare)))
    assert kept != CONFIG.prepare and inputs.inputs_fingerprint(kept, 0) == given


def test_a_fault_is_told_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_fault(ValueError, ValueError(f"no {RUN}"), None)
    assert capsys.readouterr().err == "ValueError: no s3://bucket/runs/mine?region=eu\n"


def test_a_run_is_called_by_the_last_part_of_its_place() -> None:
    assert layout.run_name(RUN) == layout.run_name("runs/mine/") == "mine"
    assert layout.run_name("runs/what?") == "what?"
