"""Labels from where people keep them: SKOS, Annif's files, a list of texts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.documents.inputs import label_sources
from ezxmc_ray.documents.labels import LabelSet, read_labels
from ezxmc_ray.errors import UserError

TURTLE = """@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix v: <http://v.test/> .
v:scheme a skos:ConceptScheme ; skos:prefLabel "All of it"@en .
v:sea a skos:Concept ; skos:prefLabel "The sea"@en, "Das Meer"@de, "Die See"@de ;
    skos:altLabel "Ocean"@en, "Brine"@en, "See"@de ; skos:hiddenLabel "Occean"@en, "Mehr"@de ;
    skos:definition "Salt water."@en ; skos:scopeNote "Not lakes."@en .
v:bee a skos:Concept ; skos:prefLabel "Bees"@en-GB, "Bienen"@de ; skos:scopeNote "Insects."@en .
v:old a skos:Concept ; skos:prefLabel "Old"@en ; owl:deprecated true .
v:plain a skos:Concept ; skos:prefLabel "No language" .
v:meer a skos:Concept ; skos:prefLabel "Nur deutsch"@de .
"""
RDF_XML = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:skos="http://www.w3.org/2004/02/skos/core#">
  <skos:Concept rdf:about="http://v.test/sea"><skos:prefLabel xml:lang="fi">Meri</skos:prefLabel></skos:Concept>
</rdf:RDF>
"""


def _read(path: Path, **knobs: str) -> LabelSet:
    return read_labels(label_sources(PrepareConfig(labels=[str(path)], **knobs)))


def _rows(labels: LabelSet) -> list[tuple[str, str, str]]:
    rows = labels.table.to_pylist()
    return [(row["id"].removeprefix("http://v.test/"), row["text"], row["description"]) for row in rows]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def test_skos_in_turtle(write: Callable[[str, str], Path]) -> None:
    found = _read(write("v.ttl", TURTLE), label_language="en")
    assert _rows(found) == [
        ("bee", "Bees", "Insects."),
        ("plain", "No language", ""),
        ("sea", "The sea", "Salt water."),
    ]
    assert found.table["alternatives"].to_pylist() == [[], [], ["Brine", "Occean", "Ocean"]]
    assert _read(write("v.ttl", TURTLE), label_language="en", label_alternatives_column="").alternatives == {}
    assert found.rejected["reason"].to_pylist() == ["empty label: no prefLabel in en, only in de"]
    german = _read(write("v.ttl", TURTLE), label_language="DE")
    assert [text for _, text, _ in _rows(german)] == ["Bienen", "Nur deutsch", "No language", "Das Meer"]
    assert german.alternatives == {3: ["Die See", "Mehr", "See"]}
    # Three concepts have a German label and two an English one.
    assert _rows(_read(write("v.ttl", TURTLE))) == _rows(german)


def test_alternatives_of_skos_are_of_all_countries_and_of_no_language(write: Callable[[str, str], Path]) -> None:
    turtle = TURTLE.replace('"Ocean"@en', '"Ocean"@en-US, "H2O", "Hav"@sv')
    turtle = turtle.replace('"Bees"@en-GB', '"Bees"@en, "Bee"@en-GB')
    found = _read(write("v.ttl", turtle), label_language="en")
    assert [text for _, text, _ in _rows(found)] == ["Bees", "No language", "The sea"]
    assert found.alternatives == {0: ["Bee"], 2: ["Brine", "H2O", "Occean", "Ocean"]}


def test_skos_collections_and_labels_of_concepts_of_another_file(write: Callable[[str, str], Path]) -> None:
    more = """v:group a skos:Collection ; skos:prefLabel "All waters"@en ; skos:member v:sea .
    v:list a skos:OrderedCollection ; skos:prefLabel "In order"@en .
    v:elsewhere skos:altLabel "Tides"@en .
    """
    found = _read(write("v.ttl", TURTLE + more), label_language="en")
    assert [one for one, _, _ in _rows(found)] == ["bee", "plain", "sea"]
    assert found.rejected["content"].to_pylist() == ["http://v.test/elsewhere", "http://v.test/meer"]


def test_concepts_without_an_address_and_labels_without_a_sign(write: Callable[[str, str], Path]) -> None:
    more = """[] a skos:Concept ; skos:prefLabel "Nowhere"@en .
    v:lake a skos:Concept ; skos:prefLabel ""@en, "Lakes"@en ; skos:altLabel " "@en .
    """
    found = [_read(write("v.ttl", TURTLE + more), label_language="en") for _ in range(2)]
    assert [one for one, _, _ in _rows(found[0])] == ["bee", "lake", "plain", "sea"] and found[0].table == found[
        1
    ].table
    assert found[0].alternatives == {3: ["Brine", "Occean", "Ocean"]}
    assert found[0].rejected.select(["line", "reason", "content"]).to_pylist()[-1] == {
        "line": 6,
        "reason": "bad id: the concept has no address",
        "content": "Nowhere",
    }


def test_skos_xl(write: Callable[[str, str], Path]) -> None:
    turtle = """@prefix xl: <http://www.w3.org/2008/05/skos-xl#> .
    @prefix v: <http://v.test/> .
    v:sea xl:prefLabel v:one ; xl:altLabel [ xl:literalForm "Ocean"@en ] ;
        xl:hiddenLabel [ xl:literalForm "Occean"@en ] .
    v:one xl:literalForm "The sea"@en .
    """
    found = _read(write("v.ttl", turtle))
    assert _rows(found) == [("sea", "The sea", "")] and found.alternatives == {0: ["Occean", "Ocean"]}


def test_skos_in_other_syntaxes(write: Callable[[str, str], Path]) -> None:
    assert _rows(_read(write("v.rdf", RDF_XML))) == [("sea", "Meri", "")]
    line = '<http://v.test/sea> <http://www.w3.org/2004/02/skos/core#prefLabel> "Meri"@fi .\n'
    assert _rows(_read(write("v.nt", line))) == [("sea", "Meri", "")]


def test_rdf_that_is_none_is_one_sentence(write: Callable[[str, str], Path]) -> None:
    for name, content in {"v.ttl": "@prefix skos <oops", "v.rdf": "<rdf:RDF>", "v.nt": "a b c"}.items():
        with pytest.raises(UserError, match=rf"{name} cannot be read as ") as raised:
            _read(write(name, content))
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="There is no label in "):
        _read(write("v.ttl", "@prefix v: <http://v.test/> . v:a v:b v:c ."))


def test_entities_of_rdf_xml(write: Callable[[str, str], Path]) -> None:
    def with_entities(entities: str) -> Path:
        content = RDF_XML.replace("Meri", "&x;")
        return write("v.rdf", content.replace("?>", f"?><!DOCTYPE rdf:RDF [{entities}]>"))

    assert _rows(_read(with_entities('<!ENTITY x "Meri"><!ENTITY y "z">'))) == [("sea", "Meri", "")]
    laughs = '<!ENTITY a "lol">' + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise("abcdefghix"))
    for hostile in (f'<!ENTITY x SYSTEM "file://{write("secret", "hidden")}">', laughs):
        with pytest.raises(UserError, match="defines an XML entity by others or by a file"):
            _read(with_entities(hostile))


def test_a_list_of_texts(write: Callable[[str, str], Path]) -> None:
    found = _read(write("labels.txt", "\ufeffThe sea\r\n\n  Bees \nTaxes, tolls\n\u200b\nBees\n"))
    assert _rows(found) == [("The sea", "The sea", ""), ("Bees", "Bees", ""), ("Taxes, tolls", "Taxes, tolls", "")]
    assert found.rejected["reason"].to_pylist() == ["empty id: id is empty or missing", "duplicate label id: 'Bees'"]


def test_annifs_vocabulary(write: Callable[[str, str], Path]) -> None:
    rows = '<http://v.test/sea>\tThe "sea"\n<http://v.test/bee>\t"Bees" of all kinds\n'
    expected = [("sea", 'The "sea"', ""), ("bee", '"Bees" of all kinds', "")]
    assert _rows(_read(write("v.tsv", rows))) == expected
    assert _rows(_read(write("n.tsv", rows.replace("\n", "\t12.3\n")))) == expected
    columns = {"label_id_column": "uri", "label_text_column": "label_en"}
    table = "uri,notation,label_en\nhttp://v.test/sea,1,Sea\n"
    assert _rows(_read(write("v.csv", table), **columns)) == [("sea", "Sea", "")]


def test_annifs_corpus_and_vocabulary(
    write: Callable[[str, str], Path], sequential_prepare: Callable[..., Any]
) -> None:
    labels = write("v.tsv", "<http://v.test/sea>\tThe sea\n<http://v.test/bee>\tBees\n")
    documents = write(
        "d.tsv", 'A "quoted text\t<http://v.test/bee> <http://v.test/gone>\nOf tides\t<http://v.test/sea>\n'
    )
    prepare = PrepareConfig(documents=[str(documents)], labels=[str(labels)], test_share=0)
    (_, _, details), storage = sequential_prepare(Config(prepare=prepare))
    found = storage.read_table("documents/shard-00000.parquet").to_pylist()
    assert [(row["id"], row["text"]) for row in found] == [("0", 'A "quoted text'), ("1", "Of tides")]
    assert storage.read_table("gold/shard-00000.parquet")["labels"].to_pylist() == [[1], [0]]
    assert details["dropped_gold_labels"] == 1


def test_what_is_no_literal_is_no_text(write: Callable[[str, str], Path]) -> None:
    """A definition may be a node with an rdf:value; the name of a node that has none is new at each reading."""
    head = "@prefix skos: <http://www.w3.org/2004/02/skos/core#> .\n@prefix v: <http://v.test/> .\n"
    head += "@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .\n"
    file = write(
        "v.ttl",
        head
        + 'v:a skos:prefLabel "Astronomy" ; skos:definition v:def ; skos:altLabel v:def .\n'
        + 'v:def rdf:value "What is above the air." .\n'
        + 'v:b skos:prefLabel "Botany" ; skos:definition [ rdf:value "Plants." ] .\n'
        + 'v:c skos:prefLabel "Crafts" ; skos:definition [ rdf:value v:none ], v:none ; skos:scopeNote "By hand." .\n'
        + "v:d skos:prefLabel v:none .\n",
    )
    found = _read(file)
    assert _rows(found) == [
        ("a", "Astronomy", "What is above the air."),
        ("b", "Botany", "Plants."),
        ("c", "Crafts", "By hand."),
    ]
    assert not found.alternatives
    assert found.rejected["reason"].to_pylist() == ["empty label: no prefLabel in no language, only in none"]
    assert found.table.equals(_read(file).table)


def test_a_fault_of_turtle_is_named_and_a_mark_of_utf_8_is_none(write: Callable[[str, str], Path]) -> None:
    with pytest.raises(UserError, match=r"v\.ttl cannot be read as turtle: at line 3: Bad syntax \(expected .* at end"):
        _read(write("v.ttl", "@prefix v: <http://v.test/> .\nv:a v:b v:c\nv:d v:e v:f .\n"))
    assert [row[0] for row in _rows(_read(write("v.ttl", f"\ufeff{TURTLE}"), label_language="en"))] == [
        "bee",
        "plain",
        "sea",
    ]


def test_annifs_vocabulary_whose_first_label_has_commas(write: Callable[[str, str], Path]) -> None:
    found = _read(write("v.tsv", "<http://v.test/a>\tStars, nebulae, comets\n<http://v.test/b>\tBotany; plants\n"))
    assert _rows(found) == [("a", "Stars, nebulae, comets", ""), ("b", "Botany; plants", "")]
