from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import NO_DOCUMENT, VERDICTS, content_hash
from ezxmc_ray.teacher.store import PRIORS, VerdictStore

Pair = tuple[bytes, bytes]


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(Storage(str(tmp_path)), "0123456789abcdef")


def pairs_of(documents: range, labels: range) -> list[Pair]:
    return [(content_hash("", f"document {d}"), content_hash("", f"label {n}")) for d in documents for n in labels]


def table_of(pairs: list[Pair], raw: list[float]) -> pa.Table:
    documents, labels = zip(*pairs, strict=True)
    columns = [documents, labels, raw, [7] * len(pairs), [False] * len(pairs)]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, VERDICTS, strict=True)], schema=VERDICTS)


def test_a_batch_judged_again_is_the_same_file(store: VerdictStore, tmp_path: Path) -> None:
    pairs = pairs_of(range(3), range(4))
    name = store.append("shard-00000", table_of(pairs, [0.5] * 12))
    content = (tmp_path / name).read_bytes()
    again = store.append("shard-00000", table_of(pairs[::-1], [0.75] * 12))
    assert again == name
    assert (tmp_path / name).read_bytes() == content
    assert name.startswith("verdicts/0123456789abcdef/shard-00000/")
    assert store.statistics() == {"pairs": 12, "files": 1}


def test_lookup_finds_what_a_plain_dict_finds(store: VerdictStore) -> None:
    rng = np.random.default_rng(0)
    everything = pairs_of(range(40), range(25))
    plain: dict[Pair, float] = {}
    for batch in np.array_split(rng.permutation(len(everything))[:700], 9):
        raw = rng.random(len(batch)).astype(np.float32)
        store.append("shard-00003", table_of([everything[i] for i in batch], raw.tolist()))
        plain.update({everything[i]: value for i, value in zip(batch, raw, strict=True)})
    wanted = [everything[i] for i in rng.integers(0, len(everything), 2000)]
    found = store.lookup(
        "shard-00003",
        [d for d, _ in wanted],
        pa.chunked_array([pa.array([n for _, n in wanted])]).cast(VERDICTS.field("label_hash").type),
    )
    expected = np.array([plain.get(pair, np.nan) for pair in wanted], dtype=np.float32)
    np.testing.assert_array_equal(found, expected)
    assert {bytes(key) for key in store.held("shard-00003")} == {d + n for d, n in plain}
    table = store.read("shard-00003")
    assert table.schema == VERDICTS
    assert list(zip(table["document_hash"].to_pylist(), table["label_hash"].to_pylist(), strict=True)) == sorted(plain)


def test_a_pair_that_is_there_twice_is_one_row_whatever_the_order_of_writing(tmp_path: Path) -> None:
    pairs = pairs_of(range(2), range(3))
    answers = []
    for order in (0, 1):
        store = VerdictStore(Storage(str(tmp_path / str(order))), "key")
        batches = [table_of(pairs[:4], [0.25] * 4), table_of(pairs[2:], [0.75] * 4)]
        for batch in batches[:: 1 - 2 * order]:
            store.append("shard-00000", batch)
        answers.append(store.read("shard-00000"))
    assert len(answers[0]) == 6
    assert answers[0].equals(answers[1])


def test_an_empty_store_holds_nothing(store: VerdictStore) -> None:
    pairs = pairs_of(range(2), range(1))
    assert len(store.held(PRIORS)) == 0
    assert len(store.read(PRIORS)) == 0
    assert np.isnan(store.lookup(PRIORS, [d for d, _ in pairs], [n for _, n in pairs])).all()
    assert store.lookup(PRIORS, [], []).shape == (0,)
    assert store.statistics() == {"pairs": 0, "files": 0}
    with pytest.raises(ValueError, match="without verdicts"):
        store.append(PRIORS, VERDICTS.empty_table())


def test_priors_lie_beside_the_shards(store: VerdictStore) -> None:
    label = content_hash("", "a label")
    store.append(PRIORS, table_of([(NO_DOCUMENT, label)], [-2.5]))
    assert store.lookup(PRIORS, [NO_DOCUMENT], [label]).tolist() == [-2.5]
    assert np.isnan(store.lookup("shard-00000", [NO_DOCUMENT], [label])).all()


def test_a_broken_file_is_named(store: VerdictStore, tmp_path: Path) -> None:
    name = store.append("shard-00000", table_of(pairs_of(range(2), range(2)), [0.5] * 4))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:200])
    for ask in (lambda: store.held("shard-00000"), lambda: store.read("shard-00000"), store.statistics):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(path) in str(caught.value)
        assert "remove the file" in str(caught.value)


def test_the_description_is_beside_the_verdicts(store: VerdictStore, tmp_path: Path) -> None:
    store.write_description({"model": "org/name"})
    assert Storage(str(tmp_path)).read_json("verdicts/0123456789abcdef/teacher.json") == {"model": "org/name"}
