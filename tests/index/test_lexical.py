"""Words that a label shares with a document, against a plain loop; and the searcher that adds them to the cosine."""

from __future__ import annotations

import math
import random
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

from ezxmc_ray import layout
from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.index import lexical
from ezxmc_ray.index.hybrid import HybridSearcher, PairScorer
from ezxmc_ray.index.lexical import (
    BATCH_DOCUMENTS,
    LexicalArrays,
    LexicalTable,
    WordNumbers,
    lexical_arrays,
    word_stems,
)
from ezxmc_ray.index.lexical_files import (
    LexicalSource,
    has_lexical_files,
    lexical_files,
    open_lexical_table,
    write_lexical_files,
)
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.index.words import DOCUMENT_WORDS, words_of
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, LABELS_SCHEMA
from tests.index.sharded import sharded_index

LABELS = ["Machine learning", "learning theory", "C", "Straßenbau", "machines, tools; machinery", "history of tools"]


def share(label: str, text: str, labels: list[str]) -> float:
    """The definition, word by word."""
    stems = {name: set(word_stems(name)) for name in labels}

    def weight(word: str) -> float:
        frequency = sum(word in one for one in stems.values())
        return math.log(1 + (len(labels) - frequency + 0.5) / (frequency + 0.5))

    total = sum(map(weight, stems[label]))
    return sum(weight(word) for word in stems[label] & set(word_stems(text))) / total if total else 0.0


def test_shares_are_those_of_the_definition() -> None:
    titles = ["Learning machines", "", None]
    texts = ["A history of tools.", "STRASSENBAU und machine", "learn tools"]
    labels = np.tile(np.arange(len(LABELS), dtype=np.int32), (3, 1))
    found = LexicalTable.from_texts(LABELS).shares(titles, texts, labels)
    for row, (title, text) in enumerate(zip(titles, texts, strict=True)):
        whole = f"{title or ''} {text}"
        expected = [(share(name, title or text, LABELS) + share(name, whole, LABELS)) / 2 for name in LABELS]
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)
    assert found[0, 0] == pytest.approx(1.0)  # "Machine learning" stands in the title, inflected
    assert found[1, 3] == pytest.approx(1.0)  # ß and SS are the same letters


def by_scikit_learn(labels: list[str], titles: list[str], texts: list[str]) -> np.ndarray:
    """The shares of all labels as they were once computed, by CountVectorizer: float32 [documents, labels]."""
    counter = CountVectorizer(binary=True, analyzer=list, dtype=np.float32)
    found = csr_matrix(counter.fit_transform(list(map(word_stems, labels))))
    frequency = np.bincount(found.indices, minlength=found.shape[1])
    rarity = np.log1p((len(labels) - frequency + 0.5) / (frequency + 0.5))
    weights = csr_matrix((rarity[found.indices], found.indices, found.indptr), found.shape)
    totals = np.maximum(weights.sum(axis=1).A1, np.finfo(np.float64).tiny)
    weights.data /= np.repeat(totals, np.diff(weights.indptr))
    shares = np.zeros((len(texts), len(labels)), np.float32)
    for document, (title, text) in enumerate(zip(titles, texts, strict=True)):
        head = word_stems(title, DOCUMENT_WORDS)
        whole = [*head, *word_stems(text, DOCUMENT_WORDS - len(head))]
        named = np.zeros((2, len(labels)))
        for row, words in enumerate((head or whole, whole)):
            known = {counter.vocabulary_[word] for word in words if word in counter.vocabulary_}
            for label in range(len(labels)):
                for place in range(weights.indptr[label], weights.indptr[label + 1]):
                    named[row, label] += weights.data[place] * (weights.indices[place] in known)
        shares[document] = named.sum(axis=0) / 2
    return shares


def test_shares_are_bit_by_bit_those_of_scikit_learns_table(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["naïve", "Bayes", "ﬁnance", "Straße", "हिन्दी", "機械学習", "tool", "tools", "a", "X-ray", "learning", "of"]
    texts = [" ".join(draw.choices(words, k=draw.randrange(7))) for _ in range(400)]
    labels, titles, bodies = texts[:300], texts[300:350], texts[350:]
    expected = by_scikit_learn(labels, titles, bodies)
    everything = np.tile(np.arange(300, dtype=np.int32), (50, 1))
    assert 0.1 < (expected > 0).mean() < 0.9
    whole = LexicalTable.from_texts(labels)
    parts = LexicalTable(lexical_arrays([labels[:1], [], labels[1:170], labels[170:]]), whole.names)
    rows = [{"id": str(n), "text": text, "description": "", "content_hash": bytes(16)} for n, text in enumerate(labels)]
    storage = Storage(str(tmp_path))
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
    in_memory = open_lexical_table(storage, "labels")
    write_lexical_files(storage, LexicalSource("labels"))
    mapped = open_lexical_table(storage, "labels")
    for table in (whole, parts, in_memory, mapped):
        np.testing.assert_array_equal(table.shares(titles, bodies, everything), expected)
    assert isinstance(mapped.arrays.weights, np.memmap) and not isinstance(in_memory.arrays.weights, np.memmap)


@pytest.mark.parametrize("name", ["lexical.json", "words.npy", "weights.npy", "hashes.npy"])
def test_words_that_are_damaged_are_a_sentence_and_are_made_anew(tmp_path: Path, name: str) -> None:
    storage = Storage(str(tmp_path))
    rows = [{"id": "1", "text": "chess game", "description": "", "content_hash": bytes(16)}]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
    write_lexical_files(storage, LexicalSource("labels"))
    assert set(lexical_files(storage)) == {f"lexical/{file.name}" for file in (tmp_path / "lexical").iterdir()}
    file = tmp_path / "lexical" / name
    whole = file.read_bytes()
    for place in (0, 60, 8 * len(whole) - 20):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(UserError, match=r"lexical.*(is damaged|not what was written)"):
            open_lexical_table(storage, "labels")
    file.write_bytes(whole[:-3])
    assert not has_lexical_files(storage, LexicalSource("labels"))
    write_lexical_files(storage, LexicalSource("labels"))
    assert has_lexical_files(storage, LexicalSource("labels")) and file.read_bytes() == whole


def test_the_files_of_other_labels_are_not_used(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for labels in (["old words"], ["new words", "more"]):
        rows = [{"id": text, "text": text, "description": "", "content_hash": bytes(16)} for text in labels]
        storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
        assert not has_lexical_files(storage, LexicalSource(labels[0]))
        assert len(open_lexical_table(storage, labels[0]).arrays.starts) == len(labels) + 1
        write_lexical_files(storage, LexicalSource(labels[0]))
        assert has_lexical_files(storage, LexicalSource(labels[0]))
    assert sorted(path.name for path in (tmp_path / "lexical").iterdir()) == [
        "ends.npy", "hashes.npy", "lengths.npy", "letters.npy", "lexical.json", "named.npy", "starts.npy",
        "weights.npy", "words.npy",
    ]  # fmt: skip


def test_documents_tell_the_language_unless_it_is_set(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    rows = [{"id": "1", "text": "Fluss", "description": "", "content_hash": bytes(16)}]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
    source = LexicalSource("labels", "auto", "documents")
    assert write_lexical_files(storage, source) == "none"
    text = "Die Karten der Flüsse und Seen, die nicht mit einem Namen versehen sind."
    columns = {"id": "1", "title": "", "text": text, "split": "train", "held_out": False, "excluded": []}
    document = pa.Table.from_pylist([columns | {"content_hash": bytes(16)}], DOCUMENTS_SCHEMA)
    storage.write_table(layout.shard_file(layout.DOCUMENTS, 0), document)
    for told in (source, LexicalSource("labels", "german", "documents")):
        assert write_lexical_files(storage, told) == "german"
        mapped = open_lexical_table(storage, "labels", told.language)
        assert open_lexical_table(storage).names.language == mapped.names.language == "german"
        assert isinstance(mapped.names.arrays.hashes, np.memmap)
        assert mapped.names.find([""], [text]).labels.tolist() == [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ezxmc_ray.index.lexical_files.VERSION", 999)
        patch.setattr("ezxmc_ray.index.lexical_files.tell_language", lambda storage: pytest.fail("guessed"))
        anew = open_lexical_table(storage)  # as after an update of the program
        assert anew.names.language == "german" and not isinstance(anew.names.arrays.hashes, np.memmap)
    assert has_lexical_files(storage, LexicalSource("labels", "german", "other documents"))
    assert not has_lexical_files(storage, source) and not has_lexical_files(storage, LexicalSource("labels", "dutch"))
    assert open_lexical_table(storage, "labels", "dutch").names.language == "dutch"  # in memory
    write_lexical_files(storage, source)
    assert has_lexical_files(storage, source)
    assert not has_lexical_files(storage, LexicalSource("labels", "auto", "other documents"))


def test_words_are_the_same_however_their_letters_are_encoded_and_keep_their_marks() -> None:
    assert word_stems("E\u0301ducation à l'e\u0301cole") == word_stems("Éducation à l'école") == ["éduca", "école"]
    assert word_stems("ﬁnance ＡＢＣ") == ["finan", "abc"]
    assert [len(word) >= 2 for word in word_stems("हिन्दी साहित्य का इतिहास")] == [True] * 4


def test_a_turkish_i_is_one_letter_however_its_capital_is_written() -> None:
    for label, text in (
        ("İstatistik", "Uygulamalı istatistik dersleri"),
        ("İnşaat Mühendisliği", "inşaat mühendisliği"),
        ("Bilgisayar Ağları", "BİLGİSAYAR AĞLARI"),
    ):
        for language in ("none", "turkish"):
            table = LexicalTable.from_texts([label, "other"], language=language)
            labels = np.arange(2, dtype=np.int32)[None]
            np.testing.assert_allclose(table.shares([None], [text], labels), [[1, 0]])
            assert table.names.find([None], [text]).of(labels).tolist() == [[1, 0]]


def test_without_blanks_each_two_letters_are_a_word() -> None:
    assert word_stems("機械学習のMLと木, ab") == ["機械", "械学", "学習", "習の", "ml", "と木", "ab"]
    assert word_stems("データ 水 X") == ["デー", "ータ", "水"]
    assert word_stems("กิน ข้าว") == ["กิน", "ข้า", "าว"]  # marks belong to their letter
    assert words_of("ab 木 cd ef 水", 2) == ["ab", "木"] and words_of("ab cd 木", 2) == ["ab", "cd"]
    labels = ["機械学習", "学習", "歴史", "Machine learning"]
    found = LexicalTable.from_texts(labels).shares([None], ["最近の機械学習の研究"], np.arange(4, dtype=np.int32)[None])
    np.testing.assert_allclose(found, [[1, 1, 0, 0]])


def test_only_the_beginning_of_a_long_document_counts() -> None:
    far = "x1 " * DOCUMENT_WORDS + "machine learning"
    near = "x1 " * (DOCUMENT_WORDS - 2) + "machine learning"
    titled = "x1 " * (DOCUMENT_WORDS - 1) + "machine learning"
    found = LexicalTable.from_texts(LABELS).shares(["", "", "theory"], [far, near, titled], np.zeros((3, 1), np.int32))
    np.testing.assert_allclose(found, [[0], [1], [0]], rtol=1e-6)


def test_no_label_and_labels_without_words_have_no_share() -> None:
    words = LexicalTable.from_texts(LABELS)
    found = words.shares([""], ["C machine learning"], np.array([[2, -1, 0, -1]], np.int32))
    np.testing.assert_allclose(found, [[0, 0, 1, 0]], rtol=1e-6)
    assert not LexicalTable.from_texts(["C", "+"]).shares(["C"], ["C"], np.array([[0, 1]], np.int32)).any()


@given(st.lists(st.text("aéß漢😀b", max_size=6), unique=True), st.lists(st.text("aéß漢😀b", max_size=7)))
def test_words_have_the_numbers_of_the_table(different: list[str], words: list[str]) -> None:
    letters = np.frombuffer("".join(different).encode(), np.uint8)
    ends = np.cumsum([0, *(len(word.encode()) for word in different)]).astype(np.int32)
    nothing = np.zeros(0)
    numbers = WordNumbers(LexicalArrays(letters, ends, nothing, nothing, nothing)).of(words)
    expected = [different.index(word) if word in different else -1 for word in words]
    assert numbers.tolist() == expected and numbers.dtype == np.int64


def test_the_words_of_a_table_are_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[LexicalArrays] = []

    def counted(arrays: LexicalArrays) -> WordNumbers:
        made.append(arrays)
        return WordNumbers(arrays)

    monkeypatch.setattr(lexical, "WordNumbers", counted)
    table, labels = LexicalTable.from_texts(LABELS), np.arange(3, dtype=np.int32)[None]
    for title in (None, "", "learning"):
        assert table.shares([title], ["a machine"], labels)[0, 0] > 0
        assert table.named(title, "a machine", [0])[0]
    assert len(made) == 1


def test_more_documents_than_a_batch() -> None:
    count = BATCH_DOCUMENTS + 3
    texts = ["tools" if number % 2 else "learning" for number in range(count)]
    labels = np.tile(np.array([4, 0], np.int32), (count, 1))
    found = LexicalTable.from_texts(LABELS).shares([""] * count, texts, labels)
    np.testing.assert_array_equal(found, found[np.arange(count) % 2])
    assert found[0, 0] == 0 < found[0, 1]
    assert found[1, 1] == 0 < found[1, 0]


@pytest.fixture
def index() -> ShardedIndex:
    angles = np.linspace(0, 1.5, len(LABELS))
    return ShardedIndex.from_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


@pytest.mark.parametrize("bonus", [0.0, 0.3])
def test_the_searcher_adds_share_and_name_to_the_cosine(index: ShardedIndex, bonus: float) -> None:
    query = np.array([[1, 0]], np.float32)
    cosine, nearest = index.search(query, len(LABELS))
    config = LexicalConfig(weight=1.0, name_bonus=bonus)
    found, labels = HybridSearcher(index, LexicalTable.from_texts(LABELS), config).search(
        query, [""], ["history of tools"], 6
    )
    shares = LexicalTable.from_texts(LABELS).shares([""], ["history of tools"], labels) + bonus * (labels == 5)
    by_label = dict(zip(nearest[0].tolist(), cosine[0], strict=True))
    np.testing.assert_allclose(
        found[0], [by_label[n] + s for n, s in zip(labels[0], shares[0], strict=True)], rtol=1e-6
    )
    assert (np.diff(found[0]) <= 0).all()
    assert sorted(labels[0]) == list(range(len(LABELS)))
    assert labels[0].tolist() != nearest[0].tolist()


def test_only_candidates_are_reordered_and_excluded_labels_stay_out(index: ShardedIndex) -> None:
    query = np.array([[1, 0]], np.float32)
    words = LexicalTable.from_texts(LABELS)
    searcher = HybridSearcher(index, words, LexicalConfig(weight=9.0, candidates=3, name_bonus=0.0))
    assert searcher.search(query, [""], ["history of tools"], 2)[1].tolist() == [[0, 1]]  # 5 is far away
    _, labels = searcher.search(query, [""], ["learning theory"], 6, [[1]])
    assert labels.tolist() == [[0, 2, 3, 4, 5, -1]]
    searcher = HybridSearcher(index, words, LexicalConfig(weight=9.0, candidates=3))
    assert searcher.search(query, [""], ["a history of tools"], 2)[1].tolist() == [[5, 0]]  # its name is there
    assert searcher.search(query, [""], ["a history of tools"], 2, [[5]])[1].tolist() == [[0, 1]]


@pytest.mark.parametrize("factory", ["IDMap,Flat", "SQ8"])
def test_candidates_are_the_nearest_and_the_named_labels(factory: str) -> None:
    draw = np.random.default_rng(1)
    vocabulary = [f"word{letter}" for letter in "abcdefghijkl"]
    labels = [" ".join(draw.choice(vocabulary, draw.integers(1, 4))) for _ in range(200)]
    vectors, queries = (draw.normal(size=(rows, 16)).astype(np.float32) for rows in (200, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    titles = [" ".join(draw.choice(vocabulary, 4)) if row % 3 else None for row in range(12)]
    texts = [" ".join(draw.choice(vocabulary, 30)) for _ in range(12)]
    excluded = [draw.choice(200, 20).tolist() for _ in range(12)]
    index, words = sharded_index(vectors, 70, factory), LexicalTable.from_texts(labels)
    config = LexicalConfig(weight=0.7, candidates=10)
    found, numbers = HybridSearcher(index, words, config).search(queries, titles, texts, 8, excluded)
    everything = np.tile(np.arange(200, dtype=np.int32), (12, 1))
    nearest, shares = index.search(queries, 10, excluded)[1], words.shares(titles, texts, everything)
    beyond = bound = 0
    for row, (title, text) in enumerate(zip(titles, texts, strict=True)):
        cosine = dict(zip(*(one[0].tolist() for one in index.search(queries[row : row + 1], 200)[::-1]), strict=True))
        named = {}
        for label in range(200):
            in_title, in_text = (f" {labels[label]} " in f" {one or ''} " for one in (title, text))
            named[label] = 1.0 if in_title or (in_text and not title) else 0.5 * in_text
        new = [label for label in range(200) if named[label] and label not in {*nearest[row].tolist(), *excluded[row]}]
        proposed = [*nearest[row].tolist(), *sorted(new, key=lambda label: (-named[label], label))[:10]]
        bound += len(new) > 10
        scores = {label: cosine[label] + 0.7 * (shares[row, label] + 0.5 * named[label]) for label in proposed}
        expected = sorted(scores, key=lambda label: (-scores[label], label))[:8]
        beyond += len(set(expected) - set(nearest[row].tolist()))
        assert numbers[row].tolist() == expected
        np.testing.assert_allclose(found[row], [scores[label] for label in expected], rtol=1e-5)
        among = np.array(sorted(draw.choice(200, 30, replace=False)), np.int32)
        some, these = HybridSearcher(index, words, config).search_among(
            queries[row : row + 1], [title], [text], 8, among
        )
        every = {label: cosine[label] + 0.7 * (shares[row, label] + 0.5 * named[label]) for label in among.tolist()}
        close = sorted(among.tolist(), key=lambda label: -cosine[label])[:10]
        scores = {label: every[label] for label in among.tolist() if label in close or named[label]}
        best = sorted(scores, key=lambda label: (-scores[label], label))[:8]
        assert these[0].tolist() == best
        np.testing.assert_allclose(some[0], [scores[label] for label in best], rtol=1e-5)
    assert beyond > 5 and bound > 5


def test_an_index_that_cannot_score_single_labels_proposes_none_by_name() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = [f"{number:05}" for number in range(300)]
    far = int(np.argmin(vectors @ vectors[0]))
    found = []
    for factory in ("PQ8x4fs", "IDMap,Flat"):
        index = sharded_index(vectors, len(vectors), factory)
        searcher = HybridSearcher(index, LexicalTable.from_texts(labels), LexicalConfig(weight=9.0, candidates=3))
        scores, numbers = searcher.search(
            vectors[:1], [""], [f"of {labels[far]}"], 5, [[*range(far), *range(far + 1, 300)]]
        )
        assert numbers.tolist() == [[far, -1, -1, -1, -1]] and np.isneginf(scores[0, 1:]).all()
        scores, numbers = searcher.search(vectors[:1], [""], [f"of {labels[far]}"], 5)
        assert (numbers >= 0).all() and np.isfinite(scores).all()
        found.append(numbers[0].tolist())
    assert far not in found[0] and found[1][0] == far


def test_without_weight_the_encoder_decides(index: ShardedIndex) -> None:
    query = np.array([[0.3, 0.9]], np.float32)
    plain = index.search(query, 4)
    matched = HybridSearcher(index, None, LexicalConfig(weight=0.0)).search(query, [""], ["machine learning"], 4)
    for one, other in zip(plain, matched, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("weight", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_given_labels_are_as_similar_as_if_they_had_been_found(weight: float, dtype: type) -> None:
    draw = np.random.default_rng(0)
    vectors = [draw.normal(size=(rows, 8)).astype(np.float32) for rows in (len(LABELS), 3)]
    labels, documents = ((one / np.linalg.norm(one, axis=1, keepdims=True)).astype(dtype) for one in vectors)
    titles, texts = ["Tools", "", None], ["a history of machines", "learning theory", "none of these"]
    words, config = LexicalTable.from_texts(LABELS) if weight else None, LexicalConfig(weight=weight)
    excluded = [[1], list(range(1, len(LABELS))), []]
    found, numbers = HybridSearcher(ShardedIndex.from_vectors(labels), words, config).search(
        documents, titles, texts, len(LABELS), excluded
    )
    given = PairScorer(labels, words, config)(documents, titles, texts, numbers)
    assert given.dtype == np.float32 and np.isneginf(given[1, 1:]).all()
    np.testing.assert_allclose(given, found, atol=1e-6)


def test_signs_that_nobody_sees_part_no_word() -> None:
    assert word_stems("In\u00adfor\u00adma\u00adtion re\u00adtrieval data\u2060base plant\u200bscience") == [
        "infor",
        "retri",
        "datab",
        "plant",
    ]
    table = LexicalTable.from_texts(["Information retrieval", "Wert\u00adpapier", "Botany"])
    labels = np.arange(3, dtype=np.int32)[None]
    found = table.shares(["In\u00adforma\u00adtion \ufeffretrieval"], ["Wertpapier"], labels)
    assert found[0].tolist() == [1.0, 0.5, 0.0]
    assert word_stems("می\u200cخواهم") == word_stems("می\u200cخواهم ")[:1]  # a joiner of letters stays
