"""The knobs of ``prepare``: what users bring, and how it is read. A section of schema.py's Config."""

from __future__ import annotations

from dataclasses import dataclass

from ezxmc_ray.config.knobs import knob


@dataclass
class PrepareConfig:
    """What the user brings: documents, labels, and how they are checked, split and sharded."""

    documents: list[str] = knob(  # noqa: RUF009
        [], "document files: paths, globs or URIs; JSON, Parquet or CSV, .gz, .zst or .bz2 (docs/data.md)"
    )
    labels: list[str] = knob(  # noqa: RUF009
        [], "label files, the same formats: columns id and text; or SKOS (.ttl, .rdf, .nt), or .txt, a text a line"
    )
    xmc_directory: str | None = knob(
        None, "instead of documents and labels: a data set of the Extreme Classification Repository"
    )
    format: str = knob("auto", "format of the files; auto goes by their names", ("auto", "jsonl", "parquet", "csv"))
    csv_separator: str = knob(
        "auto",
        "sign between the columns of CSV files; auto goes by the header",
        ("auto", "comma", "semicolon", "tab", "pipe"),
    )
    id_column: str = knob("id", "document column: unique id (id may be absent: then the rows' numbers are the ids)")
    title_column: str = knob("title", "document column: title (title may be absent; empty: none)")
    text_column: str = knob("text", "document column: body; where titles are all there is, the title's column")
    labels_column: str = knob(
        "labels", "document column: list of gold label ids (labels may be absent; empty: none; evaluation only)"
    )
    list_separator: str = knob(
        "auto",
        "sign between label ids (or alternatives) in one text: semicolon, pipe, comma, tab, newline, space, or any other; auto: the one that makes known ids",
    )
    split_column: str = knob(
        "split",
        "document column: train, test or validation (split may be absent: then names of files, else test_share, decide)",
    )
    label_id_column: str = knob("id", "label column: unique id")
    label_text_column: str = knob("text", "label column: text")
    label_description_column: str = knob(
        "description",
        "label column: what the label means, for the teacher to read (description may be absent; empty: none)",
    )
    label_alternatives_column: str = knob(
        "alternatives",
        "label column: other texts of the label, by which it is found too (alternatives may be absent; empty: none, altLabels of SKOS neither)",
    )
    label_language: str = knob(
        "", "language of the labels of a SKOS vocabulary, such as en; empty: the one that most have"
    )
    test_share: float = knob(
        0.1, "share of the documents kept for testing where no split column says so, 0 to 1", most=1
    )
    held_out_share: float = knob(
        0.1,
        "share of the train documents that are judged but not trained on (selection), 0 to less than 1",
        most=1,
    )
    limit_documents: int = knob(0, "read no more than so many documents, 0 = all (the first ones in source order)")
    shard_rows: int = knob(
        4096, "documents a shard; small inputs get smaller shards, so that work can be shared out", above=0
    )
    on_bad_rows: str = knob(
        "fail", "fail: list the bad rows and stop; skip: leave them out, in rejected.parquet", ("fail", "skip")
    )
    repeated_labels: str = knob(
        "fail",
        "rows of a label id that an earlier row has; fail: bad rows; synonyms: other texts of the same label (alternatives)",
        ("fail", "synonyms"),
    )
    on_unknown_gold: str = knob(
        "skip",
        "gold labels that are not among the labels; skip: leave them out of their documents, counted; fail: stop",
        ("skip", "fail"),
    )
