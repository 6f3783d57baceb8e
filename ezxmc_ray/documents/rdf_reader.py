"""SKOS vocabularies in Turtle, RDF/XML or N-Triples: a row a concept, by rdflib.

Comes in: a Source, whose ``language`` says which labels are taken. Goes out: RawRow after RawRow, in the order of the
concepts' addresses: ``id`` is the address, ``text`` the prefLabel, ``description`` the definition (else the
scopeNote), and ``alternatives`` further prefLabels, the altLabels and the hiddenLabels: misspellings and the like, that
a label is to be found by and that nobody is to see. Deprecated concepts and collections are no rows; a concept that has
other labels in the file and no prefLabel is a bad one, and so is one without an address.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from ezxmc_ray.documents.sources import RawRow, Source
from ezxmc_ray.errors import UserError, one_line

#: What relative addresses begin with, whatever directory the command was given in.
_BASE = "file:///"
#: Entities such as <!ENTITY owl "http://…"> are common; what they hold is never another entity.
_NESTED_ENTITY = re.compile(rb"<!ENTITY\s+(?:%\s*)?[^\s>]+\s+(?:SYSTEM|PUBLIC|\"[^\"]*[&%]|'[^']*[&%])")
#: SKOS-XL, where a label is a node of its own.
_XL = "http://www.w3.org/2008/05/skos-xl#"
_LABELS = ("prefLabel", "altLabel", "hiddenLabel")
#: What has labels and is no concept.
_NO_CONCEPTS = ("ConceptScheme", "Collection", "OrderedCollection")
#: rdflib's names of the formats.
_SYNTAX = {"turtle": "turtle", "rdfxml": "xml", "ntriples": "nt"}


def rdf_rows(source: Source, notes: list[str]) -> Iterator[RawRow]:
    """The concepts of a vocabulary; ``notes`` takes up what was chosen and left out.

    Errors: UserError where rdflib is missing, or the file is no RDF of its syntax.
    """
    try:
        import rdflib
    except ImportError as error:
        raise UserError(
            f"{source.name} is RDF, which rdflib reads, and that is not installed: pip install rdflib."
        ) from error
    graph = rdflib.Graph()
    content = source.read_bytes().removeprefix(codecs.BOM_UTF8)
    if source.format == "rdfxml" and _NESTED_ENTITY.search(content):
        raise UserError(
            f"{source.name} defines an XML entity by others or by a file, which may be without end; write it without."
        )
    logging.getLogger("rdflib").setLevel(logging.ERROR)  # it warns of every address that is none, as it stands
    try:
        graph.parse(data=content, format=_SYNTAX[source.format], publicID=_BASE)
    except UserError:
        raise
    except Exception as error:  # classes of rdflib, of its parsers and of expat
        raise UserError(f"{source.name} cannot be read as {source.format}: {_fault(error)}.") from error
    concepts, deprecated = _concepts(graph)
    if deprecated:
        notes.append(f"{deprecated:,} concepts of {source.name} are left out: they are deprecated")
    names = {one: _labels(graph, one, "prefLabel") for one in concepts}
    language = source.language or _chosen_language(source, names.values(), notes)
    order = sorted(concepts, key=lambda one: (isinstance(one, rdflib.BNode), str(one)))  # BNodes: other names each time
    for number, concept in enumerate(order, 1):
        preferred = _texts(names[concept], language)
        definitions = [
            *_texts(_notes(graph, concept, "definition"), language),
            *_texts(_notes(graph, concept, "scopeNote"), language),
        ]
        if isinstance(concept, rdflib.BNode):
            yield RawRow(number, None, "bad id: the concept has no address", preferred[0] if preferred else "")
        elif preferred:
            values: dict[str, Any] = {"id": str(concept), "text": preferred[0]}
            values["description"] = definitions[0] if definitions else ""
            labels = [one for kind in _LABELS for one in _labels(graph, concept, kind)]
            found = dict.fromkeys([*preferred, *_all_texts(labels, language)])
            values["alternatives"] = list(found)[1:]
            yield RawRow(number, values)
        else:
            there = ", ".join(sorted({_tag(one) or "none" for one in names[concept]}))
            reason = f"empty label: no prefLabel in {language or 'no language'}, only in {there or 'none'}"
            yield RawRow(number, None, reason, str(concept))


def _fault(error: Exception) -> str:
    """What a parser says is wrong, and on which line; rdflib's for Turtle says it in two lines, the text below them."""
    said = " ".join(str(error).partition(" at ^ in:")[0].replace(" of <>", "").split())
    return one_line(ValueError(said)) if said else one_line(error)


def _concepts(graph: Any) -> tuple[set[Any], int]:
    """The concepts that are labels, and how many are deprecated and none."""
    from rdflib import URIRef
    from rdflib.namespace import OWL, RDF, SKOS

    deprecated = {one for one, value in graph.subject_objects(OWL.deprecated) if str(value).lower() in ("true", "1")}
    others = {one for kind in _NO_CONCEPTS for one in graph.subjects(RDF.type, SKOS[kind])}
    concepts = {*graph.subjects(RDF.type, SKOS.Concept), *graph.subjects(URIRef(f"{_XL}prefLabel"), None)}
    concepts |= {one for kind in _LABELS for one in graph.subjects(SKOS[kind], None)}
    return concepts - deprecated - others, len(concepts & deprecated)


def _labels(graph: Any, concept: Any, kind: str) -> list[Any]:
    """The concept's labels of a ``kind``: literals of SKOS, and those of the nodes that SKOS-XL has for them."""
    from rdflib import Literal, URIRef
    from rdflib.namespace import SKOS

    nodes = graph.objects(concept, URIRef(_XL + kind))
    forms = (one for node in nodes for one in graph.objects(node, URIRef(f"{_XL}literalForm")))
    return [one for one in (*graph.objects(concept, SKOS[kind]), *forms) if isinstance(one, Literal)]


def _notes(graph: Any, concept: Any, kind: str) -> list[Any]:
    """The concept's notes of a ``kind``: literals, and the rdf:value of a node that stands for one (SKOS Primer, 4.2:
    https://www.w3.org/TR/skos-primer/#secadvanceddocumentation)."""
    from rdflib import Literal
    from rdflib.namespace import RDF, SKOS

    found = [one for note in graph.objects(concept, SKOS[kind]) for one in (note, *graph.objects(note, RDF.value))]
    return [one for one in found if isinstance(one, Literal)]


def _tag(literal: Any) -> str:
    return (getattr(literal, "language", None) or "").lower()


def _texts(literals: Iterable[Any], language: str) -> list[str]:
    """Those in ``language`` (en takes en-GB as well), else those in none; sorted, so that the first is always one."""
    found = [one for one in literals if str(one).strip()]
    fits = [one for one in found if _fits(one, language)]
    exact = [one for one in fits if _tag(one) == language]
    chosen = exact or fits or [one for one in found if not _tag(one)]
    return sorted({str(one) for one in chosen})


def _all_texts(literals: Iterable[Any], language: str) -> list[str]:
    """Those in ``language``, of whatever country, and those in none."""
    return sorted({str(one) for one in literals if str(one).strip() and (_fits(one, language) or not _tag(one))})


def _fits(literal: Any, language: str) -> bool:
    return _tag(literal) == language or _tag(literal).startswith(f"{language}-")


def _chosen_language(source: Source, labels: Collection[Iterable[Any]], notes: list[str]) -> str:
    """The language that most concepts have a prefLabel in; of several English, else the first by name."""
    counts = Counter(tag for ones in labels for tag in {_tag(one) for one in ones} if tag)
    language = min(counts, key=lambda tag: (-counts[tag], tag != "en", tag), default="")
    if len(counts) > 1:
        others = ", ".join(f"{tag} {count:,}" for tag, count in counts.most_common() if tag != language)
        notes.append(
            f"Labels of {source.name} are in {language}, which most of its concepts have ({counts[language]:,} of "
            f"{len(labels):,}; others: {others}): prepare.label_language sets another"
        )
    return language
