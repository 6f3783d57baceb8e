"""The tagger of an export behind plain FastAPI on uvicorn, as one writes it in ten minutes.

python benchmarks/serve_bench/plain.py EXPORT --port 8000
"""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from ezxmc_ray.tagging.tagger import Tagger


class Body(BaseModel):
    """A request."""

    texts: list[str]
    k: int


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    app, tagger = FastAPI(), Tagger.load(given.bundle)

    @app.post("/v1/tag")
    def tag(body: Body) -> dict[str, Any]:
        results = [[vars(label) for label in labels] for labels in tagger.tag(body.texts, body.k)]
        return {"export": "", "results": [{"labels": labels} for labels in results]}

    @app.get("/readyz")
    def ready() -> dict[str, Any]:
        return {}

    uvicorn.run(app, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
