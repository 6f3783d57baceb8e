"""What the encoder reads of a document; apart from the encoder, whose libraries take seconds to import."""

from __future__ import annotations


def document_text(title: str, text: str) -> str:
    """Title, line break, text; without blanks at its ends."""
    return f"{title}\n{text}".strip()
