"""Ray Train's own note of a training's checkpoints, which a kill or a full disk leaves empty or cut off.

Ray Train 2.60 empties the file before it writes it, and a training with a note that does not parse cannot begin again.
In: the folder of a training. Out: a note that parses, of the newest checkpoint that is whole, or none; and a sentence.
"""

from __future__ import annotations

import zipfile

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
    _CheckpointManagerState,
    _TrainingResultState,
)

from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage

STATE = "state.pt"


def mend_snapshot(storage: Storage, training: str) -> None:
    """Set a note aside that does not parse or names checkpoints that are gone, and put one in its place.

    ``training``: the folder that Ray Train keeps the training in, relative to the run.
    """
    note = f"{training}/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}"
    if not storage.exists(note) or _is_whole(storage, training, note):
        return
    storage.rename(note, f"{note}.damaged")
    newest = _newest_whole(storage, training)
    if newest is not None:
        storage.write_bytes(note, _note_of(newest).encode())
    going_on = "from the newest whole checkpoint" if newest else "anew, since no checkpoint is whole"
    say(f"Ray Train's note of its checkpoints, {storage.path(note)}, is damaged: training goes on {going_on}.")


def _is_whole(storage: Storage, training: str, note: str) -> bool:
    try:
        state = _CheckpointManagerState.model_validate_json(storage.read_bytes(note))
    except Exception:  # of the library that checks it, which is Ray's business
        return False
    return all(storage.is_folder(f"{training}/{one.checkpoint_dir_name}") for one in state.checkpoint_results)


def _newest_whole(storage: Storage, training: str) -> str | None:
    """The folder of the last checkpoint, by its name, a time, whose file passes its own checksums."""
    for folder in reversed(storage.folders(training)):
        name = folder.rpartition("/")[2]
        if not (name.startswith("checkpoint_") and storage.exists(f"{folder}/{STATE}")):
            continue
        with storage.filesystem.open_input_file(storage.path(f"{folder}/{STATE}")) as file:
            try:
                with zipfile.ZipFile(file) as state:
                    if state.testzip() is None:
                        return name
            except (zipfile.BadZipFile, OSError, EOFError, ValueError):
                continue
    return None


def _note_of(checkpoint: str) -> str:
    only = _TrainingResultState(checkpoint_dir_name=checkpoint, metrics={})
    state = _CheckpointManagerState(
        checkpoint_results=[only],
        checkpoint_report_indices=[0],
        latest_checkpoint_result=only,
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=0,
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    return str(state.model_dump_json())
