"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.publish import ROOT


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What the benchmarks that learn from documents and rank others ask for alike."""
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--data", default=os.environ.get("EZXMC_DATA"), help="directory; without it EZXMC_DATA")
    parser.add_argument("--labels", default="labels.jsonl.gz", help="file in --data, or a path")
    parser.add_argument("--documents", type=int, default=0, help="learn from so many and rank so many, 0 = all")


def add_texts_arguments(parser: argparse.ArgumentParser) -> None:
    """What the benchmarks that recombine documents and labels ask for alike."""
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--data", type=Path, default=os.environ.get("EZXMC_DATA"), help="directory; or EZXMC_DATA")


def add_teacher_arguments(parser: argparse.ArgumentParser, documents: int, documents_are: str) -> None:
    """What the benchmarks ask for alike that time a teacher on shortlists: ``documents`` of them, what they are."""
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--teacher", help="hub id, directory or package:NAME/PATH; without it the bundled one")
    parser.add_argument("--data", type=Path, help="documents, JSON lines: id, title, text; may be .gz")
    parser.add_argument("--labels", type=Path, help="labels, JSON lines: id, text; may be .gz")
    parser.add_argument("--documents", type=int, default=documents, help=documents_are)
    parser.add_argument("--dtype", default="auto", help="of weights and activations, for all methods")
    parser.add_argument("--slow-pairs", type=int, default=96, help="pairs of the slow methods, 0 = all")
    parser.add_argument("--reference-pairs", type=int, default=200, help="pairs of the float32 reference, 0 = all")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where the run goes")
    parser.add_argument("overrides", nargs="*", help="a.b=c")


def choice(known: Any) -> Callable[[str], list[str]]:
    """The type of an option that takes some of ``known`` by commas, in their order."""

    def names(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose among {', '.join(known)}")
        return [name for name in known if name in text.split(",")]

    return names


def name_of(model: str) -> str:
    """A model as a reader knows it: of a directory its name."""
    return Path(model).name if os.path.isabs(model) else model
