"""Rankings of labels by the words that they share with a document: BM25 and TF-IDF, which learn nothing.

Comes in: texts. Goes out: for each document the numbers of the labels, int32 [n, depth], in falling score, ties by
label number, padded with -1: a label without a word in common with the document is not ranked. BM25 is that of the
package bm25s (``pip install 'ezxmc-ray[benchmarks]'``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Documents whose scores with all labels are held at once.
BATCH_DOCUMENTS = 256


def tfidf(labels: Sequence[str], corpus: Sequence[str], documents: Sequence[str], depth: int) -> np.ndarray:
    """By the cosine of TF-IDF vectors: single words, sublinear; document frequencies are those of ``corpus``."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(corpus)
    columns = vectorizer.transform(labels).T.tocsc()
    rows = vectorizer.transform(documents)
    parts = []
    for start in range(0, len(documents), BATCH_DOCUMENTS):
        scores = (rows[start : start + BATCH_DOCUMENTS] @ columns).toarray()
        parts.append(highest(scores, depth))
    return np.concatenate(parts)


def bm25(labels: Sequence[str], documents: Sequence[str], depth: int) -> np.ndarray:
    """By BM25 as in Lucene (k1 1.5, b 0.75) with the labels as the index and a document as the query.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; English stop words
    are left out, nothing is stemmed.
    """
    from bm25s import BM25, tokenize

    index = BM25()
    index.index(tokenize(list(labels), show_progress=False), show_progress=False)
    queries = tokenize(list(documents), return_ids=False, show_progress=False)
    # A text without words gives no query; one without words that a label has gives no hit.
    nothing = np.zeros(len(labels), np.float32)
    parts = []
    for start in range(0, len(documents), BATCH_DOCUMENTS):
        batch = queries[start : start + BATCH_DOCUMENTS]
        parts.append(highest(np.stack([index.get_scores(query) if query else nothing for query in batch]), depth))
    return np.concatenate(parts)


def highest(scores: np.ndarray, depth: int) -> np.ndarray:
    """The columns of the ``depth`` highest of each row of ``scores`` (float [n, m], none negative), 0 being no hit.

    int32 [n, depth] in falling score, ties by column, padded with -1.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    ranked = np.full((len(scores), depth), -1, np.int32)
    ranked[:, : order.shape[1]] = np.where(np.take_along_axis(scores, order, axis=1) > 0, order, -1)
    return ranked
