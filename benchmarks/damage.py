"""What does a damaged file do? Every kind of file of a finished run, emptied, cut in half, or with a bit turned around.

    python benchmarks/damage.py --name damage --run runs/mine --conf mine.yaml [a.b=c ...]

``--run`` is a small finished run, of which copies are damaged, and ``--conf`` the configuration that it was made with.
Each command is given to a copy of its own: `status`, `verify` and `tag` in a process that is forked for it, `run` in
this one, on a Ray that all of them share (with --simulated-ray in a fork too, without one). `verify, run` is the two
after each other, for a turned bit, which leaves the size as it is. What came of it:

    found      the command names the damage, and ends with a sentence or goes on without the file
    redone     `run` made the file anew: the run is whole again, and its predictions are those of the undisturbed run
    not_read   the command did not open the file, by its time of access, or uses nothing of it (UNUSED)
    harmless   it opened the table and said nothing, and all that is read of it, counts too, is what was written: the
               bit lies in a statistic, or in another place of the Parquet format that nobody looks at
    silent     it opened the file and said nothing, or ended with a sentence about something else
    traceback, hang (over 300 s), crash (ended by a signal)

Exit status 1 if one of the last lines, from silent on, came of any of them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.publish import publish
from common.simulated_ray import simulated_ray
from ezxmc_ray import cli
from ezxmc_ray.cluster import session
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.storage import counts_of

#: One file of each kind: the first that matches. Which process holds the run (.owner.json) is written by each command.
KINDS = (
    "config.yaml",
    "labels.parquet",
    "rejected.parquet",
    "documents/manifest.json",
    "documents/shard-*.parquet",
    "gold/shard-*.parquet",
    "verdicts/*/teacher.json",
    "verdicts/*/placement.json",
    "verdicts/*/priors/*.parquet",
    "verdicts/*/shard-*/*.parquet",
    "lexical/lexical.json",
    "lexical/words.npy",
    "cycle-0/label_vectors/.begun.json",
    "cycle-0/label_vectors/vectors.json",
    "cycle-0/label_vectors/vectors.npy",
    "cycle-0/shortlist/manifest.json",
    "cycle-0/shortlist/.begun.json",
    "cycle-0/shortlist/shard-*.parquet",
    "cycle-0/examples/manifest.json",
    "cycle-0/examples/shard-*.parquet",
    "cycle-0/student/manifest.json",
    "cycle-0/student/model.safetensors",
    "cycle-0/student/modules.json",
    "cycle-0/tensorboard/events*",
    "cycle-1/label_vectors/vectors.npy",
    "cycle-1/shortlist/shard-*.parquet",
    "cycle-1/examples/manifest.json",
    "student/manifest.json",
    "student/model.safetensors",
    "student/tokenizer.json",
    "student/README.md",
    "index/manifest.json",
    "index/shard-*.faiss",
    "predictions/manifest.json",
    "predictions/shard-*.parquet",
    "evaluation/manifest.json",
    "evaluation/encoder-0/shard-*.parquet",
    "evaluation/sample.parquet",
    "report/manifest.json",
    "report.json",
    "report.html",
)
DAMAGES = ("emptied", "cut", "bit")
#: What libraries open and use nothing of.
UNUSED = {("student/README.md", "tag")}
GOOD = {"found", "redone", "not_read", "harmless"}
LIMIT_S = 300
OLD = 1e9


def main() -> None:
    """Damage, give the commands, publish."""
    given = parse()
    import ezxmc_ray.encoder.encoder  # noqa: F401  (seconds, once instead of in every fork)

    draw = random.Random(given.seed)
    files = [file for kind in given.kinds for file in sorted(given.run.glob(kind))[:1]]
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(dir=given.run.parent) as scratch:
        trial = Trial(given.run, Path(scratch), [given.conf, *given.knobs])
        names = {file: file.relative_to(given.run).as_posix() for file in files}
        cases = [(names[file], how, damaged(file, how, draw)) for file in files for how in given.damages]
        for needs_ray in (False, True):  # forks first: what has joined a Ray is not to be forked
            in_a_fork = given.simulated_ray or not needs_ray
            ray = nullcontext() if not needs_ray else simulated_ray() if given.simulated_ray else one_ray()
            with ray:
                for (name, how, content), command in itertools.product(cases, commands_of(given.commands, needs_ray)):
                    if how == "bit" or "," not in command:
                        outcome = trial.outcome(name, content, command, in_a_fork)
                        rows.append({"file": name, "damage": how, "command": command, "outcome": outcome})
                        print(json.dumps(rows[-1]), flush=True)
        order = list(names.values())
        rows.sort(key=lambda row: (order.index(row["file"]), DAMAGES.index(row["damage"])))
    documents = pq.read_metadata(next((given.run / "documents").glob("*.parquet"))).num_rows
    how_ray = "a simulated Ray" if given.simulated_ray else "one real Ray for all of them"
    notes = [f"One call, on a run of {documents} documents in its first shard; `run` on {how_ray}."]
    notes += [", ".join(f"{count} {outcome}" for outcome, count in Counter(row["outcome"] for row in rows).items())]
    publish(given.name, "Damaged files", {"rows": rows, "notes": notes})
    if any(row["outcome"] not in GOOD for row in rows):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--run", type=Path, required=True, help="a finished run; copies of it are damaged")
    parser.add_argument("--conf", required=True, help="the configuration that it was made with")
    parser.add_argument("knobs", nargs="*", help="overrides that it was made with, a.b=c")
    parser.add_argument("--damages", nargs="*", default=list(DAMAGES))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="patterns of files")
    parser.add_argument("--commands", nargs="*", default=["status", "tag", "verify", "run", "verify, run"])
    parser.add_argument("--simulated-ray", action="store_true", help="stages run in one process (simulated_ray.py)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_intermixed_args()


def commands_of(wanted: list[str], needs_ray: bool) -> list[str]:
    """Those that need no Ray, or those that do."""
    return [command for command in wanted if command.endswith("run") == needs_ray]


def damaged(file: Path, damage: str, draw: random.Random) -> bytes:
    """The content of ``file``, damaged."""
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return {"emptied": b"", "cut": bytes(content[: len(content) // 2])}.get(damage, bytes(content))


class Trial:
    """Copies of ``run`` with one file damaged, and what a command makes of them."""

    def __init__(self, run: Path, scratch: Path, conf: list[str]) -> None:
        self.original, self.copy, self.conf = run, scratch / run.name, conf
        self.text = scratch / "one.jsonl"
        self.text.write_text(json.dumps({"id": "1", "title": "a chess game", "text": "a game of chess"}) + "\n")
        self.predictions = predictions_of(run)

    def outcome(self, name: str, content: bytes, command: str, in_a_fork: bool) -> str:
        """What came of ``command`` on a copy in which the file ``name`` holds ``content``."""
        shutil.rmtree(self.copy, ignore_errors=True)
        # Every command replaces files and fills none; but a lock is held by its file, whatever that is called.
        locks = shutil.ignore_patterns(".lock")
        shutil.copytree(self.original, self.copy, copy_function=os.link, ignore=locks)
        file = self.copy / name
        file.unlink()
        file.write_bytes(content)
        os.utime(file, (OLD, file.stat().st_mtime))
        told = ""
        for one in command.split(", "):
            ended, printed = (call_in_a_fork if in_a_fork else call)(self._words(one))
            told += printed
            if ended == "2" and not _names(told, name):
                return "silent"
            if ended in ("traceback", "hang", "crash"):
                print(printed[-2000:], flush=True)
                return ended
        return self._kind(file, name, content, told, command)

    def _kind(self, file: Path, name: str, content: bytes, told: str, command: str) -> str:
        was_read = (name, command) not in UNUSED and (not file.exists() or file.stat().st_atime > OLD)
        is_named = _names(told, name)
        if command.endswith("run") and (not file.exists() or file.read_bytes() != content):
            is_whole = call(["verify", str(self.copy)])[0] == "0" and predictions_of(self.copy) == self.predictions
            return "redone" if is_whole and is_named else "silent"
        if is_named or not was_read:
            return "found" if is_named else "not_read"
        return "harmless" if name.endswith(".parquet") and _holds(file) == _holds(self.original / name) else "silent"

    def _words(self, command: str) -> list[str]:
        run = str(self.copy)
        output = str(self.copy.parent / "tags.parquet")
        return {
            "status": ["status", run],
            "verify": ["verify", run],
            "tag": ["tag", run, "--input", str(self.text), "--output", output],
            "run": ["run", *self.conf, f"run={run}"],
        }[command]


def _holds(file: Path) -> Any:
    """What is read of a table: its rows and its counts; None of one that cannot be read."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        return table.schema, table.to_pylist(), counts_of(table.schema)
    except (pa.ArrowException, OSError, ValueError):
        return None


def _names(told: str, name: str) -> bool:
    """Whether a command said that something is wrong with the file."""
    return name in "".join(told.split("\n")) or "damaged" in told


def call_in_a_fork(words: list[str]) -> tuple[str, str]:
    """As :func:`call`, in a process of its own: also "hang" and "crash"."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, words))
    process.start()
    there.close()
    try:
        found: tuple[str, str] = here.recv() if here.poll(LIMIT_S) else ("hang", "")
    except EOFError:
        found = ("crash", "")
    process.join(5)
    if process.is_alive():
        process.kill()
    return found


def _send(pipe: Any, words: list[str]) -> None:
    pipe.send(call(words))
    pipe.close()
    os._exit(0)


def call(words: list[str]) -> tuple[str, str]:
    """`ezxmc WORDS` in this process: its exit status or "traceback", and what it printed."""
    printed = io.StringIO()
    status = "traceback"
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            cli.main(words)
        except SystemExit as left:
            status = str(left.code)
        except BaseException:
            printed.write(traceback.format_exc())
    return status, printed.getvalue()


@contextlib.contextmanager
def one_ray() -> Iterator[None]:
    """A Ray that all runs share, with their actors."""
    ending: Callable[[], None] = session._end
    with session.ray_cluster(ClusterConfig(address="local")):
        session._end = lambda: None
        try:
            yield
        finally:
            session._end = ending


def predictions_of(run: Path) -> list[dict[str, Any]]:
    """The rows of all predictions."""
    return [row for file in sorted((run / "predictions").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


if __name__ == "__main__":
    main()
