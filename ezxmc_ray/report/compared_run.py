"""One run of a comparison: whether it can be compared, what it was measured on, and what it cost.

Comes in: a run directory. Goes out: a ComparedRun. Its configuration is read as it lies there, since the run may have
been made by another version, with other knobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezxmc_ray import layout
from ezxmc_ray.config import EvaluateConfig
from ezxmc_ray.context import RERANKED
from ezxmc_ray.errors import UserError
from ezxmc_ray.evaluation.rankings import gold_of, read_measurement
from ezxmc_ray.integrity import damaged_files, read_configuration
from ezxmc_ray.metrics import Measurement
from ezxmc_ray.storage import Manifest, Storage, read_manifest
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, LABELS_SCHEMA, RANKINGS_SCHEMA, flat, lengths

#: Name of an untrained encoder beside the runs.
UNTRAINED = "untrained encoder"


@dataclass(frozen=True)
class ComparedRun:
    """An evaluated run with gold labels.

    ``name``: as short as tells it from the others. ``chosen``: number of the encoder that it ships, 0 for the untrained
    one; ``is_reranked``: with a cross-encoder, whose ranking has the number behind the last. ``label_ids``: fingerprint
    of them, in order. ``documents``: fingerprint of the ranked test documents that have gold labels, and of these;
    ``order``: int64 [documents], what brings them into the order of their ids. ``judged``, ``trained``: the manifests
    of judge, that of the selection last, and of train, cycle by cycle, then cross_encoder's.
    """

    name: str
    storage: Storage
    seed: int
    settings: EvaluateConfig
    labels: int
    shards: int
    encoders: int
    depth: int
    chosen: int
    is_reranked: bool
    label_ids: str
    documents: str
    order: NDArray[np.int64]
    judged: list[Manifest]
    trained: list[Manifest]

    @property
    def shipped(self) -> int:
        """Number of the ranking that its tags are of."""
        return self.encoders if self.is_reranked else self.chosen

    @property
    def rankings(self) -> list[str]:
        """Names of the rankings, by number."""
        names = ["untrained", *(f"cycle {number}" for number in range(self.encoders - 1))]
        return [*names, f"{names[self.chosen]}, reranked"] if self.is_reranked else names

    def measurement(self, ranking: int, inverse: NDArray[np.float64]) -> Measurement:
        """Of ranking number ``ranking``, documents in the order of the shards; ``inverse``: of inverse_propensities."""
        return read_measurement(self.storage, ranking, self.shards, inverse)

    @cached_property
    def pairs_by_cycle(self) -> list[int]:
        """Distinct (document, label) pairs judged up to the end of each cycle, the selection's included in the last."""
        totals = np.zeros(self.encoders, np.int64)
        for shard in range(self.shards):
            known = np.zeros(0, np.int64)
            for cycle in range(self.encoders):
                known = np.union1d(known, self._judged_pairs(cycle, shard))
                totals[cycle] += len(known)
        return [int(total) for total in totals]

    def _judged_pairs(self, cycle: int, shard: int) -> NDArray[np.int64]:
        """The pairs of a shard's examples as row * labels + label number."""
        table = self.storage.read_shard(layout.examples(cycle), shard, EXAMPLES_SCHEMA, ["row", "labels"])
        rows = np.repeat(table["row"].to_numpy().astype(np.int64), lengths(table["labels"]))
        return np.asarray(rows * self.labels + flat(table["labels"]))


def open_runs(roots: Sequence[str]) -> list[ComparedRun]:
    """The runs in the directories or URIs ``roots``.

    Errors: UserError for a root that is no run, has not been evaluated since its student was chosen, is being redone,
    has no gold labels on test documents, or is given twice.
    """
    return [_open(root, name) for root, name in zip(roots, _names(roots), strict=True)]


def _open(root: str, name: str) -> ComparedRun:
    storage = Storage(root)
    if not storage.exists(layout.CONFIG):
        raise UserError(f"{root} is not a run: it has no {layout.CONFIG}; give the directory that `ezxmc run` wrote.")
    parts = {folder: read_manifest(storage, folder) for folder in (layout.DOCUMENTS, layout.STUDENT)}
    prepared, student = parts[layout.DOCUMENTS], parts[layout.STUDENT]
    evaluated = read_manifest(storage, layout.EVALUATION)
    if not (prepared and student and evaluated) or damaged_files(storage, evaluated):
        raise UserError(f"{root} has not been evaluated yet: finish it with `ezxmc run` first.")
    if _is_stale(evaluated, prepared, student):
        raise UserError(
            f"The evaluation of {root} is older than its documents, its labels, its gold labels or its student: "
            "bring it up to date with `ezxmc run`."
        )
    if not evaluated.details.get("documents"):
        raise UserError(
            f"{root} has no gold labels on its test documents, so there is nothing to compare it by: give some "
            "documents those that are right, as ids in the column that prepare.labels_column names."
        )
    config = read_configuration(storage)
    chosen, shards = student.details["chosen_cycle"], int(prepared.details["shards"])
    is_reranked = RERANKED in evaluated.details["metrics"]
    encoders = len(evaluated.details["metrics"]) - is_reranked
    # What an earlier configuration judged or trained beyond these is no part of the run.
    judged = _manifests(storage, [layout.examples(cycle) for cycle in range(encoders)], evaluated)
    trainings = [layout.cycle_student(cycle) for cycle in range(encoders - 1)]
    trainings += [layout.CROSS_ENCODER] if is_reranked else []
    documents, order = _ranked_documents(storage, shards)
    return ComparedRun(
        name=name,
        storage=storage,
        seed=int(config["seed"]),
        settings=_settings(config["evaluate"]),
        labels=int(prepared.details["labels"]),
        shards=shards,
        encoders=encoders,
        depth=int(evaluated.details.get("depth", config["evaluate"]["depth"])),
        chosen=0 if chosen is None else int(chosen) + 1,
        is_reranked=is_reranked,
        label_ids=_fingerprint(storage.read_table(layout.LABELS, LABELS_SCHEMA, ["id"])["id"].to_pylist()),
        documents=documents,
        order=order,
        judged=judged,
        trained=_manifests(storage, trainings, evaluated),
    )


def _is_stale(evaluated: Manifest, prepared: Manifest, student: Manifest) -> bool:
    """Whether what was evaluated is there no more; an earlier version, which does not say what it was, is believed."""
    names = ("document_fingerprint", "label_fingerprint", "gold_fingerprint")
    there = {name: prepared.details.get(name) for name in names} | {"student": student.commit}
    return any(evaluated.details.get(name, value) != value for name, value in there.items())


def _manifests(storage: Storage, folders: Sequence[str], evaluated: Manifest) -> list[Manifest]:
    """The manifests of ``folders``, whole and those that the evaluation goes back to (an earlier version does not say).

    Errors: UserError for a run that was begun anew after it had been evaluated, and has not come to its end again.
    """
    commits, found = evaluated.details.get("commits", {}), []
    for folder in folders:
        manifest = read_manifest(storage, folder)
        is_whole = manifest is not None and not damaged_files(storage, manifest)
        if manifest is None or not is_whole or commits.get(folder, manifest.commit) != manifest.commit:
            raise UserError(
                f"{folder} of {storage.root} is not there whole, or is newer than the evaluation: bring the run up to "
                "date with `ezxmc run`."
            )
        found.append(manifest)
    return found


def _settings(stored: dict[str, Any]) -> EvaluateConfig:
    """The knobs of the stage evaluate that this version knows, of a configuration that another one may have written."""
    return EvaluateConfig(
        **{field.name: stored[field.name] for field in fields(EvaluateConfig) if field.name in stored}
    )


def _names(roots: Sequence[str]) -> list[str]:
    """The last parts of the paths ``roots``, as many of them as tell all, and untrained encoders, apart."""
    paths = [Storage(root).path().rstrip("/") for root in roots]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise UserError(f"{roots[number]} is given twice; give each run once.")
    parts = [path.split("/") for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names) and not any(name.startswith(UNTRAINED) for name in names):
            return names
    return paths


def _ranked_documents(storage: Storage, shards: int) -> tuple[str, NDArray[np.int64]]:
    """``documents`` and ``order`` of a ComparedRun."""
    ids: list[str] = []
    texts: list[str] = []
    for shard in range(shards):
        rows = storage.read_shard(layout.ranking(0), shard, RANKINGS_SCHEMA, ["row"])["row"]
        known = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["id", "content_hash", "excluded"])
        for document, gold in zip(known.take(rows).to_pylist(), gold_of(storage, shard, rows), strict=True):
            if len(gold):
                ids.append(document["id"])
                excluded = f" {sorted(document['excluded'])}" if document["excluded"] else ""
                texts.append(f"{document['id']} {document['content_hash'].hex()} {gold.tolist()}{excluded}")
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    return _fingerprint([texts[position] for position in order]), order


def _fingerprint(texts: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()
