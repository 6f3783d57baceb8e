"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Configuration = Annotated[str, typer.Argument(metavar="CONF", help="the configuration, a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="a.b=c", help="knobs to set, for example teacher.model=org/name")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="the directory or object-store URI of a run")]
RunOrBundle = Annotated[
    str, typer.Argument(metavar="RUN", help="the directory or URI of a run, or of an export of one")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
VerdictFile = Annotated[str, typer.Argument(metavar="FILE", help="a Parquet file of verdicts, a path or a URI")]
