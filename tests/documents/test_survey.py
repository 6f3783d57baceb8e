"""What a dry run believes of documents that nobody has prepared yet."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.config import load_config
from ezxmc_ray.documents.inputs import find_inputs
from ezxmc_ray.documents.survey import Survey, count_labels, survey
from ezxmc_ray.errors import UserError


def look(folder: Path, name: str, *settings: str) -> Survey:
    (folder / "labels.jsonl").write_text('{"id": "a", "text": "first"}\n\n{"id": "b", "text": "second"}\n')
    settings = (f"prepare.documents={folder}/{name}", f"prepare.labels={folder}/labels.jsonl", *settings)
    config = load_config(None, list(settings))
    return survey(find_inputs(config.prepare), config.prepare, 256)


def rows(train: int, test: int) -> list[dict[str, Any]]:
    """The train documents first, as many files have them."""
    splits = ["train"] * train + ["test"] * test
    return [{"id": str(number), "text": "word " * 8, "split": split} for number, split in enumerate(splits)]


def write(folder: Path, name: str, documents: list[dict[str, Any]]) -> None:
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(documents), folder / name, row_group_size=4000)
    elif name.endswith("csv"):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(documents[0]))
            writer.writeheader()
            writer.writerows(documents)
    else:
        with gzip.open(folder / name, "wt") as packed:
            packed.writelines(json.dumps(one) + "\n" for one in documents)


@pytest.mark.parametrize("name", ["documents.jsonl.gz", "documents.csv", "documents.parquet"])
def test_test_documents_at_the_end_of_a_file_are_not_taken_for_train_documents(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, rows(11_080, 16_420))
    seen = look(tmp_path, name)
    assert seen.documents == 27_500
    assert seen.train == pytest.approx(11_080, abs=30)
    assert seen.document_tokens == pytest.approx(41 / 4, abs=0.5)


@pytest.mark.parametrize("name", ["documents.jsonl.gz", "documents.csv", "documents.parquet"])
def test_of_a_small_file_every_row_is_looked_at(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, rows(1_201, 300))
    assert look(tmp_path, name).train == 1_201


@pytest.mark.parametrize("name", ["documents.jsonl.gz", "documents.csv", "documents.parquet"])
def test_files_without_texts_are_refused_as_a_run_would(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, [{"id": "1", "title": "t", "body": "b"}])
    with pytest.raises(
        UserError, match=r"^No document has a text: no file has a column 'text'; if 'body' is it, set pre"
    ):
        look(tmp_path, name)
    assert look(tmp_path, name, "prepare.text_column=body").documents == 1
    write(tmp_path, name, [{"id": "1", "title": "t"}])
    with pytest.raises(
        UserError, match=r"^No document has a text: the column 'text' is empty or absent, and the columns"
    ):
        look(tmp_path, name)
    assert look(tmp_path, name, "prepare.text_column=title").documents == 1


def test_texts_that_come_late_are_seen(tmp_path: Path) -> None:
    write(tmp_path, "documents.jsonl.gz", [{"id": "1", "title": "t"}] * 900 + rows(5, 0))
    assert look(tmp_path, "documents.jsonl.gz").documents == 905


def test_files_count_by_their_rows(tmp_path: Path) -> None:
    write(tmp_path, "one.jsonl.gz", rows(3_000, 0))
    write(tmp_path, "two.jsonl.gz", rows(0, 100))
    assert look(tmp_path, "*.jsonl.gz").train == 3_000


def test_only_the_documents_that_will_be_read_count(tmp_path: Path) -> None:
    write(tmp_path, "documents.jsonl.gz", rows(100, 900))
    seen = look(tmp_path, "documents.jsonl.gz", "prepare.limit_documents=200")
    assert (seen.documents, seen.train) == (200, 100)


def test_where_nothing_says_the_split_the_share_decides(tmp_path: Path) -> None:
    write(tmp_path, "documents.parquet", [{"id": str(number), "text": "x"} for number in range(1_000)])
    assert look(tmp_path, "documents.parquet", "prepare.test_share=0.25").train == 750


def labels_in(folder: Path, name: str, content: str, *settings: str) -> tuple[int, int]:
    (folder / name).write_text(content)
    write(folder, "documents.jsonl.gz", rows(1, 1))
    settings = (f"prepare.documents={folder}/documents.jsonl.gz", f"prepare.labels={folder}/{name}", *settings)
    prepare = load_config(None, list(settings)).prepare
    return count_labels(find_inputs(prepare), prepare)


def test_labels_and_their_alternatives_are_those_of_prepare(tmp_path: Path) -> None:
    table = 'id,text,alternatives\na,Sea,"Ocean; Sea; Brine"\nb,Bees,\n\na,Deep,\nc,,x\n'
    assert labels_in(tmp_path, "labels.csv", table) == (2, 2)
    assert labels_in(tmp_path, "labels.csv", table, "prepare.repeated_labels=synonyms") == (2, 3)
    assert labels_in(tmp_path, "labels.csv", table, "prepare.label_alternatives_column=") == (2, 0)
    skos = "@prefix skos: <http://www.w3.org/2004/02/skos/core#> . @prefix v: <http://v.test/> .\n"
    skos += 'v:a skos:prefLabel "Sea"@en ; skos:altLabel "Ocean"@en ; skos:hiddenLabel "Occean"@en .\n'
    assert labels_in(tmp_path, "labels.ttl", skos) == (1, 2)
