"""Write docs/images/how-it-works.svg, the picture in README.md: how a run learns, and how new documents are tagged.

What comes in: nothing, the picture is written here. What goes out: one SVG with its own background, so that it can be
read on a light and on a dark page; its colors follow the reader's setting. Command: ``python tools/picture.py``.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "how-it-works.svg"
WIDTH, HEIGHT = 948, 340
TITLE = "How ezxmc-ray works"
DESCRIPTION = (
    "Documents and labels, without one labeled pair, go into a loop: the bi-encoder picks a shortlist of likely "
    "labels for each document, the LLM judges each pair, the bi-encoder learns from the verdicts and makes better "
    "shortlists. Then the bi-encoder and a FAISS index over all labels tag new documents without the LLM."
)

#: Left edges of the four columns, all of one width.
COLUMNS, COLUMN = (24, 264, 504, 744), 180
#: Upper edge and height of the row that learns, and of the row that tags.
LEARN, LEARN_HEIGHT = 76, 88
TAG, TAG_HEIGHT = 238, 78

#: What is drawn, in the light and in the dark scheme: CSS class -> declarations.
COLOURS = {
    "page": ("fill:#ffffff;stroke:#d0d7de", "fill:#161b22;stroke:#30363d"),
    "given": ("fill:#f3f4f6;stroke:#8c959f", "fill:#21262d;stroke:#7d8590"),
    "encoder": ("fill:#e4effb;stroke:#2563a8", "fill:#17304b;stroke:#7fb2ea"),
    "teacher": ("fill:#fdeedd;stroke:#c2571a", "fill:#46290f;stroke:#f0a060"),
    "index": ("fill:#e1f3e7;stroke:#17703c", "fill:#123322;stroke:#6fcf97"),
    "head": ("fill:#1d2129", "fill:#e7e9ee"),
    "line": ("fill:#3d444d", "fill:#c3c9d2"),
    "arrow": ("stroke:#57606a", "stroke:#a0a7b4"),
    "tip": ("fill:#57606a", "fill:#a0a7b4"),
}


def main() -> None:
    """Write the picture."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture(), encoding="utf-8")
    print(PICTURE)


def picture() -> str:
    """The whole SVG document."""
    documents, proposes, judges, learns = (x + COLUMN / 2 for x in COLUMNS)
    middle = (proposes + judges) / 2
    half = (LEARN_HEIGHT - 12) / 2
    steps = [
        ("encoder", ["1  Shortlist", "the bi-encoder picks", "ten likely labels each"]),
        ("teacher", ["2  Judge", "the LLM says how well", "each pair fits"]),
        ("encoder", ["3  Learn", "the bi-encoder learns", "from the verdicts"]),
    ]
    index = ["Bi-encoder and FAISS index over all labels", "no LLM any more"]
    parts = [
        _box("page", 1, 1, WIDTH - 2, HEIGHT - 2, []),
        _box("given", COLUMNS[0], LEARN, COLUMN, half, ["Your documents"]),
        _box("given", COLUMNS[0], LEARN + half + 12, COLUMN, half, ["Your label set"]),
        _text("line", documents, LEARN + LEARN_HEIGHT + 20, "not one labeled pair"),
        *(
            _box(kind, x, LEARN, COLUMN, LEARN_HEIGHT, lines)
            for x, (kind, lines) in zip(COLUMNS[1:], steps, strict=True)
        ),
        *(_to_the_right(x, LEARN + LEARN_HEIGHT / 2) for x in COLUMNS[:3]),
        _arrow((learns, LEARN), (learns, 42), (proposes, 42), (proposes, LEARN)),
        _text("line", (proposes + learns) / 2, 33, "better shortlists: the next cycle"),
        _arrow((learns, LEARN + LEARN_HEIGHT), (learns, 202), (middle, 202), (middle, TAG)),
        _text("line", (middle + learns) / 2, 193, "at the end"),
        _box("given", COLUMNS[0], TAG, COLUMN, TAG_HEIGHT, ["A new document", "any number of them"]),
        _box("index", COLUMNS[1], TAG, COLUMNS[2] + COLUMN - COLUMNS[1], TAG_HEIGHT, index),
        _box("given", COLUMNS[3], TAG, COLUMN, TAG_HEIGHT, ["Its labels", "with a score each"]),
        *(_to_the_right(x, TAG + TAG_HEIGHT / 2) for x in (COLUMNS[0], COLUMNS[2])),
    ]
    light, dark = ("".join(f".{name}{{{schemes[scheme]}}}" for name, schemes in COLOURS.items()) for scheme in range(2))
    style = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;text-anchor:middle}"
        ".head{font-size:15px;font-weight:600}.line{font-size:13px}.arrow{fill:none;stroke-width:1.8}"
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            ' role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(TITLE)}</title>',
            f'<desc id="description">{escape(DESCRIPTION)}</desc>',
            f"<style>{style}</style>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path class="tip" d="M0 0 10 5 0 10z"/></marker></defs>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(kind: str, x: float, y: float, width: float, height: float, lines: list[str]) -> str:
    """A rounded box of one color; the first of its ``lines`` is its heading, all are centerd in it."""
    shape = (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="9" stroke-width="1.5"/>'
    )
    first = y + height / 2 + 5 - 11 * (len(lines) - 1)
    texts = (
        _text("line" if number else "head", x + width / 2, first + 22 * number, line)
        for number, line in enumerate(lines)
    )
    return "\n".join([shape, *texts])


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" xml:space="preserve">{escape(words)}</text>'


def _to_the_right(x: float, y: float) -> str:
    """An arrow from the column at ``x`` to the next one."""
    return _arrow((x + COLUMN, y), (x + COLUMNS[1] - COLUMNS[0], y))


def _arrow(*points: tuple[float, float]) -> str:
    """A line through ``points`` with its tip at the last one."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline class="arrow" points="{path}" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    main()
