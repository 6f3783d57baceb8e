"""A tagger that follows its export: what ``ezxmc export`` (or a run's end) puts in place is loaded beside the old one.

Comes in: a directory or URI, and requests. Goes out: answers. What is being tagged while a new export is taken over is
tagged by the old one; an export that cannot be loaded leaves the old one where it is, is told once, and is tried again
at growing distances.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hardware import is_out_of_memory
from ezxmc_ray.progress import say
from ezxmc_ray.serving.contract import Answer, Options, TagRequest, finite
from ezxmc_ray.storage import Storage, read_manifest
from ezxmc_ray.tagging.bundle import is_bundle, state_of
from ezxmc_ray.tagging.hub_bundle import fetch_bundle, is_on_hub
from ezxmc_ray.tagging.tagger import Tagger

#: Looks that an export is left alone for at most, after it could not be loaded: loading reads all of its files.
MAX_PAUSE = 16
#: Of the fingerprint of what a run predicts by, in the name of its export.
_PREDICT_DIGITS = 8


def export_of(where: str) -> str:
    """A name of what is there now: another one for another export; of a run by its index, its cross-encoder where that
    is asked, and how it predicts. Empty: none is whole."""
    storage = Storage(where)
    if is_bundle(storage):
        return state_of(storage)
    index, cross = (read_manifest(storage, folder) for folder in (layout.INDEX, layout.CROSS_ENCODER))
    if index is None:
        return ""
    # What runs are made by, which a bundle does without.
    from ezxmc_ray.config import fingerprint, fingerprinted_settings
    from ezxmc_ray.context import stored_configuration

    config = stored_configuration(storage)
    made = [index, cross if config.predict.rerank else None]
    how = fingerprint(fingerprinted_settings(config, "predict"))[:_PREDICT_DIGITS]
    return "+".join([*(one.commit for one in made if one), how])


class Patience:
    """At which looks an export is tried that could not be loaded: the second one, the fourth after it, and so on.

    Another export is tried at once.
    """

    def __init__(self) -> None:
        self._failed: str | None = None
        self._pause, self._looks = 1, 0

    def is_due(self, export: str) -> bool:
        """Whether to try ``export`` at this look."""
        if export != self._failed:
            return True
        self._looks += 1
        return self._looks >= self._pause

    def note(self, export: str) -> None:
        """``export`` could not be loaded."""
        self._pause = min(2 * self._pause, MAX_PAUSE) if export == self._failed else 2
        self._failed, self._looks = export, 0


@dataclass(frozen=True)
class _Loaded:
    export: str
    tagger: Tagger


class LiveTagger:
    """What a replica is; several threads may share one."""

    def __init__(
        self,
        where: str,
        overrides: Sequence[str] = (),
        load: Callable[[str, Sequence[str]], Tagger] = Tagger.load,
        export_now: Callable[[str], str] = export_of,
    ) -> None:
        """Errors: UserError as Tagger.load."""
        if is_on_hub(where):
            where = fetch_bundle(where)  # once: the hub is not asked every few seconds
        self._where, self._overrides, self._load, self._export_now = where, list(overrides), load, export_now
        self._now = _Loaded(export_now(where), load(where, self._overrides))
        #: Why the newest export is not taken over; empty: it is.
        self.failed = ""
        self._patience = Patience()
        self._ends = threading.Event()

    @property
    def export(self) -> str:
        """Which export it tags with."""
        return self._now.export

    def follow(self, seconds: float) -> None:
        """From now on look for another export so often, in a thread, until :meth:`close`."""
        threading.Thread(target=self._follow, args=(seconds,), name="export", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._ends.set()

    def _follow(self, seconds: float) -> None:
        while not self._ends.wait(seconds):
            self.reload()

    def reload(self) -> bool:
        """Load what is there if it is another export; whether it was. What goes wrong is told, and nothing changes.

        One that could not be loaded is tried at some looks only (Patience).
        """
        export = ""
        try:
            export = self._export_now(self._where)
            if export in ("", self._now.export) or not self._patience.is_due(export):
                return False
            self._now = _Loaded(export, self._load(self._where, self._overrides))
        except Exception as error:  # whatever it is, the old one tags on
            told = f"{self._where}: the new export {export} is not taken over: {one_line(error)}"
            if told != self.failed:
                say(told)
            self.failed = told
            if export:
                self._patience.note(export)
            return False
        self.failed = ""
        say(f"{self._where}: tagging with the export {export} from now on")
        return True

    def tag(self, asked: TagRequest) -> Answer:
        """The labels of every document; a mistake of the client is told in the answer. Memory that runs out is none.

        Where another export is asked for than there is, the answer names the one that there is, and has no labels.
        """
        now = self._now
        if asked.options.export not in (None, now.export):
            return Answer(now.export, [])
        try:
            return Answer(now.export, _tag(now.tagger, asked.titles, asked.texts, asked.options))
        except UserError as error:
            if error.__cause__ is not None and is_out_of_memory(error.__cause__):
                raise
            return Answer(now.export, [], str(error))

    def pairs_of_text(self, among: int | None) -> int:
        """As Tagger.pairs_of_text, of the export that tags now."""
        return self._now.tagger.pairs_of_text(among)

    def find_labels(self, query: str, limit: int) -> dict[str, Any]:
        """The first ``limit`` labels that have ``query`` in their text or id, in whatever case; how many do.

        Also ``defaults``: what a request gets that does not say how many labels, and of which score.
        """
        tagger = self._now.tagger
        labels = tagger.labels
        found = labels
        if query:
            has = [pc.match_substring(labels[name], query, ignore_case=True) for name in ("text", "id")]
            found = labels.filter(pc.or_(*has))
        return {
            "labels": found.slice(0, limit).select(["id", "text"]).to_pylist(),
            "matches": len(found),
            "total": len(labels),
            "defaults": finite({"k": min(tagger.top_k, len(labels)), "min_score": tagger.min_score}),
        }


def _tag(tagger: Tagger, titles: list[str], texts: list[str], options: Options) -> list[list[dict[str, Any]]]:
    labels = len(tagger.labels)
    if options.k is not None and options.k > labels:
        raise UserError(f"k={options.k:,} is more than the {labels:,} labels that there are.")
    given = min(tagger.top_k, labels, labels if options.among is None else len(options.among))
    if options.most is not None and given > options.most:
        raise UserError(
            f"Without k a text gets up to {given:,} labels, and of so many texts {options.most:,} are given: give k, "
            "or send fewer texts."
        )
    if not texts:
        return []
    tagged = tagger.tag(texts, options.k, options.min_score, titles, options.among)
    rows = [[_without_cross(finite(dataclasses.asdict(label)), "similarity") for label in labels] for labels in tagged]
    if options.explain:
        for row, whys in zip(rows, tagger.explain(texts, tagged, titles), strict=True):
            for label, why in zip(row, whys, strict=True):
                label["why"] = _without_cross(dataclasses.asdict(why), "cross_encoder")
    return rows


def _without_cross(told: dict[str, Any], name: str) -> dict[str, Any]:
    """``told`` without what a cross-encoder alone gives, where there is none."""
    if told[name] is None:
        del told[name]
    return told
