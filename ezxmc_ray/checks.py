"""What can be refused at once: names, paths and addresses of a configuration, before anything heavy is imported.

Comes in: a configuration. Goes out: nothing, or a UserError. No file is written, no model is loaded, and neither torch
nor transformers nor Ray is imported, so a mistyped name is told within a second or two.
"""

from __future__ import annotations

import importlib.util
import os
import re

from ezxmc_ray import layout
from ezxmc_ray.config import ClusterConfig, Config, cluster_address
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.documents.inputs import Inputs, find_inputs
from ezxmc_ray.documents.look import check_first_columns, first_columns, with_ids
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import is_signed
from ezxmc_ray.models import check_model, is_of_hub
from ezxmc_ray.places import is_runs_own
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.trackers import check_trackers
from ezxmc_ray.teacher.engine import asked_form
from ezxmc_ray.teacher.prompts import load_template
from ezxmc_ray.teacher.readout import resolve_readout, second_teacher

_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
#: Words that Ray takes as an address.
_WORDS = ("local", "auto")


def check_names(config: Config) -> None:
    """Refuse a configuration whose files, models, prompt or cluster are not there, as far as their names tell.

    Models of the hub come last, since it is asked for them. Errors: UserError.
    """
    check_place(config)
    check_apart(config, find_inputs(config.prepare))
    template = load_template(config.teacher.prompt, config.teacher.examples)
    for reference in sorted((config.encoder.model, config.teacher.model), key=is_of_hub):
        check_model(reference)
    asked_form(template, resolve_readout(config.teacher))
    second_teacher(config.teacher)


def check_place(config: Config) -> None:
    """A cluster's nodes do not share the driver's working directory, which a Ray job even loses when it ends."""
    check_shared(config.cluster, "run", config.run)


def check_shared(cluster: ClusterConfig, what: str, place: str) -> None:
    """UserError where ``place``, which ``what`` names, is a relative path and the work is on a cluster's nodes."""
    joined = cluster_address(cluster)
    _check_address(cluster)
    if joined != "local" and "://" not in place and not os.path.isabs(os.path.expanduser(place)):
        raise UserError(
            f"{what} is {place}, a path relative to this process, but the run works on the Ray cluster at {joined}: "
            f"set {what} to a URI or an absolute path that every node reaches."
        )


def check_apart(config: Config, inputs: Inputs) -> None:
    """Refuse inputs that lie where the run writes its own files: it would replace them. Errors: UserError."""
    run = Storage(config.run)
    for source in (one.source for some in (inputs.labels, inputs.documents) for one in some):
        if is_runs_own(run, source.filesystem, source.path):
            raise UserError(
                f"The input {source.name} lies in the run directory under a name that the run writes itself, and would "
                f"be replaced: move it, or set run to another directory than {without_credentials(config.run)}."
            )


def check_free(storage: Storage) -> None:
    """Refuse a directory that no run has written, and that holds what one would replace. Errors: UserError.

    Rejected rows alone are what a first ``prepare`` has left that was refused.
    """
    if storage.exists(layout.CONFIG) and is_signed(storage.read_bytes(layout.CONFIG)):
        return
    there = {name.partition("/")[0] for name in [*storage.folders(), *storage.list()]}
    held = sorted(name for name in there if layout.is_replaced(name) and name != layout.REJECTED)
    if any(storage.exists(note) for name in held for note in (layout.manifest(name), layout.begun(name))):
        return
    if held:
        raise UserError(
            f"The directory {storage.path()} was not made by ezxmc, and holds {', '.join(held[:3])}, which a run "
            "would replace: set run to a new directory."
        )


def check_installed(config: Config) -> None:
    """Refuse what is not installed where it is used; on a cluster its nodes are asked later. Errors: UserError."""
    if cluster_address(config.cluster) != "local":
        return
    check_trackers(config.student.trackers)
    check_engine(config)


def check_engine(config: Config) -> None:
    """Refuse a teacher's engine that is not installed; on a cluster its nodes are asked later. Errors: UserError."""
    local = cluster_address(config.cluster) == "local"
    if local and config.teacher.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "teacher.engine is vllm, which is not installed: install what requirements/ locks, or set "
            "teacher.engine=transformers, which is slow."
        )


def check_inputs(config: Config) -> None:
    """Refuse inputs whose first file of labels or of documents cannot be read or lacks a column. Errors: UserError."""
    inputs = find_inputs(config.prepare)
    for labels in inputs.labels[:1]:
        if labels.has_columns:  # a vocabulary is read as a whole or not at all
            next(iter(read_rows(labels.source, labels.columns, labels.required)), None)
    columns = first_columns(inputs.documents)
    if inputs.has_columns:
        check_first_columns(inputs.documents, columns, config.prepare)
    for documents in with_ids(inputs.documents, columns)[:1]:
        next(iter(read_rows(documents.source, documents.columns, documents.required)), None)


def _check_address(config: ClusterConfig) -> None:
    address, key = cluster_address(config), "cluster.address" if config.address else "RAY_ADDRESS"
    scheme, separator, rest = address.rpartition("://")
    if scheme == "ray":  # whose process is no part of the cluster: it lacks calls by which pools are sized
        raise UserError(
            f"{key} is {address!r}, of Ray's client, by which no command here can work: submit the command with `ray "
            "job submit --address http://host:8265`, or give host:port on a node of the cluster."
        )
    if address in _WORDS or separator:
        return
    found = _HOST_AND_PORT.fullmatch(rest)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise UserError(
            f"{key} is {address!r}, which is no address of a Ray cluster: give host:port, auto, or local for one on "
            "this machine."
        )
