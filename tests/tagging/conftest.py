"""What the tests of tagging share: a finished run, and a bundle of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.tagger import Tagger
from tests.tagging.made_run import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("tagging") / "run"
    make_run(folder)
    return str(folder)


@pytest.fixture(scope="session")
def bundle(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of it; not to be changed."""
    folder = tmp_path_factory.mktemp("tagging") / "bundle"
    export_bundle(run, str(folder))
    return folder


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(bundle, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="session")
def tagger(run: str) -> Tagger:
    """The tagger of the run."""
    return Tagger.load(run)
