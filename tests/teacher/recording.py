"""An engine that says what it was asked, and that can be stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ezxmc_ray.tables import NO_DOCUMENT
from ezxmc_ray.teacher.engine import BatchPrompts, JudgedBatch
from ezxmc_ray.teacher.transformers_engine import TransformersEngine


class RecordingEngine:
    """The real engine, which notes the pairs that it judges, and stops before the batch number ``stop``."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine, self.prompts = engine, engine.prompts
        self.asked: list[tuple[bytes, bytes]] = []
        self.stop = 1 << 30

    def judge_stream(self, coming: Iterable[BatchPrompts | None]) -> Iterator[JudgedBatch]:
        def until_stopped() -> Iterator[BatchPrompts | None]:
            for prompts in coming:
                self.stop -= prompts is not None
                if self.stop < 0:
                    raise KeyboardInterrupt
                yield prompts

        for judged in self.engine.judge_stream(until_stopped()):
            self.asked += [(pair.document_hash, pair.label_hash) for pair in judged.prompts.pairs]
            yield judged

    @property
    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Those of documents."""
        return [pair for pair in self.asked if pair[0] != NO_DOCUMENT]
