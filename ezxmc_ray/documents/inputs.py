"""All that a run reads: from ``prepare.*`` to label and document sources, and the fingerprint that tells a change.

Comes in: the configuration. Goes out: :class:`Inputs`; files are listed, none is opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from ezxmc_ray.config import PrepareConfig, fingerprint, to_dict
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.labels import LabelSource
from ezxmc_ray.documents.sources import find_sources
from ezxmc_ray.documents.xmc import find_xmc_sources
from ezxmc_ray.errors import UserError


@dataclass(frozen=True)
class Inputs:
    """The sources of a run, in the order in which they are read."""

    labels: list[LabelSource]
    documents: list[DocumentSource]

    @property
    def sources(self) -> int:
        """Files of labels and documents."""
        return len(self.labels) + len(self.documents)


def find_inputs(prepare: PrepareConfig) -> Inputs:
    """The sources that ``prepare`` names; UserError if files are missing, or both ways of naming them are used."""
    if prepare.xmc_directory:
        if prepare.documents or prepare.labels:
            raise UserError(
                "prepare.xmc_directory stands instead of prepare.documents and prepare.labels; set one or the other."
            )
        return Inputs(*find_xmc_sources(prepare.xmc_directory))
    documents = find_sources(prepare.documents, prepare.format, "prepare.documents")
    labels = find_sources(prepare.labels, prepare.format, "prepare.labels")
    label_columns = (
        ("prepare.label_id_column", (prepare.label_id_column,)),
        ("prepare.label_text_column", (prepare.label_text_column,)),
    )
    document_columns = (
        ("prepare.id_column", (prepare.id_column,)),
        ("prepare.text_column or prepare.title_column", (prepare.text_column, prepare.title_column)),
    )
    return Inputs(
        [
            LabelSource(
                one,
                prepare.label_id_column,
                prepare.label_text_column,
                prepare.label_description_column,
                label_columns,
            )
            for one in labels
        ],
        [
            DocumentSource(
                one,
                id_column=prepare.id_column,
                title_column=prepare.title_column,
                text_column=prepare.text_column,
                labels_column=prepare.labels_column,
                split_column=prepare.split_column,
                required=document_columns,
            )
            for one in documents
        ],
    )


def inputs_fingerprint(prepare: PrepareConfig, seed: int) -> str:
    """Hash of ``prepare``, the seed, and each file's name, size and time of change; no file is opened.

    Credentials in URIs are no part of it: they may come from the environment the next time.
    """
    inputs = find_inputs(prepare)
    files = [one.source for one in inputs.labels] + [file for one in inputs.documents for file in one.files]
    return fingerprint(
        [without_credentials(to_dict(prepare)), seed, [[file.name, file.size, file.mtime_ns] for file in files]]
    )
