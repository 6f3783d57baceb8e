"""The Debian packages example: package descriptions are the documents, debtags are the labels.

What comes in: this machine's own apt sources (no root needed; about 16 MB). What goes out, in ``--output``:
``documents.jsonl.gz`` (id, title, text, labels, split; ordered by name) and ``labels.jsonl.gz`` (id, text). The gold
labels are what Debian's volunteers tagged, so they are incomplete; they only ever measure. Command::

    python examples/debian_packages.py --output data/debian-packages --documents 800
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezxmc_ray.errors import UserError

APT_HELPER = "/usr/lib/apt/apt-helper"
COMPRESSED = (".lz4", ".xz", ".gz", ".zst", ".bz2")
TEST_SHARE = 0.25
#: Tags that a description cannot tell: how a package is built or shipped, and notes of the taggers to themselves.
LEFT_OUT = (
    "devel::lang",
    "implemented-in::",
    "role::",
    "scope::",
    "secteam::",
    "special::",
    "suite::debian",
    "uitoolkit::",
)
LEFT_OUT_ENDING = "::TODO"


@dataclass(frozen=True)
class Package:
    """One document: a package with its description, and the tags it was given (kept or not)."""

    name: str
    title: str
    text: str
    tags: frozenset[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch, sample and write the example; returns the exit status (2 for what the user can mend)."""
    options = parse(arguments)
    try:
        with nullcontext(options.lists) if options.lists else tempfile.TemporaryDirectory(prefix="ezxmc-") as folder:
            lists = Path(folder).absolute()
            fetch(lists)
            labels = label_texts(read_text(lists / "debtags" / "vocabulary"))
            packages, without_description = read_packages(lists)
        write(Path(options.output), packages, labels, options.documents, without_description)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        why = (error.strerror or "it cannot be used").lower()
        print(f"error: Cannot use {error.filename}: {why}; choose another --output or --lists.", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``documents`` is a number, 0 for all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", required=True, help="directory to write documents.jsonl.gz and labels.jsonl.gz to")
    parser.add_argument(
        "--documents", type=number_or_all, default=800, help="how many, three in four to train on; or all"
    )
    parser.add_argument(
        "--lists", help="directory to keep the downloaded lists in, and to take them from if it has them"
    )
    return parser.parse_args(arguments)


def number_or_all(value: str) -> int:
    """``all`` is 0, any other value a number from 4 on."""
    if value == "all":
        return 0
    if not value.isdigit() or int(value) < 4:
        raise argparse.ArgumentTypeError(f"{value!r} is neither a number from 4 on nor 'all'")
    return int(value)


def fetch(folder: Path) -> None:
    """Download package lists, English descriptions and the debtags vocabulary into ``folder``, unless it has them."""
    if (folder / "debtags" / "vocabulary").is_file():
        return
    if shutil.which("apt-get") is None or not os.access(APT_HELPER, os.X_OK):
        raise UserError(
            "There is no apt here, which the Debian packages example needs; use Debian or Ubuntu (a container will do)."
        )
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # apt, run by root, downloads as the user _apt
    apt = ["apt-get", "-q", "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
    run([*apt, "-o", "Acquire::Languages=en", "update"], folder, "see that this machine's apt sources work")
    run([*apt, "download", "debtags"], folder, "see that Debian's main (Ubuntu: universe) is among its apt sources")
    for archive in folder.glob("debtags_*.deb"):
        run(["dpkg-deb", "-x", archive.name, "unpacked"], folder, "delete the directory of --lists and start again")
    tags = folder / "unpacked" / "usr" / "share" / "debtags"
    if not (tags / "vocabulary").is_file() or not (tags / "tags-current.gz").is_file():
        raise UserError("The package debtags of this machine's apt sources holds no vocabulary; use Debian 9 or later.")
    os.replace(tags, folder / "debtags")


def run(command: list[str], folder: Path, advice: str) -> None:
    """Run ``command`` in ``folder`` with its output on the terminal; a failure is a UserError with its last error."""
    print("$ " + " ".join(command), flush=True)
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg"))]
        why = errors[-1].removeprefix("E: ").rstrip(".") if errors else f"exit status {done.returncode}"
        raise UserError(f"{command[0]} failed ({why}); {advice}.")


def read_text(path: Path) -> str:
    """The text of a list, which apt may keep compressed in any of its formats."""
    if path.suffix not in COMPRESSED:
        return path.read_text(encoding="utf-8", errors="replace")
    done = subprocess.run([APT_HELPER, "cat-file", str(path)], capture_output=True, check=False)
    if done.returncode:
        raise UserError(f"Cannot unpack {path}; delete the directory of --lists and start again.")
    return done.stdout.decode("utf-8", errors="replace")


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a Debian control file as {field: value}; continuation lines keep their leading space."""
    for block in re.split(r"\n\n+", text):
        fields = dict(re.findall(r"^([^\s:]+):[ \t]*((?:.*)(?:\n[ \t].*)*)", block, re.MULTILINE))
        if fields:
            yield fields


def label_texts(vocabulary: str) -> dict[str, str]:
    """Tag -> label text ("facet: tag", in their short descriptions), for the tags that a description can tell."""
    records = list(paragraphs(vocabulary))
    facets = {record["Facet"]: first_line(record["Description"]) for record in records if "Facet" in record}
    tags = {record["Tag"]: first_line(record["Description"]) for record in records if "Tag" in record}
    kept = [tag for tag in sorted(tags) if not tag.startswith(LEFT_OUT) and not tag.endswith(LEFT_OUT_ENDING)]
    return {tag: f"{facets[tag.partition('::')[0]]}: {tags[tag]}" for tag in kept}


def read_packages(folder: Path) -> tuple[list[Package], int]:
    """Every package of the lists once, by name, and the count of those that have no English description."""
    descriptions: dict[str, str] = {}
    for path in sorted((folder / "lists").glob("*_Translation-en*")):
        for record in paragraphs(read_text(path)):
            descriptions[record.get("Description-md5", "")] = record.get("Description-en", "")
    current = tags_current(folder / "debtags" / "tags-current.gz")
    found: dict[str, Package] = {}
    without: set[str] = set()
    for path in sorted((folder / "lists").glob("*_Packages*")):
        for record in paragraphs(read_text(path)):
            name = record.get("Package", "")
            description = descriptions.get(record.get("Description-md5", ""))
            if not description:
                without.add(name)
            elif name not in found:
                tags = {tag.strip() for tag in record.get("Tag", "").split(",")} | current.get(name, set())
                found[name] = Package(name, f"{name}: {first_line(description)}", body(description), frozenset(tags))
    return [found[name] for name in sorted(found)], len(without - found.keys())


def tags_current(path: Path) -> dict[str, set[str]]:
    """Package -> tags, from debtags' own list (lines "package: tag, tag"), which knows more than the archive."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        pairs = (line.strip().partition(": ") for line in lines)
        return {name: set(tags.split(", ")) for name, _, tags in pairs}


def first_line(description: str) -> str:
    """The short description."""
    return description.partition("\n")[0].strip()


def body(description: str) -> str:
    """The long description as plain text: without the indent, and with " ." as an empty line."""
    lines = [line[1:] for line in description.split("\n")[1:]]
    return "\n".join("" if line == "." else line for line in lines).strip()


def draw(value: str) -> str:
    """A place in a fixed random order: the same for a name on every machine, whatever else is in the archive."""
    return hashlib.blake2b(value.encode(), digest_size=8).hexdigest()


def sample(names: Sequence[str], count: int) -> dict[str, str]:
    """Name -> split for ``count`` names (0: all), a quarter of them ``test``; a larger sample contains a smaller one.

    Only names decide. Errors: UserError if there are fewer names than asked for.
    """
    if count > len(names):
        raise UserError(f"There are {len(names)} tagged packages, not {count}; ask for fewer with --documents.")
    test = {name for name in names if int(draw(f"split {name}"), 16) < TEST_SHARE * 2**64}
    order = sorted(names, key=draw)
    tests = [name for name in order if name in test]
    trains = [name for name in order if name not in test]
    if count:
        wanted = round(TEST_SHARE * count)
        tests, trains = tests[:wanted], trains[: count - wanted]
    return dict.fromkeys(trains, "train") | dict.fromkeys(tests, "test")


def write(output: Path, packages: list[Package], labels: dict[str, str], count: int, without_description: int) -> None:
    """Write both files, the documents last, and print what was kept and what was left out."""
    tagged = {package.name: package for package in packages if package.tags & labels.keys()}
    if not tagged:
        raise UserError("No package of this machine's apt sources has a description and debtags; add Debian's main.")
    splits = sample(sorted(tagged), count)
    documents = [document(tagged[name], labels, splits[name]) for name in sorted(splits)]
    output.mkdir(parents=True, exist_ok=True)
    write_lines(output / "labels.jsonl.gz", [{"id": tag, "text": text} for tag, text in labels.items()])
    write_lines(output / "documents.jsonl.gz", documents)
    print(f"{len(tagged):,} packages with a description and a tag that a description can tell; left out:")
    print(
        f"{len(packages) - len(tagged):,} without such a tag, {without_description:,} without an English description."
    )
    tests = sum(item["split"] == "test" for item in documents)
    mean = sum(len(item["labels"]) for item in documents) / len(documents)
    split = f"{len(documents) - tests:,} train, {tests:,} test"
    print(f"{output}: {len(documents):,} documents ({split}), {mean:.2f} gold labels each; {len(labels)} labels.")


def document(package: Package, labels: dict[str, str], split: str) -> dict[str, Any]:
    """One row of documents.jsonl.gz."""
    gold = sorted(package.tags & labels.keys())
    return {"id": package.name, "title": package.title, "text": package.text, "labels": gold, "split": split}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines, gzip, the same bytes for the same rows; the file appears whole or not at all."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(gzip.compress(content.encode(), mtime=0))
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
