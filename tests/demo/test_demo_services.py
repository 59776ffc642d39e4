"""The demo's two services, asked directly."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from asgi_gateway.demo.services import REPLY, Completions, Data, Switched
from asgi_gateway.testing import Upstream

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def ai() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        Upstream(Switched(Completions(delay=0.001))) as upstream,
        httpx.AsyncClient(base_url=upstream.url, trust_env=False, timeout=5) as client,
    ):
        yield client


@pytest.fixture
async def data() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        Upstream(Switched(Data())) as upstream,
        httpx.AsyncClient(base_url=upstream.url, trust_env=False, timeout=5) as client,
    ):
        yield client


async def test_a_completion_is_answered_whole(ai: httpx.AsyncClient) -> None:
    answer = (await ai.post("/v1/chat/completions", json=QUESTION)).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "m"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": REPLY}
    assert answer["usage"]["total_tokens"] == 8 + len(REPLY.split())


async def test_a_completion_is_streamed_word_by_word(ai: httpx.AsyncClient) -> None:
    async with ai.stream("POST", "/v1/chat/completions", json=QUESTION | {"stream": True}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        events = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == REPLY
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


@pytest.mark.parametrize("body", [b"{", b"[]"])
async def test_a_body_that_is_no_object_is_refused(ai: httpx.AsyncClient, body: bytes) -> None:
    answer = await ai.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_any_other_path_of_the_model_is_not_found(ai: httpx.AsyncClient) -> None:
    assert (await ai.get("/v1/chat/completions")).status_code == 404


async def test_data_are_answered(data: httpx.AsyncClient) -> None:
    assert [item["name"] for item in (await data.get("/items?page=1")).json()["items"]] == ["one", "two"]
    assert (await data.get("/nothing")).status_code == 404


async def test_flaky_fails_twice_and_then_answers(data: httpx.AsyncClient) -> None:
    assert [(await data.get("/flaky")).status_code for _ in range(6)] == [503, 503, 200] * 2


async def test_the_switch_makes_it_fail_and_serve_again(data: httpx.AsyncClient) -> None:
    assert (await data.post("/switch/fail")).json() == {"mode": "fail"}
    assert (await data.get("/items")).status_code == 500
    await data.post("/switch/ok")
    assert (await data.get("/items")).status_code == 200


async def test_the_switch_makes_it_reset(data: httpx.AsyncClient) -> None:
    await data.post("/switch/reset")
    with pytest.raises(httpx.ReadError):
        await data.get("/items")


async def test_the_switch_makes_it_hang(data: httpx.AsyncClient) -> None:
    await data.post("/switch/hang")
    with pytest.raises(httpx.ReadTimeout):
        await data.get("/items", timeout=0.1)


async def test_a_wrong_turn_of_the_switch_is_refused(data: httpx.AsyncClient) -> None:
    assert (await data.get("/switch/fail")).status_code == 405
    assert (await data.post("/switch/explode")).status_code == 404
    assert (await data.get("/items")).status_code == 200
