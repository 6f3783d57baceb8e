"""``ezxmc tag``, ``export`` and ``push``: what a finished run is for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ezxmc_ray.commands.arguments import Run, RunOrBundle
from ezxmc_ray.errors import UserError
from ezxmc_ray.shown import shown
from ezxmc_ray.terminal import say_tagged, tag_lines

if TYPE_CHECKING:
    from ezxmc_ray.stages.new_labels import NewLabels
    from ezxmc_ray.storage import Storage
    from ezxmc_ray.tagging.settings import TagSettings

app = typer.Typer()
EncoderKind = Annotated[str, typer.Option(metavar="KIND", help="onnx (for ONNX Runtime, no PyTorch), or torch")]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE|a.b=c", help="more input files, and knobs such as predict.top_k=3"),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="FILE",
        help="documents: JSON, Parquet or CSV; several may be given; without it, one text a line",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="a file for the tags: .parquet, .jsonl or .csv; - for JSON lines to the standard output; FOLDER/ for "
        "a file for each input file, tagged on Ray's cluster; given again, it goes on where it was",
    ),
]
Rerank = Annotated[
    bool,
    typer.Option(
        "--rerank",
        help="let the run's teacher judge what the student proposes: into a FOLDER/ only, at an LLM's price",
    ),
]
FromNewLabels = Annotated[
    bool,
    typer.Option(
        "--new-labels",
        help="bring tags in FOLDER/ up to date after `ezxmc labels`: the same documents are asked about the labels "
        "that came since",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option("--format", metavar="KIND", help="of the files in FOLDER/: parquet (if none is given), jsonl or csv"),
]


@app.command(help="Tag new documents, or texts from the terminal.")
def tag(
    run: RunOrBundle,
    overrides: Words = None,
    inputs: Inputs = None,
    output: Output = None,
    rerank: Rerank = False,
    new_labels: FromNewLabels = False,
    kind: Kind = None,
) -> None:
    """Tags for files, or for lines from the terminal."""
    knobs = [word for word in overrides or [] if "=" in word]
    files = [*(inputs or []), *(word for word in overrides or [] if "=" not in word)]
    if files and not inputs:
        raise UserError(f"{files[0]!r} is neither an override (a.b=c) nor an input file; put --input before files.")
    _check_ways(files, output, rerank, new_labels)
    if output is not None and not files:
        raise UserError("--output needs --input: without input files the tags of texts from the terminal are printed.")
    from ezxmc_ray.places import name_of

    target = output or "tags.parquet"
    if not name_of(target):
        how = _rerank_folder if rerank else _update_folder if new_labels else _tag_folder
        how(run, knobs, files, target, kind or "parquet")
        return
    from ezxmc_ray.progress import data_on_stdout
    from ezxmc_ray.tagging.files import STDOUT, check_output, tag_files
    from ezxmc_ray.tagging.tagger import Tagger

    if kind is not None and not (name_of(target).endswith(f".{kind}") or (target, kind) == (STDOUT, "jsonl")):
        raise UserError(
            f"--format {kind} is for the files in a folder (--output FOLDER/); that of a file is told by its name "
            "(.parquet, .jsonl or .csv), and the standard output has JSON lines."
        )
    check_output(target)
    with data_on_stdout(target == STDOUT or not files), Tagger.load(run, knobs) as tagger:
        if not files:
            tag_lines(tagger)
            return
        counts = tag_files(tagger, files, target)
    if target != STDOUT:
        say_tagged(counts, target, tagger.settings.cut_at)
    elif counts.rejected:  # the standard output has tags and nothing else
        print(f"{counts.rejected:,} bad rows were left out; with --output FILE they are listed.", file=sys.stderr)


def _check_ways(files: Sequence[str], output: str | None, rerank: bool, new_labels: bool) -> None:
    """Errors: UserError where --rerank or --new-labels lack what they need, or both are given."""
    from ezxmc_ray.places import name_of

    into_folder = bool(files) and output is not None and not name_of(output)
    if rerank and not into_folder:
        raise UserError(
            "--rerank asks an LLM about every document, which is for batches: give files by --input, and a folder by "
            "--output FOLDER/ (with the / at its end)."
        )
    if new_labels and rerank:
        raise UserError("--new-labels asks the student alone, --rerank the teacher too: give one of them.")
    if new_labels and not into_folder:
        raise UserError(
            "--new-labels brings the tags in a folder up to date, which hold no texts: give the folder by --output "
            "FOLDER/ (with the / at its end), and by --input the documents that were tagged into it."
        )


def _tag_folder(run: str, knobs: list[str], files: list[str], folder: str, kind: str) -> None:
    """As ``tag``, of many files on a cluster."""
    settings = _checked_settings(run, knobs, folder, kind)
    from ezxmc_ray.cluster.session import ray_cluster
    from ezxmc_ray.stages.tag_folder import tag_folder

    with ray_cluster(settings.cluster):
        counts = tag_folder(run, knobs, settings, files, folder, f".{kind}")
        say_tagged(counts, folder, settings.cut_at)


def _update_folder(run: str, knobs: list[str], files: list[str], folder: str, kind: str) -> None:
    """As ``_tag_folder``, of files that were tagged with the labels of then."""
    from ezxmc_ray.models import is_hub_id
    from ezxmc_ray.progress import say
    from ezxmc_ray.tagging.changes import check_bundle

    if not is_hub_id(run):
        check_bundle(run)
    settings = _checked_settings(run, knobs, folder, kind)
    if settings.reranking:
        raise UserError(
            "--new-labels merges tags by similarity, and here a cross-encoder makes their scores (predict.rerank): "
            "leave it out, which tags anew."
        )
    from ezxmc_ray.cluster.session import ray_cluster
    from ezxmc_ray.stages.update_tags import update_folder

    with ray_cluster(settings.cluster):
        counts, asked = update_folder(run, knobs, settings, files, folder, f".{kind}")
        say_tagged(counts, folder, settings.cut_at)
    say(
        f"{asked.new:,} documents were asked about the labels that came or went, {asked.all:,} about all labels, "
        f"{asked.none:,} about none."
    )


def _checked_settings(run: str, knobs: list[str], folder: str, kind: str) -> TagSettings:
    """How ``run`` tags into ``folder``, before Ray starts. Errors: UserError for what the cluster could not do."""
    from ezxmc_ray.checks import check_shared
    from ezxmc_ray.models import is_hub_id
    from ezxmc_ray.tagging.files import check_kind
    from ezxmc_ray.tagging.tagger import open_settings

    check_kind(kind)
    settings = open_settings(run, knobs)[1]
    for what, place in (("the run", run), ("--output", folder)):
        if place != run or not is_hub_id(run):  # a bundle of the hub is had by each actor
            check_shared(settings.cluster, what, place)
    return settings


def _rerank_folder(run: str, knobs: list[str], files: list[str], folder: str, kind: str) -> None:
    """As ``_tag_folder``, with the labels that the run's teacher says yes to."""
    from ezxmc_ray.checks import check_engine, check_shared
    from ezxmc_ray.progress import StageProgress, say
    from ezxmc_ray.tagging.files import check_kind
    from ezxmc_ray.tagging.reranking import open_reranking
    from ezxmc_ray.teacher.engine import load_teacher

    check_kind(kind)
    with StageProgress("rerank", phase="looking at the run and its teacher"):
        opened = open_reranking(run, knobs)
        config, how = opened[0].config, opened[2]
        for what, place in (("the run", run), ("--output", folder)):
            check_shared(config.cluster, what, place)
        check_engine(config)
        load_teacher(how.teacher)
    say(
        f"The teacher {how.teacher.model} is asked about up to {how.candidates} labels a document "
        f"(predict.rerank_candidates). Of those with a verdict of {how.yes_threshold:.4g} or more "
        f"(teacher.yes_threshold) up to {how.top_k} are kept (predict.top_k)."
    )
    from ezxmc_ray.cluster.session import ray_cluster
    from ezxmc_ray.stages.rerank import rerank_folder

    with ray_cluster(config.cluster):
        counts = rerank_folder(opened, knobs, files, folder, f".{kind}")
        say_tagged(counts, folder, opened[1].cut_at, "that the teacher says yes to")


@app.command(
    help="Write what a service needs of a run, and nothing else: student, index, words, labels, cross-encoder."
)
def export(
    run: Run,
    directory: Annotated[str, typer.Argument(metavar="DIRECTORY", help="a new directory or URI, or an older export")],
    knobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="prepare.a=b", help="how the files of --labels are read, if not as the run's"),
    ] = None,
    encoder: EncoderKind = "onnx",
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="labels in place of the run's: some added, removed or called otherwise; texts that the run has are "
            "not embedded again, and nothing is trained",
        ),
    ] = None,
) -> None:
    """A bundle, which ``ezxmc tag`` and ``Tagger.load`` take in place of a run."""
    from ezxmc_ray.tagging.export import export_bundle

    if not labels:
        if knobs:
            raise UserError(f"{knobs[0]} says how files of labels are read, and no --labels are given: leave it out.")
        done = export_bundle(run, directory, encoder)
    else:
        from ezxmc_ray.context import open_context
        from ezxmc_ray.stages.new_labels import write_new_labels

        context, changes = open_context(run), list[str]()

        def write(files: Storage) -> NewLabels:
            written = write_new_labels(context, files, labels, knobs or ())
            changes.append(
                f"{written.added:,} labels were added, {written.gone:,} are gone; {written.embedded:,} texts were new"
            )
            return written

        done = export_bundle(run, directory, encoder, write)
        print(changes[0])
    print(shown(f"Exported {run} to {directory}: {done.labels:,} labels, {done.bytes / 1e6:,.1f} MB"))


@app.command(help="Put an export of a run, or one that is there already, on the Hugging Face hub.")
def push(
    run: RunOrBundle,
    hub_id: Annotated[str, typer.Argument(metavar="ORG/NAME", help="the repository, made if there is none")],
    encoder: EncoderKind = "onnx",
    public: Annotated[bool, typer.Option("--public", help="a new repository is for all, not for you alone")] = False,
) -> None:
    """A bundle that ``ezxmc tag org/name`` and ``Tagger.load("org/name")`` take."""
    from ezxmc_ray.tagging.push import push_bundle

    print(shown(f"Pushed {run} to {push_bundle(run, hub_id, encoder, public)}"))
