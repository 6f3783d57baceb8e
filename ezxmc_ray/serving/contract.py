"""What clients and the server say to each other: the body of a request, answers, and the OpenAPI that describes both.

Comes in: the bytes of a body. Goes out: a :class:`TagRequest`, or :class:`Refused` with a status and one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ezxmc_ray.serving.settings import ServeSettings
from ezxmc_ray.version import __version__

#: Labels that /v1/labels gives at most.
MAX_LABELS = 1000


class Refused(Exception):
    """A request that is not done, with the HTTP ``status`` and one sentence that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Document(BaseModel):
    """A text with its title."""

    model_config = ConfigDict(strict=True, extra="allow")
    title: str = ""
    text: str


class TagBody(BaseModel):
    """What POST /v1/tag takes; exactly one of texts and documents."""

    model_config = ConfigDict(strict=True, extra="allow")
    texts: list[str] | None = Field(None, fail_fast=True, description="texts without titles")
    documents: list[Document] | None = Field(None, fail_fast=True, description="texts with titles")
    k: int | None = Field(None, description="labels a text at most; null: as the run has it", ge=1)
    min_score: float | None = Field(
        None, description="least score; null: as the run has it; -1: all", allow_inf_nan=False
    )
    among: list[str] | None = Field(None, fail_fast=True, description="ids of labels; no other is given")
    explain: bool = Field(False, description="also say why: the cosine, and the words that matched")


@dataclass(frozen=True)
class Options:
    """How texts are tagged; those with the same options can be tagged together. ``export``: by which; None: any.

    ``most``: labels a text where ``k`` is the run's, which the replicas know; more are refused.
    """

    k: int | None = None
    min_score: float | None = None
    among: tuple[str, ...] | None = None
    explain: bool = False
    most: int | None = None
    export: str | None = None


@dataclass(frozen=True)
class TagRequest:
    """Documents and how to tag them."""

    titles: list[str]
    texts: list[str]
    options: Options


@dataclass(frozen=True)
class Answer:
    """Of each document its labels, as JSON has them; ``export``: which one tagged. ``mistake``: the client's."""

    export: str
    results: list[list[dict[str, Any]]]
    mistake: str | None = None


def read_request(body: bytes, settings: ServeSettings) -> TagRequest:
    """The request in ``body``. Errors: Refused."""
    try:
        asked = TagBody.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    _check_names(asked, "")
    for document in (asked.documents or [])[: settings.max_texts]:
        _check_names(document, "documents: ")
    if (asked.texts is None) == (asked.documents is None):
        raise Refused(422, "Give texts or documents, one of both.")
    if asked.k is not None and asked.k > settings.max_k:
        raise Refused(422, f"k={_short(asked.k)} is more than the {settings.max_k:,} labels that this server gives.")
    titles = [one.title for one in asked.documents or []] or [""] * len(asked.texts or [])
    texts = [one.text for one in asked.documents or []] or asked.texts or []
    _check_size(titles, texts, settings)
    most = min(settings.max_k, settings.max_labels // max(1, len(texts)))
    if asked.k is not None and asked.k > most:
        raise Refused(
            413,
            f"{len(texts):,} texts with {asked.k:,} labels each are more than the {settings.max_labels:,} labels of an "
            "answer: send several requests, or a lower k.",
        )
    among = None if asked.among is None else tuple(asked.among)
    if among is not None and len(among) > settings.max_labels:
        raise Refused(413, f"among has {len(among):,} ids, and {settings.max_labels:,} are taken: name fewer.")
    options = Options(asked.k, asked.min_score, among, asked.explain, most if asked.k is None else None)
    return TagRequest(titles, texts, options)


def _check_size(titles: Sequence[str], texts: Sequence[str], settings: ServeSettings) -> None:
    if len(texts) > settings.max_texts:
        raise Refused(
            413, f"{len(texts):,} texts are more than the {settings.max_texts:,} of a request: send several requests."
        )
    characters = sum(map(len, titles)) + sum(map(len, texts))
    if characters > settings.max_characters:
        raise Refused(
            413,
            f"{characters:,} characters are more than the {settings.max_characters:,} of a request: send several "
            "requests, or less of each text (only its beginning is read).",
        )


def check_pairs(texts: int, pairs: int, settings: ServeSettings) -> None:
    """Errors: Refused for more than one text, of so many ``pairs`` each, if they are too many together."""
    if texts > 1 and texts * pairs > settings.max_pairs:
        most = max(1, settings.max_pairs // pairs)
        raise Refused(
            413,
            f"{texts:,} texts of {pairs:,} pairs each are more than the {settings.max_pairs:,} pairs that the "
            f"cross-encoder reads for a request (--max-pairs): send {most:,} text{'s' * (most > 1)} at a time.",
        )


def _check_names(asked: BaseModel, where: str) -> None:
    unknown = list(asked.model_extra or {})
    if unknown:
        known = ", ".join(type(asked).model_fields)
        raise Refused(422, f"{where}{_short(unknown[0])!r} is not one of {known}.")


def _short(value: object) -> str:
    text = str(value) if not isinstance(value, int) or abs(value) < 10**18 else "10^18 or more"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _invalid(error: ValidationError) -> Refused:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return Refused(400, f"The body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return Refused(422, f"{place or 'The body'}: {first['msg'][:1].lower()}{first['msg'][1:]}.")


def read_limit(words: str | None) -> int:
    """``limit`` of /v1/labels. Errors: Refused."""
    if words is None:
        return 20
    if not (words.isascii() and words.isdigit() and len(words) < 9 and 1 <= int(words) <= MAX_LABELS):
        raise Refused(422, f"limit={_short(words)} must be a whole number from 1 to {MAX_LABELS:,}.")
    return int(words)


def finite(label: dict[str, Any]) -> dict[str, Any]:
    """``label`` without numbers that JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in label.items()
    }


def openapi(settings: ServeSettings) -> dict[str, Any]:
    """The OpenAPI of the server, with the limits that ``settings`` has."""
    body = TagBody.model_json_schema(ref_template="#/components/schemas/{model}")
    document = body.pop("$defs")["Document"]
    for schema in (body, document):
        schema["additionalProperties"] = False
    for name in ("texts", "documents"):
        body["properties"][name]["anyOf"][0]["maxItems"] = settings.max_texts
    body["properties"]["k"]["anyOf"][0]["maximum"] = settings.max_k
    body["properties"]["among"]["anyOf"][0]["maxItems"] = settings.max_labels
    body["oneOf"] = [
        {"required": [one], "properties": {one: {"type": "array"}, other: {"type": "null"}}}
        for one, other in (("texts", "documents"), ("documents", "texts"))
    ]
    schemas = {"Document": document, "TagBody": body, **_ANSWERS}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "ezxmc", "version": __version__, "description": "Tags texts with labels."},
        "paths": _PATHS,
        "components": {"schemas": schemas},
    }
    if settings.token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any], description: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {"application/json": content}}


def _failures(*statuses: int) -> dict[str, Any]:
    meaning = {
        400: "no JSON, no HTTP",
        401: "no token, or the wrong one",
        408: "the body came too slowly",
        413: "too much for one request",
        415: "no application/json",
        421: "another host is meant",
        422: "a value makes no sense",
        429: "too much is waiting; try again",
        503: "not ready, or not answered in time",
    }
    return {str(one): _json(_ref("Error"), meaning[one]) for one in statuses}


_EXAMPLE_ANSWER = {
    "export": "files-28a4522244ab85e1",
    "results": [
        {
            "labels": [
                {
                    "label_id": "use::editing",
                    "text": "Purpose: Editing",
                    "score": 0.58,
                    "probability": 0.71,
                    "why": {"cosine": 0.48, "share": 0.5, "name": 0.0, "words": ["editor"]},
                }
            ]
        }
    ],
}
_STRING, _NUMBER = {"type": "string"}, {"type": "number"}
_ANSWERS: dict[str, Any] = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": _STRING}},
    "Why": {
        "type": "object",
        "description": "score = cosine + lexical.weight * (share + lexical.name_bonus * name) + cross_encoder",
        "required": ["cosine", "share", "name", "words"],
        "properties": {
            "cosine": _NUMBER,
            "share": _NUMBER,
            "name": _NUMBER,
            "words": {"type": "array", "items": _STRING},
            "cross_encoder": _NUMBER | {"description": "where one ranks labels anew (predict.rerank)"},
        },
    },
    "Tagged": {
        "type": "object",
        "required": ["label_id", "text", "score"],
        "properties": {
            "label_id": _STRING,
            "text": _STRING,
            "score": _NUMBER,
            "probability": {"type": ["number", "null"], "description": "of the teacher's yes; null: not known"},
            "similarity": _NUMBER | {"description": "the score without the cross-encoder, where there is one"},
            "why": _ref("Why"),
        },
    },
    "TagAnswer": {
        "type": "object",
        "required": ["export", "results"],
        "properties": {
            "export": {"type": "string", "description": "which export of the run tagged"},
            "results": {
                "type": "array",
                "description": "one for each text, in their order",
                "items": {
                    "type": "object",
                    "required": ["labels"],
                    "properties": {"labels": {"type": "array", "items": _ref("Tagged")}},
                },
            },
        },
    },
    "Labels": {
        "type": "object",
        "required": ["labels", "matches", "total", "defaults"],
        "properties": {
            "labels": {
                "type": "array",
                "items": {"type": "object", "required": ["id", "text"], "properties": {"id": _STRING, "text": _STRING}},
            },
            "matches": {"type": "integer"},
            "total": {"type": "integer"},
            "defaults": {
                "type": "object",
                "description": "of a request that does not say",
                "properties": {"k": {"type": "integer"}, "min_score": {"type": ["number", "null"]}},
            },
        },
    },
}
_PATHS: dict[str, Any] = {
    "/v1/tag": {
        "post": {
            "summary": "Tag texts",
            "operationId": "tag",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": _ref("TagBody"),
                        "examples": {
                            "texts": {"value": {"texts": ["A text editor with colours."], "k": 5}},
                            "documents": {
                                "value": {
                                    "documents": [{"title": "vim", "text": "A text editor with colours."}],
                                    "min_score": 0.3,
                                    "explain": True,
                                }
                            },
                        },
                    }
                },
            },
            "responses": {
                "200": _json(_ref("TagAnswer"), "labels, best first", _EXAMPLE_ANSWER),
                **_failures(400, 401, 408, 413, 415, 421, 422, 429, 503),
            },
        }
    },
    "/v1/labels": {
        "get": {
            "summary": "Find labels by a part of their text or id",
            "operationId": "labels",
            "parameters": [
                {"name": "query", "in": "query", "schema": {"type": "string", "maxLength": 1000}, "example": "edit"},
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LABELS, "default": 20},
                },
            ],
            "responses": {
                "200": _json(
                    _ref("Labels"),
                    "the first labels that match, by label number",
                    {
                        "labels": [{"id": "use::editing", "text": "Purpose: Editing"}],
                        "matches": 1,
                        "total": 524,
                        "defaults": {"k": 5, "min_score": 0.23},
                    },
                ),
                **_failures(401, 421, 422, 503),
            },
        }
    },
    "/healthz": {
        "get": {
            "summary": "Whether the server lives",
            "operationId": "healthz",
            "security": [],
            "responses": {"200": {"description": "it does", "content": {"application/json": {}}}, **_failures(421)},
        }
    },
    "/readyz": {
        "get": {
            "summary": "Whether it takes requests",
            "operationId": "readyz",
            "security": [],
            "responses": {
                "200": {"description": "it does", "content": {"application/json": {}}},
                **_failures(421, 503),
            },
        }
    },
    "/metrics": {
        "get": {
            "summary": "Figures for Prometheus",
            "operationId": "metrics",
            "responses": {"200": {"description": "text", "content": {"text/plain": {}}}, **_failures(401, 421)},
        }
    },
}
