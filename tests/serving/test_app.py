"""What clients get, over a tagger that needs no model: answers, and for whatever else they send one sentence."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from ezxmc_ray.serving import app
from ezxmc_ray.serving.contract import Answer, openapi
from ezxmc_ray.serving.settings import ServeSettings

from .conftest import HOSTILE, FakeTagger, Talks

JSON = {"content-type": "application/json"}


def posted(talks: Talks, body: Any, tagger: FakeTagger | None = None, **settings: Any) -> httpx.Response:
    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await client.post("/v1/tag", content=content, headers=JSON)

    answer: httpx.Response = talks(talk, tagger, **settings)
    return answer


def got(talks: Talks, path: str, headers: dict[str, str] | None = None, **settings: Any) -> httpx.Response:
    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get(path, headers=headers)

    answer: httpx.Response = talks(talk, **settings)
    return answer


def test_texts_get_their_labels_best_first(talks: Talks) -> None:
    answer = posted(talks, {"texts": ["four", "sixsix"], "k": 2})
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "export": "export-1",
        "results": [
            {
                "labels": [
                    {"label_id": "short", "text": "Short texts", "score": score, "probability": 0.5},
                    {"label_id": "long", "text": "Long texts", "score": score - 1, "probability": None},
                ]
            }
            for score in (4.0, 6.0)
        ],
    }


def test_titles_options_and_reasons_reach_the_tagger(talks: Talks) -> None:
    body = {
        "documents": [{"title": "ab", "text": "cd ef"}],
        "among": ["long", HOSTILE],
        "min_score": 7,
        "explain": True,
    }
    [row] = posted(talks, body).json()["results"]
    why = {"cosine": 7.0, "share": 0.0, "name": 0.0, "words": ["cd", "ef"]}
    told = {"label_id": "long", "text": "Long texts", "score": 7.0, "probability": 0.5}
    assert row["labels"] == [{**told, "why": why}]


def test_hostile_labels_are_json_like_any_other(talks: Talks) -> None:
    answer = posted(talks, {"texts": ["x"], "among": [HOSTILE]})
    assert answer.json()["results"][0]["labels"][0]["text"] == HOSTILE
    assert answer.headers["content-type"] == "application/json"


def test_no_texts_get_no_labels(talks: Talks) -> None:
    assert posted(talks, {"texts": []}).json()["results"] == []


DEEP = b'{"texts":' + b"[" * 200_000
REFUSED: dict[str, tuple[Any, int, str]] = {
    "no body": (b"", 400, "The body is not JSON"),
    "bad JSON": (b'{"texts": ["a"', 400, "The body is not JSON"),
    "binary": (bytes(range(256)), 400, "The body is not JSON"),
    "deep": (DEEP, 400, "recursion"),
    "a huge number": (b'{"texts": ["a"], "k": ' + b"9" * 5000 + b"}", 400, "number out of range"),
    "half a character": (b'{"texts": ["\\ud800"]}', 400, "The body is not JSON"),
    "a list": (b"[1]", 422, "should be an object"),
    "neither": ({"k": 1}, 422, "Give texts or documents"),
    "both": ({"texts": ["a"], "documents": [{"text": "a"}]}, 422, "Give texts or documents"),
    "a misspelt name": ({"texts": ["a"], "min_scores": 1}, 422, "'min_scores' is not one of texts, documents, k"),
    "one in a document": ({"documents": [{"text": "a", "titel": "b"}]}, 422, "'titel' is not one of title, text"),
    "k = 0": ({"texts": ["a"], "k": 0}, 422, "k: "),
    "k = -1": ({"texts": ["a"], "k": -1}, 422, "k: "),
    "k true": ({"texts": ["a"], "k": True}, 422, "k: "),
    "k over the labels": ({"texts": ["a"], "k": 4}, 422, "k=4 is more than the 3 labels"),
    "k over all bounds": ({"texts": ["a"], "k": 10**30}, 422, "k=10^18 or more is more than the 1,000 labels"),
    "NaN": (b'{"texts": ["a"], "min_score": NaN}', 422, "min_score: "),
    "infinity": (b'{"texts": ["a"], "min_score": 1e999}', 422, "min_score: "),
    "no such label": ({"texts": ["a"], "among": ["gone"]}, 422, "No label has the id 'gone'"),
    "a text that is none": ({"texts": ["a", 7]}, 422, "texts[1]: "),
    "100,000 texts": ({"texts": ["a"] * 100_000}, 413, "100,000 texts are more than the 1,024"),
    "10 MB": (b'{"texts": ["' + b"x" * 10_000_000 + b'"]}', 413, "more than 4,194,304 bytes"),
    "labels of the answer": ({"texts": ["a"] * 1000, "k": 101}, 413, "1,000 texts with 101 labels each are more than"),
    "ids of labels": ({"texts": ["a"], "among": ["long"] * 100_001}, 413, "among has 100,001 ids, and 100,000 are"),
    "characters": ({"texts": ["x" * 2_000_001]}, 413, "2,000,001 characters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_gets_one_sentence_and_the_server_answers_on(talks: Talks, name: str) -> None:
    body, status, words = REFUSED[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def talk(client: httpx.AsyncClient) -> None:
        refused = await client.post("/v1/tag", content=content, headers=JSON)
        assert refused.status_code == status, refused.text
        assert list(refused.json()) == ["error"] and words in refused.json()["error"]
        assert refused.json()["error"].endswith(".") and "\n" not in refused.json()["error"]
        assert (await client.post("/v1/tag", json={"texts": ["a"]})).status_code == 200

    talks(talk)


@pytest.mark.parametrize(
    ("texts", "asked", "status"),
    [
        (5, {}, 200),
        (6, {}, 422),  # the run's k is 2
        (6, {"k": 1}, 200),
        (6, {"among": ["long"]}, 200),
        (11, {"k": 1}, 413),
    ],
)
def test_labels_of_an_answer_have_a_limit_without_k_too(
    talks: Talks, texts: int, asked: dict[str, Any], status: int
) -> None:
    answer = posted(talks, {"texts": ["a"] * texts, **asked}, max_labels=10)
    assert answer.status_code == status, answer.text
    assert status != 422 or answer.json()["error"] == (
        "Without k a text gets up to 2 labels, and of so many texts 1 are given: give k, or send fewer texts."
    )


@pytest.mark.parametrize(
    ("texts", "asked", "pairs", "refused"),
    [
        (100, {}, 30, ""),
        (101, {}, 30, "101 texts of 30 pairs each are more than the 3,000 pairs {}: send 100 texts at a time."),
        (101, {}, 0, ""),
        (97, {"among": ["long"]}, 30, "97 texts of 31 pairs each are more than the 3,000 pairs {}: send 96 texts {}."),
        (2, {}, 3001, "2 texts of 3,001 pairs each are more than the 3,000 pairs {}: send 1 text at a time."),
        (1, {}, 3001, ""),
        (0, {}, 30, ""),
    ],
)
def test_where_a_cross_encoder_ranks_a_request_is_bounded_by_its_pairs(
    talks: Talks, texts: int, asked: dict[str, Any], pairs: int, refused: str
) -> None:
    tagger = FakeTagger(pairs=pairs)
    answer = posted(talks, {"texts": ["a"] * texts, **asked}, tagger)
    assert answer.status_code == (413 if refused else 200), answer.text
    if refused:
        told = refused.replace("send 96 texts {}", "send 96 texts at a time")
        assert answer.json()["error"] == told.format("that the cross-encoder reads for a request (--max-pairs)")
        assert not tagger.calls


def test_a_large_answer_lets_others_have_their_turn() -> None:
    labels = [{"label_id": HOSTILE, "text": "ü", "score": 0.6658567190170288, "probability": None}] * 1000
    turns = 0

    async def talk() -> bytes:
        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        answer = await app._as_json(Answer("e", [labels, [], *[labels[:100]] * 20]))
        task.cancel()
        return bytes(answer.body)

    rows = [{"labels": row} for row in [labels, [], *[labels[:100]] * 20]]
    assert asyncio.run(talk()) == JSONResponse({"export": "e", "results": rows}).body
    assert turns > 1


@pytest.mark.parametrize("path", ["/v1/labels?limit=0", "/v1/labels?limit=1.5", f"/v1/labels?query={'x' * 1001}"])
def test_labels_are_not_found_by_what_makes_no_sense(talks: Talks, path: str) -> None:
    assert got(talks, path).status_code == 422


def test_labels_are_found_by_text_and_id_in_whatever_case(talks: Talks) -> None:
    short = {"id": "short", "text": "Short texts"}
    same = {"total": 3, "defaults": {"k": 2, "min_score": None}}
    assert got(talks, "/v1/labels?query=SHORT").json() == {"labels": [short], "matches": 1, **same}
    assert got(talks, "/v1/labels?query=texts&limit=1").json() == {"labels": [short], "matches": 2, **same}
    assert got(talks, "/v1/labels").json()["matches"] == 3


def test_other_paths_and_methods_get_a_sentence(talks: Talks) -> None:
    assert got(talks, "/v1/tag").status_code == 405 and "error" in got(talks, "/v1/tag").json()
    assert got(talks, "/v1/tag/").status_code == 404 and "error" in got(talks, "/gone").json()


def test_a_body_must_say_that_it_is_json(talks: Talks) -> None:
    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/tag", content=b"{}", headers={"content-type": "text/plain"})

    assert talks(talk).status_code == 415


def test_a_body_without_a_length_is_bounded_while_it_comes(talks: Talks) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 1000

    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/tag", content=chunks(), headers=JSON)

    assert talks(talk, max_body_bytes=5000).status_code == 413
    assert sent < 10


def test_a_body_that_comes_too_slowly_is_waited_for_no_longer(talks: Talks) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/tag", content=chunks(), headers=JSON)

    answer = talks(talk, body_s=0.1)
    assert answer.status_code == 408 and "after 0.1 s" in answer.json()["error"]


def test_who_has_a_token_must_give_it_but_for_what_tells_nothing_of_the_run(talks: Talks) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        for given in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "secret"},
            {"authorization": "Bearer é"},
        ):
            coded = {name: value.encode() for name, value in given.items()}
            for path in ("/v1/labels", "/metrics", "/gone"):
                answer = await client.get(path, headers=coded)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
                assert "secret" not in answer.text
            assert (await client.post("/v1/tag", json={"texts": ["a"]}, headers=coded)).status_code == 401
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        right = {"authorization": "Bearer secret"}
        assert (await client.post("/v1/tag", json={"texts": ["a"]}, headers=right)).status_code == 200

    talks(talk, token="secret")


@pytest.mark.parametrize(("host", "status"), [("evil.example", 421), ("localhost:9", 200), ("[::1]:9", 200), ("", 421)])
def test_a_name_that_somebody_gave_this_machine_is_not_answered_to(talks: Talks, host: str, status: int) -> None:
    assert got(talks, "/v1/labels", {"host": host}).status_code == status
    assert got(talks, "/v1/labels", {"host": host}, host="10.0.0.1").status_code == 200


def test_a_fault_says_nothing_of_itself_to_the_client(talks: Talks, capsys: pytest.CaptureFixture[str]) -> None:
    answer = posted(talks, {"texts": ["fault"]})
    assert answer.status_code == 500 and answer.json() == {"error": "A fault of the server, whose log says more."}
    assert "a fault that no client may read" in capsys.readouterr().err


def test_what_takes_too_long_is_told(talks: Talks) -> None:
    answer = posted(talks, {"texts": ["x"]}, FakeTagger(seconds=0.5), timeout_s=0.05)
    assert answer.status_code == 503 and "Not done within 0.05 s" in answer.json()["error"]
    assert answer.headers["retry-after"] == "2"


def test_too_much_that_waits_is_refused_at_once(talks: Talks) -> None:
    async def talk(client: httpx.AsyncClient) -> list[int]:
        asked = [client.post("/v1/tag", json={"texts": ["x"] * 4}) for _ in range(12)]
        return sorted({answer.status_code for answer in await asyncio.gather(*asked)})

    assert talks(talk, FakeTagger(seconds=0.05), max_waiting_texts=8, max_batch_size=4) == [200, 429]


def test_bytes_that_wait_are_bounded_and_let_go(talks: Talks) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        body = {"texts": ["x" * 1000]}
        together = await asyncio.gather(*(client.post("/v1/tag", json=body) for _ in range(6)))
        assert sorted(one.status_code for one in together) == [200, 200, 429, 429, 429, 429]
        for bad in (b"x" * 1500, json.dumps({"texts": ["fault", "x" * 1000]}).encode(), b"x" * 1500):
            assert (await client.post("/v1/tag", content=bad, headers=JSON)).status_code in (400, 500)
        assert (await client.post("/v1/tag", json=body)).status_code == 200

    talks(talk, FakeTagger(seconds=0.1), max_held_bytes=2500)


def test_requests_that_come_together_are_tagged_together_each_with_its_own_labels(talks: Talks) -> None:
    tagger = FakeTagger(seconds=0.02)

    async def talk(client: httpx.AsyncClient) -> list[float]:
        asked = [client.post("/v1/tag", json={"texts": ["x" * n], "k": 1}) for n in range(1, 41)]
        return [one.json()["results"][0]["labels"][0]["score"] for one in await asyncio.gather(*asked)]

    assert talks(talk, tagger) == list(map(float, range(1, 41)))
    assert len(tagger.calls) < 10 and tagger.threads == {"tag_0"}


def test_metrics_count_what_was_answered(talks: Talks) -> None:
    async def talk(client: httpx.AsyncClient) -> str:
        await client.post("/v1/tag", json={"texts": ["a", "b"]})
        await client.post("/v1/tag", json={"texts": ["a"], "k": 0})
        await client.get("/some/path")
        return (await client.get("/metrics")).text

    text = talks(talk)
    assert 'ezxmc_requests_total{route="/v1/tag",status="200"} 1.0' in text
    assert 'ezxmc_requests_total{route="/v1/tag",status="422"} 1.0' in text
    assert 'ezxmc_requests_total{route="other",status="404"} 1.0' in text
    assert "ezxmc_texts_total 2.0" in text and "ezxmc_slots 2.0" in text
    assert "process_resident_memory_bytes" in text


def test_the_page_runs_its_own_script_and_style_and_nothing_else(talks: Talks) -> None:
    page = got(talks, "/")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        hashes = [f"'sha256-{b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts]
        assert parts and policy[f"{tag}-src"].split() == hashes
        assert page.text.count(f"<{tag}") == len(parts)
    assert not re.search(r"\son\w+=|\sstyle=|https?://|innerHTML|insertAdjacentHTML|document\.write", page.text)


def test_the_openapi_names_every_route_with_an_example_that_is_answered(talks: Talks) -> None:
    described = got(talks, "/openapi.json").json()
    assert described == openapi(ServeSettings())
    assert set(described["paths"]) == {"/v1/tag", "/v1/labels", "/healthz", "/readyz", "/metrics"}
    content = described["paths"]["/v1/tag"]["post"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert posted(talks, {**example["value"], "k": 1}).status_code == 200
    assert content["schema"] == {"$ref": "#/components/schemas/TagBody"}
    assert described["components"]["schemas"]["TagBody"]["properties"]["texts"]["anyOf"][0]["maxItems"] == 1024
