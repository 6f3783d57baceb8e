"""Before stage ``judge`` asks the verdict store, verdicts go to the shards that hold their documents now.

In: documents/ and verdicts/<teacher key>/. Out: more files in verdicts/<teacher key>/shard-NNNNN/, and placement.json,
which says for which shards of documents this was done. Items: some folders of the store. Documents that are added move
others to other shards; without this, judging would look for their verdicts in the wrong folder and ask again.
"""

from __future__ import annotations

from ezxmc_ray.context import Context, RunTasks
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage
from ezxmc_ray.verdicts.placement import LOOKUP, ShardLookup, placement_of, relocate_verdicts
from ezxmc_ray.verdicts.store import VerdictStore

#: Folders a task: each task reads the whole lookup first.
FOLDERS_PER_TASK = 64


def relocate(context: Context, key: str, run_tasks: RunTasks) -> int:
    """Bring the verdicts of the teacher ``key`` to their documents' shards, if these changed; returns rows appended.

    The folders of shards that the run no longer has are asked too: a document may come back. The placement is noted
    last, so that after a kill this is done again; what was appended already is found and not appended twice.
    """
    storage, store = context.storage, VerdictStore(context.storage, key)
    placement = placement_of(context.prepared)
    if store.placement() == placement:
        return 0
    added = 0
    if folders := store.folders():
        list(run_tasks(write_lookup, [(storage, context.shards)]))
        parts = [folders[start : start + FOLDERS_PER_TASK] for start in range(0, len(folders), FOLDERS_PER_TASK)]
        added = sum(run_tasks(relocate_folders, [(storage, key, part) for part in parts]))
        storage.remove(LOOKUP)
    store.write_placement(placement)
    if added:
        say(f"Documents have moved to other shards: {added:,} verdicts went with them")
    return added


def write_lookup(storage: Storage, shards: int) -> None:
    """Task: note which of the run's shards hold which document."""
    ShardLookup.of_shards(storage, shards).save(storage, LOOKUP)


def relocate_folders(storage: Storage, key: str, folders: list[str]) -> int:
    """Task: append the verdicts of ``folders`` to the folders where their documents are; returns rows appended."""
    store, lookup = VerdictStore(storage, key), ShardLookup.load(storage, LOOKUP)
    return sum(relocate_verdicts(store, lookup, folder) for folder in folders)
