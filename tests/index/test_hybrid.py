"""Documents that are searched some at a time, beside all at once."""

from __future__ import annotations

import numpy as np
import pytest

from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.index import hybrid
from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.search import ShardedIndex
from tests.index.test_parts import texts_of
from tests.index.test_search import coarse_rows


@pytest.mark.parametrize("name_bonus", [0.0, 0.5])
def test_documents_are_searched_some_at_a_time_as_all_at_once(
    name_bonus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = LexicalTable.from_texts(texts_of(0, 40))
    config = LexicalConfig(weight=0.3, candidates=5, name_bonus=name_bonus)
    searcher = HybridSearcher(ShardedIndex.from_vectors(coarse_rows(40, 0)), table, config)
    queries, titles, texts = coarse_rows(23, 1), texts_of(1, 23), texts_of(2, 23)
    excluded = [row.tolist() for row in np.random.default_rng(0).integers(0, 40, (23, 3))]
    calls = [(queries, titles, texts, 4), (queries, titles, texts, 7, excluded), (queries[:0], [], [], 4)]
    expected = [searcher.search(*call) for call in calls]
    assert [labels.shape for _, labels in expected] == [(23, 4), (23, 7), (0, 4)]
    monkeypatch.setattr(hybrid, "BATCH_DOCUMENTS", 4)
    searched: list[int] = []
    plain = searcher.index.search
    monkeypatch.setattr(searcher.index, "search", lambda *asked: searched.append(len(asked[0])) or plain(*asked))
    for call, wanted in zip(calls, expected, strict=True):
        for found, same in zip(searcher.search(*call), wanted, strict=True):
            np.testing.assert_array_equal(found, same, strict=True)
    assert searched == [4, 4, 4, 4, 4, 3] * 2 + [0]
