"""What a reader must hold in the head at once: no function over 50 lines, no file over 400."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("ezxmc_ray", "tests", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")]
FUNCTION_LINES, FILE_LINES = 50, 400


def test_no_function_and_no_file_is_too_long() -> None:
    long = []
    for path in FILES:
        code = path.read_text("utf-8")
        if (lines := code.count("\n")) > FILE_LINES:
            long.append((path.name, lines))
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append((f"{path.name}: {node.name}", lines))
    assert len(FILES) > 300 and long == []
