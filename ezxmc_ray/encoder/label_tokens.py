"""The token ids of labels, which are tokenized once: the same labels stand beside document after document.

Comes in: an encoder, and labels' texts. Goes out: their token ids, as the encoder reads labels.
"""

from __future__ import annotations

from collections.abc import Sequence

from ezxmc_ray.encoder.document_encoder import DocumentEncoder

#: Labels whose tokens are kept; a million of them take about 300 MB.
CACHED_LABELS = 1_000_000


class LabelTokens:
    """Token ids of labels' texts by ``encoder``, kept; again where they are too many. Several threads may ask."""

    def __init__(self, encoder: DocumentEncoder) -> None:
        self._encoder = encoder
        self._known: dict[str, list[int]] = {}

    def of(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each of ``texts``."""
        known = self._known if len(self._known) <= CACHED_LABELS else {}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known |= zip(new, self._encoder.label_tokens(new).token_ids, strict=True)
        self._known = known
        return [known[text] for text in texts]
