"""What was read, in sentences: for the terminal, the manifest and the report.

Comes in: inputs, and what the two passes of prepare counted. Goes out: sentences; and a UserError where what was read
cannot be what was meant (no text at all, two separators in one column).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.columns import (
    DOCUMENT_COLUMNS,
    LABEL_COLUMNS,
    check_ids,
    check_named,
    divided,
    lookalikes,
    text_elsewhere,
    unused,
)
from ezxmc_ray.documents.inputs import Inputs
from ezxmc_ray.documents.labels import LabelSet
from ezxmc_ray.documents.look import Settled
from ezxmc_ray.documents.oddities import Oddities
from ezxmc_ray.documents.parts import LIKE, CheckedSource, LabelCounts
from ezxmc_ray.documents.rejected import rowless
from ezxmc_ray.documents.shards import KnownTexts, ShardCounts
from ezxmc_ray.documents.sources import listed
from ezxmc_ray.documents.splits import contradictions, other_keys
from ezxmc_ray.errors import UserError


def check_label_columns(prepare: PrepareConfig, inputs: Inputs, labels: LabelCounts) -> None:
    """UserError for a named column of labels that no file has, or two separators of alternatives."""
    if inputs.has_columns and (columns := _all(labels.columns)):
        check_named(prepare, LABEL_COLUMNS, columns, "prepare.labels")
    check_one_separator(prepare.label_alternatives_column, "texts", labels.separators)


def check_columns_read(
    prepare: PrepareConfig, inputs: Inputs, settled: Settled, checked: Sequence[CheckedSource]
) -> None:
    """UserError for a named column that no file has, ids in some files only, or two separators of label ids."""
    if not inputs.has_columns:
        return
    columns = _columns(checked)
    if columns:
        check_named(prepare, DOCUMENT_COLUMNS, columns, "prepare.documents")
    if any(one.row_ids for one in settled.sources):
        check_ids(prepare.id_column, columns, "prepare.documents")
    separators = {sign: where for one in reversed(checked) for sign, where in one.separators.items()}
    if prepare.list_separator == "auto":
        check_one_separator(prepare.labels_column, "label ids", separators)


def check_one_separator(column: str, what: str, separators: dict[str, str]) -> None:
    """UserError for more than one of ``separators``, each with the place where it first was."""
    if len(separators) > 1:
        found = " and ".join(f"{sign!r} ({where})" for sign, where in separators.items())
        raise UserError(
            f"The column {column!r} has {what} with {found} between, and a column has one separator: mend the rows, "
            "or set prepare.list_separator."
        )


def check_texts(prepare: PrepareConfig, inputs: Inputs, checked: Sequence[CheckedSource], texts: int) -> None:
    """UserError where no document has a text. (Data sets of the Repository may hold titles alone.)"""
    if not texts and inputs.has_columns:
        raise without_text(prepare, _columns(checked))


def without_text(prepare: PrepareConfig, columns: Sequence[str]) -> UserError:
    """What is wrong where none of the ``columns`` has texts, and what to do."""
    return UserError(
        text_elsewhere(prepare, columns)
        or f"No document has a text: the column {prepare.text_column!r} is empty or absent, and the columns are "
        f"{listed(columns)}: set prepare.text_column, where titles are all there is to "
        f"prepare.text_column={prepare.title_column or 'title'}."
    )


def check_unknown_gold(prepare: PrepareConfig, checked: Sequence[CheckedSource], shards: Sequence[ShardCounts]) -> None:
    """UserError for gold labels that are not among the labels, with prepare.on_unknown_gold=fail."""
    unknown = sum(one.unknown_gold for one in shards)
    if unknown and prepare.on_unknown_gold == "fail":
        raise UserError(
            f"{_unknown(checked, shards)}; mend them, or leave them out of their documents with "
            "prepare.on_unknown_gold=skip."
        )


def what_was_read(
    prepare: PrepareConfig,
    inputs: Inputs,
    labels: LabelCounts,
    settled: Settled,
    checked: Sequence[CheckedSource],
    shards: Sequence[ShardCounts],
    united: int,
    known: KnownTexts,
) -> list[str]:
    """The sentences, warnings last. ``united``: rows whose gold labels went to an earlier row of the same document."""
    documents, gold = sum(one.rows for one in shards), sum(one.labelled for one in shards)
    titles, texts = sum(one.titles for one in shards), sum(one.texts for one in shards)
    pairs = sum(one.gold_labels for one in shards)
    told = [
        f"Read {documents:,} documents: {titles:,} with a title, {texts:,} with a text, {gold:,} with gold labels "
        f"({pairs:,} in all); {labels.labels:,} labels",
        _split(prepare, shards),
    ]
    if any(one.row_ids for one in settled.sources) and inputs.has_columns:
        told.append(f"No file has a column {prepare.id_column!r}: the numbers of the rows, from 0, are the ids")
    if not inputs.has_columns and not gold:
        told.append(f"No gold labels: {prepare.xmc_directory} has none beside its texts (Y.trn.npz, trn_X_Y.txt)")
    elif bare := [
        one.source.name for one in settled.sources if one.label_rows and not (one.labels_column or one.gold_matrix)
    ]:
        told.append(f"No gold labels of {listed(bare)}: there are none beside it (Y.tst.npz, tst_X_Y.txt)")
    told += _oddities_told(Oddities.of_all([labels.oddities, *(one.oddities for one in checked)]))
    if united:
        told.append(f"{united:,} rows repeat a document with other gold labels: they are united with its first row")
    told += rowless(_rowless(inputs, settled, checked))
    told += _again_told(known.again, has_ids=not any(one.row_ids for one in settled.sources), gold=gold)
    told += _known_told(known)
    told += _matrix_told(gold, pairs, labels.labels)
    told += _labels_told(labels)
    if sum(one.unknown_gold for one in shards):
        told.append(f"Left out: {_unknown(checked, shards)}")
    if inputs.has_columns:
        names = [settled.sources[one.number - len(inputs.labels)].source.name for one in checked]
        told += _columns_told(prepare, labels, {name: one.columns for name, one in zip(names, checked, strict=True)})
        told += _names_told(prepare, settled)
    return told + unread_files(inputs.unread, inputs.has_columns)


def _rowless(inputs: Inputs, settled: Settled, checked: Sequence[CheckedSource]) -> list[str]:
    """Files of documents without rows, and of pairs without any; none behind a file that alone reaches the limit: which
    of these were read depends on who was quicker."""
    last = next((number for number, one in enumerate(checked) if one.full), len(checked))
    found = [settled.sources[one.number - len(inputs.labels)].source.name for one in checked[:last] if one.is_rowless]
    filters = [one.label_filter for one in settled.sources]
    return [*found, *(one.name for one in filters if one is not None and not one.size)]


def label_notes(labels: LabelSet) -> list[str]:
    """What was chosen in reading the labels of files that a command names, and what is odd in them."""
    return [*labels.notes, *_oddities_told(labels.oddities)]


def _labels_told(labels: LabelCounts) -> list[str]:
    """What was chosen in reading the labels, and what of them is alike."""
    told = list(labels.notes)
    if labels.duplicate_texts:
        told.append(
            f"{labels.duplicate_texts:,} labels have the text of an earlier one, but for case and blanks at most: only "
            "a description tells them apart"
        )
    if labels.alternatives:
        told.append(
            f"{labels.with_alternatives:,} labels have alternatives, {labels.alternatives:,} texts in all: a label is "
            "as similar as its best text, and the teacher reads the preferred one"
        )
    return told


def _names_told(prepare: PrepareConfig, settled: Settled) -> list[str]:
    """Names of files and folders that say another split than the one that was taken, or none."""
    told, files = list[str](), [one.source for one in settled.sources]
    if others := contradictions(files, [one.split for one in settled.sources]):
        told.append(f"Warning: {others[0]}" + (f"; so are {len(others) - 1:,} more" if len(others) > 1 else ""))
    if keys := other_keys(files, prepare.split_column):
        told.append(f"Folders of the documents whose names are not used: {listed([f'{key}=' for key in keys])}")
    return told


def _again_told(again: int, has_ids: bool, gold: int) -> list[str]:
    """Documents that are there more than once; without ids they may be the rows of one document, a gold label each."""
    if not again:
        return []
    found = f"{again:,} document{'s have' if again > 1 else ' has'} the title and text of an earlier one"
    if has_ids or not gold:
        return [f"{found}{' under another id' if has_ids else ''}"]
    return [
        f"Warning: {found}: if each row is one gold label of a document, give all rows of a document the same id, and "
        "they are united; without ids each counts as a document that has its own labels alone"
    ]


def _matrix_told(gold: int, pairs: int, labels: int) -> list[str]:
    """Where ``gold`` documents have ``labels`` gold labels each, which is all there are."""
    if gold < 2 or labels < 2 or pairs < gold * labels:
        return []
    return [
        f"Warning: every document with gold labels has all {labels:,} of them, so nothing is measured by them; if the "
        "lists are rows of a 0/1 matrix, write the ids of the ones"
    ]


def _known_told(known: KnownTexts) -> list[str]:
    """Documents that are measured as if they were new, and are not."""
    counts = {"test documents": known.test, "held-out documents": known.held_out}
    found = " and ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    if not found:
        return []
    return [
        f"Warning: {found} have the title and text of a train document with another id: what is measured by them is "
        "better than on texts that are new"
    ]


def unread_files(names: Sequence[str], has_columns: bool = True) -> list[str]:
    """A sentence where files of directories, called ``names``, are not read; ``has_columns``: others may be named."""
    if not names:
        return []
    shown = listed([one.rpartition("/")[2] for one in names])
    told = f"Files of the directories that are not read: {shown} ({len(names):,} in all)"
    return [told + ("; to read one, name it, with an ending that says its format" if has_columns else "")]


def _oddities_told(oddities: Oddities) -> list[str]:
    """Records of CSV that span lines: one of many lines may be rows that an open quote has swallowed; repeated keys;
    signs for no text."""
    told = []
    if oddities.records:
        told.append(
            f"{oddities.records:,} records of CSV span lines, the longest {oddities.lines:,} lines ({oddities.where}); "
            "if that is no text of so many lines, a quote is not closed there"
        )
    if oddities.repeated:
        told.append(
            f"{oddities.repeated:,} rows give a key of an object two values, of which the last counts "
            f"({oddities.first})"
        )
    if oddities.by_sign:
        told.append(
            f"{oddities.by_sign:,} rows of CSV have NA, NULL, \\N or the like for a text, the first "
            f"{oddities.first_by_sign}: it is taken as empty"
        )
    return told


def _columns(checked: Sequence[CheckedSource]) -> list[str]:
    return list(dict.fromkeys(name for one in checked for name in one.columns))


def _all(files: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns of all ``files``."""
    return list(dict.fromkeys(name for found in files.values() for name in found))


def _columns_told(prepare: PrepareConfig, labels: LabelCounts, files: dict[str, list[str]]) -> list[str]:
    """Columns that are there and not read, and warnings of those that look like one that is absent, or is in some
    ``files`` only."""
    told, columns, of_labels = [], _all(files), _all(labels.columns)
    if spare := unused(prepare, DOCUMENT_COLUMNS, columns):
        told.append(f"Columns of the documents that are not used: {listed(spare)}")
    if spare := unused(prepare, LABEL_COLUMNS, of_labels):
        told.append(f"Columns of the labels that are not used: {listed(spare)}")
    warnings = lookalikes(prepare, DOCUMENT_COLUMNS, columns) if columns else []
    warnings += divided(prepare, DOCUMENT_COLUMNS, files)
    warnings += lookalikes(prepare, LABEL_COLUMNS, of_labels) if of_labels else []
    warnings += divided(prepare, LABEL_COLUMNS, labels.columns)
    return told + [f"Warning: {one}" for one in warnings]


def _split(prepare: PrepareConfig, shards: Sequence[ShardCounts]) -> str:
    """Where the split came from, and its counts."""
    counts = sum((Counter(one.split_from) for one in shards), Counter[str]())
    by = Counter[str]()
    for name, count in counts.items():
        by[name.partition(",")[0]] += count
    train, test = sum(one.train for one in shards), sum(one.test for one in shards)
    validation = sum(count for name, count in counts.items() if name.endswith("validation"))
    drawn = f"{100 * prepare.test_share:g} % drawn for testing"
    words = {
        "column": f"{by['column']:,} by the column {prepare.split_column!r}",
        "file": f"{by['file']:,} by the names of files and folders",
        "drawn": f"{by['drawn']:,} that nothing says it of, {drawn}",
    }
    how = ", ".join(words[name] for name in words if by[name])
    if set(by) == {"drawn"}:
        how = f"no file says train or test: {drawn}"
    return f"Split: {train:,} train, {test:,} test ({how})" + (
        f"; {validation:,} for validation are taken as train" if validation else ""
    )


def _unknown(checked: Sequence[CheckedSource], shards: Sequence[ShardCounts]) -> str:
    unknown, documents = sum(one.unknown_gold for one in shards), sum(one.unknown_documents for one in shards)
    known = sum(one.gold_labels for one in shards)
    places = sorted((where for one in checked for where in one.unknown), key=lambda where: LIKE not in where)
    first, hint = ", ".join(places[:3]), ""
    if LIKE in first:
        hint += "; ids that differ in case, signs or zeros are others: write them alike in both"
    if not known:
        hint += (
            "; none at all is known: if they are texts of labels, set prepare.label_id_column to the column of texts"
        )
    return (
        f"{unknown:,} of {unknown + known:,} gold labels, of {documents:,} documents, are not among the labels "
        f"({first}){hint}"
    )
