"""The page in a real browser, over a tagger that is a fake: tools/page.mjs has the checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import HOSTILE
from .test_server import serves

ROOT = Path(__file__).parents[2]
#: A folder in which playwright-core is installed (npm install playwright-core).
PLAYWRIGHT = os.environ.get("EZXMC_PLAYWRIGHT", "")


@pytest.mark.slow
@pytest.mark.skipif(not (PLAYWRIGHT and shutil.which("node")), reason="EZXMC_PLAYWRIGHT names no playwright-core")
@pytest.mark.parametrize("token", [None, "secret"])
def test_a_text_is_tagged_by_keyboard_only(tmp_path: Path, token: str | None) -> None:
    given: dict[str, Any] = {"token": token} if token else {}
    with serves(**given) as (port, _):
        command = ["node", str(ROOT / "tools/page.mjs"), f"http://127.0.0.1:{port}/", str(tmp_path)]
        environment = {**os.environ, "NODE_PATH": PLAYWRIGHT, "EZXMC_SERVE_TOKEN": token or ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["found"]
    assert len(found) == 3 and any(HOSTILE in one for one in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page-dark.png", "page-light.png", "page-phone.png"]
