"""``ezxmc tag --new-labels --output FOLDER/``: tags that a folder has, brought up to date with a bundle's labels; no
stage of a run.

In: a bundle whose labels have changed, the files of documents, and the folder that they were tagged into. Out: the tags
that tag_folder.py gives, in place of those that were there, each file whole. Items: files; actors: a tagger each, which
asks the labels that came (tagging/updating.py). A file that has no tags yet, or has changed since, is asked all labels;
so is one whose tags are damaged. Killed and given again, the command goes on with the files that are not done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ezxmc_ray.cluster.pools import Done, WorkItem
from ezxmc_ray.config import differences
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages.tag_folder import TagWorker, tag_missing
from ezxmc_ray.stages.tagged_files import (
    FolderTotals,
    TaggedFiles,
    depended_on,
    is_whole,
    note_of,
    owned_folder,
    read_note,
)
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.files import TagCounts, read_tags
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.updating import ANEW, Asked, LabelsThen, TagUpdater

#: What tags depend on (tagged_files.py) that is about the labels; ``added`` and ``removed`` are of changes.
_BASE, _CHANGES = ("shards", "label_fingerprint"), ("added", "removed")


def update_folder(
    where: str, overrides: Sequence[str], settings: TagSettings, inputs: Sequence[str], folder: str, ending: str
) -> tuple[TagCounts, Asked]:
    """As tag_folder, of files that were tagged before with other labels of the bundle ``where``.

    Returns what all files together have, and how many documents this call asked about which labels. Errors: UserError
    as tag_folder, and for tags that were made by another bundle, with other settings, or by --rerank.
    """
    files = TaggedFiles.find(settings, inputs, folder, ending)
    nothing = UserError(
        f"{folder} has no tags of these documents in files that end in {ending}: name the folder that they were tagged "
        f"into and its --format, or {ANEW}."
    )
    if not Storage(folder).is_folder(""):  # which the lock would make
        raise nothing
    totals, asked = FolderTotals(dict.fromkeys(files.columns)), Asked()
    with owned_folder(folder) as storage:
        there = storage.sizes(recursive=True)
        if not there.keys() & set(files.names):
            raise nothing
        done, missing = files.done_and_missing(storage, there)
        arguments = (where, list(overrides), storage, files, _states(storage, files, missing))
        files.note_made_by(storage)
        for one in tag_missing(totals, done, missing, settings.gpus_per_actor, UpdateWorker, arguments):
            asked.add(Asked(**one["asked"]))
    return totals.check(settings.prepare, inputs), asked


class UpdateWorker(TagWorker):
    """Actor: brings the tags of files up to date, or tags them where there are none of the documents as they are."""

    def __init__(
        self, where: str, overrides: list[str], storage: Storage, files: TaggedFiles, states: Mapping[str, LabelsThen]
    ) -> None:
        super().__init__(where, overrides, storage, files)
        self.updaters = {made_by: TagUpdater(self.tagger, then) for made_by, then in states.items()}

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its note, with what its documents were ``asked``."""
        file, updater = item["file"], self.updaters.get(item.get("made_by", ""))
        note = read_note(self.storage, note_of(file)) if updater else {}
        known = updater is not None and note.get("made_by") == item["made_by"]  # else a process that died had the item
        if updater is None or not known or not is_whole(self.storage, file, note):
            return self.tag(
                item, self.tagger.tag_columns, lambda counts: {"asked": dataclasses.asdict(Asked(all=counts.documents))}
            )
        updater.asked = Asked()
        tags = read_tags(self.storage, file)

        def finish(counts: TagCounts) -> Done:
            counts.truncated = note["counts"]["truncated"]
            if next(tags, None) is not None:
                raise UserError(
                    f"The tags {self.storage.path(file)} are of more documents than their file has: {ANEW}."
                )
            return {"asked": dataclasses.asdict(updater.asked)}

        return self.tag(item, updater.following(tags), finish)


def _states(storage: Storage, files: TaggedFiles, missing: Sequence[WorkItem]) -> dict[str, LabelsThen]:
    """The labels that there were when tags were made which are to be brought up to date, by the tags' ``made_by``."""
    states: dict[str, LabelsThen] = {}
    now = without_credentials(json.loads(json.dumps(files.depends_on)))
    for item in missing:
        made_by = item.get("made_by")
        if made_by and made_by not in states:
            states[made_by] = _labels_then(storage.path(item["file"]), depended_on(storage, made_by), now)
    return states


def _labels_then(tags: str, then: list[Any] | None, now: list[Any]) -> LabelsThen:
    """Of what ``tags`` depended on ``then``. Errors: UserError where more is different ``now`` than added and removed
    labels."""
    if then is None:
        raise UserError(f"It is not noted which labels there were when {tags} was made: {ANEW}.")
    if "rerank" in then:
        raise UserError(f"The labels in {tags} are those that a teacher said yes to (--rerank): rerank them anew.")
    before, after = (_without_labels(one[0]) for one in (then, now))  # older versions noted columns besides
    if other := differences(before, after):
        raise UserError(f"{tags} was made with other settings ({', '.join(other[:3])}): give the same ones, or {ANEW}.")
    before, after = then[0], now[0]
    if (
        any(before[key] != after[key] for key in _BASE)
        or after["added"][: len(before["added"])] != before["added"]
        or not set(before["removed"]) <= set(after["removed"])
    ):
        raise UserError(
            f"The labels of {tags} are of another export, or of one whose parts were made one since (`ezxmc labels "
            f"compact`), so that words weigh otherwise: {ANEW}."
        )
    return LabelsThen(1 + len(before["added"]), before["removed"])


def _without_labels(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tags depend on but for the labels."""
    return {key: value for key, value in settings.items() if key not in (*_BASE, *_CHANGES)}
