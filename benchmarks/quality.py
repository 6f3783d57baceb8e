"""How good are the tags, against what one would get otherwise? All methods on the same documents and labels.

    python benchmarks/quality.py --name quality --data DIRECTORY --labels labels-8k.jsonl.gz --teacher DIRECTORY
    python benchmarks/quality.py --name quality --data data/debian-packages teacher.readout=likelihood

Methods (--methods; all without it): ``untrained`` (the base encoder), ``bm25`` and ``tfidf`` (shared words),
``words`` (the base encoder with lexical.weight: this project's first shortlists), ``larger_words`` (the same with the
encoder of --larger, untrained: what an embedding model that is asked as it is would give),
``title`` (MACLR: sentences, then titles as labels of their texts), ``segments`` (RTS: two parts of a document),
``lmtx`` (the published recipe through this project's curriculum), ``lmtx_words`` (the same student, ranking with the
words as ezxmc does), ``llm_rerank`` (the teacher judges the base encoder's shortlists of the *test* documents: costly,
no student), ``llm_fusion`` (the same, ranked by verdict and similarity: how good is what students learn?), ``icxml``
(the same of the labels nearest to topics that the teacher writes of each test document), ``ezxmc`` (this project's
defaults, but for --cycles), ``ezxmc_once`` (the same with a teacher that is read once) and ``ezxmc_reranked`` (with a
cross-encoder that ranks the first labels anew).

Parts (--parts): ``methods``; ``cycles``: every encoder of ezxmc's and lmtx's runs with the first seed; ``budget``:
both (and lmtx_words) with a share of the documents a cycle, their differences at the same share, and the least pairs
with which ezxmc reaches lmtx; ``rounds``: every encoder of ezxmc's runs with fixed numbers of documents and with
``curriculum.pair_budget=auto``.

DIRECTORY holds documents.jsonl.gz (id, title, text, split, labels); nobody learns from gold labels. Each method is a
process and a run of its own; the verdicts of all of them are one store, so no pair is judged twice: ``pairs`` is what a
method needs, ``pairs_asked`` what it paid for. A killed command goes on where it was. What is to be compared belongs
into one call, which writes one result file. --verdicts takes over the verdicts of other runs, or of an export
(benchmarks/verdicts/ has those of the published figures). A small try:
``--documents 60 --methods untrained,bm25,ezxmc --cycles 1``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from common.arguments import add_data_arguments, choice
from common.publish import ROOT, publish
from ezxmc_ray.context import Context
from ezxmc_ray.errors import UserError
from ezxmc_ray.metrics import per_document
from ezxmc_ray.storage import Storage
from ezxmc_ray.versions import versions
from make_results import table
from quality_bench.bench import ROUNDS, WITHOUT_SEEDS, Bench, make_bench
from quality_bench.figures import (
    IDENTITY,
    LARGER,
    LMTX,
    METHODS,
    OURS,
    PUBLISHED,
    Row,
    at_equal_shares,
    at_one_rate,
    compared,
    in_order,
    measures,
    reached,
)
from quality_bench.tables import NOTES, tables
from quality_bench.task import encoder_ranking
from student_bench.task import section

PARTS = ("methods", "cycles", "budget", "rounds")
TITLE = "Quality: all methods on the same documents and labels"


def main() -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse()
    new: dict[str, list[Row]] = {part: [] for part in given.parts}
    status = 0
    try:
        bench = make_bench(given)
        for part in given.parts:
            for row in MEASURE[part](bench):
                new[part].append(row)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    if any(new.values()):  # what was measured before an error counts
        result = collected(bench, new)
        print("\n".join(table(result)))
        publish(given.name, given.title, result)
    return status


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_arguments(parser)
    parser.add_argument("--test-documents", type=int, help="how many, 0 = all; without it as many as --documents")
    parser.add_argument("--title", default=TITLE, help="of the result")
    parser.add_argument("--teacher", help="hub id, directory or package:NAME/PATH; without it the bundled one")
    parser.add_argument("--parts", type=choice(PARTS), default=["methods"], help="by commas")
    parser.add_argument("--methods", type=choice(METHODS), help="by commas; of cycles and budget too; without it all")
    parser.add_argument("--larger", help="hub id or directory of an encoder; without it larger_words is left out")
    parser.add_argument("--cycles", type=int, default=3, help="of lmtx and ezxmc")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--shares", type=shares, default=shares("1/9,1/3"), help="of the budget, by commas, below 1")
    parser.add_argument(
        "--verdicts",
        action="append",
        default=[],
        metavar="RUN|FILE",
        help="whose verdicts are taken over: a run, or an export of `ezxmc verdicts`",
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where the runs go")
    parser.add_argument("--resume", action="store_true", help="take over methods that an earlier call has done alike")
    parser.add_argument("overrides", nargs="*", help="a.b=c, for every method")
    given = parser.parse_args()
    if LARGER in (given.methods or ()) and not given.larger:
        parser.error(f"the method {LARGER} needs an encoder: name one by --larger")
    given.methods = given.methods or [name for name in METHODS if name != LARGER or given.larger]
    return given


def shares(text: str) -> list[float]:
    """Numbers between 0 and 1 by commas; fractions such as 1/9 too."""
    try:
        found = [float(Fraction(word)) for word in text.split(",")]
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text}: give numbers by commas, such as 1/9,0.5") from error
    if not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"{text}: a share lies between 0 and 1")
    return found


def methods(bench: Bench) -> Iterator[Row]:
    """A row for each method and seed."""
    for method in bench.given.methods:
        for seed in seeds_of(bench, method):
            row = bench.measured(bench.identity(method, seed))
            yield {name: value for name, value in row.items() if name != "encoders"}


def seeds_of(bench: Bench, method: str) -> range:
    """The seeds of a method; one that draws nothing runs once."""
    return range(1 if method in WITHOUT_SEEDS else bench.given.seeds)


def cycles(bench: Bench) -> Iterator[Row]:
    """A row for each encoder of ezxmc's and lmtx's runs with the first seed."""
    for method in _named(bench, (OURS, PUBLISHED)):
        row = bench.identity(method, 0)
        row["yes_threshold"] = bench.configure(row).teacher.yes_threshold
        yield from _encoders(bench, row)


def _encoders(bench: Bench, row: Row) -> Iterator[Row]:
    """Run the method of ``row``; a row for each of its encoders."""
    done = bench.do(row)
    config = bench.configure(row)
    context = Context(config, Storage(config.run))
    for number, costs in enumerate(done["encoders"]):
        _, ranked = encoder_ranking(context, number)
        metrics = measures(per_document(ranked, bench.gold()))
        chosen = "yes" if costs["encoder"] == done["chosen"] else ""
        yield {**row, "cycles": number, **costs, "chosen": chosen, "metrics": metrics}


def rounds(bench: Bench) -> Iterator[Row]:
    """A row for each encoder of ezxmc's runs that ROUNDS names, with each seed: see :func:`_encoders`."""
    for name in ROUNDS:
        for seed in range(bench.given.seeds):
            yield from _encoders(bench, bench.identity(OURS, seed) | {"rounds": name})


def _named(bench: Bench, methods: Sequence[str]) -> list[str]:
    """Of ``methods`` those that the command line names."""
    return [name for name in methods if name in bench.given.methods]


def budget(bench: Bench) -> Iterator[Row]:
    """A row for each of ezxmc, lmtx and lmtx_words, share and seed; share 1 is what ``methods`` measures."""
    asked = ("pairs", "priors", "second", "pairs_asked", "priors_asked", "second_asked")
    costs = (*asked, "seconds_asked", "teacher_seconds", "train_seconds")
    kept = (*IDENTITY, "cycles", "yes_threshold", *costs, "metrics")
    for method in _named(bench, (OURS, *LMTX)):
        for share in (1.0, *bench.given.shares):
            for seed in range(bench.given.seeds):
                row = bench.measured(bench.identity(method, seed), share)
                yield {name: row.get(name) for name in kept} | {"share": share}


MEASURE = {"methods": methods, "cycles": cycles, "budget": budget, "rounds": rounds}


def collected(bench: Bench, new: dict[str, list[Row]]) -> Row:
    """What this call measured, what follows from it, and the page's tables."""
    rows, budgets = at_one_rate(in_order(new.get("methods", [])), in_order(new.get("budget", [])))
    means, differences = compared([(row, bench.values(row)) for row in rows])
    parts = {
        "rows": rows,
        "cycles": in_order(new.get("cycles", [])),
        "budget": budgets,
        "rounds": new.get("rounds", []),
        "means": means,
        "differences": differences,
        "reached": reached(budgets),
        "equal_shares": at_equal_shares([(row, bench.values(row, row["share"])) for row in budgets]),
    }
    return {**about(bench), **parts, "tables": tables(parts), "notes": [_on_documents(bench), *NOTES]}


def _on_documents(bench: Bench) -> str:
    """What this call measured on."""
    facts, left_out = bench.facts, bench.facts["left_out_test_documents"]
    return (
        f"{', '.join(bench.dataset.values())}: {facts['train_documents']:,} train documents without their gold labels, "
        f"{facts['test_documents']:,} test documents, {facts['labels']:,} labels."
    ) + (f" {left_out} test documents are left out: no gold label, or one not among these." if left_out else "")


def about(bench: Bench) -> Row:
    """What this call measured with."""
    return {**bench.facts, "settings": section(bench.config), "versions": versions()}


if __name__ == "__main__":
    sys.exit(main())
