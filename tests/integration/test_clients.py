"""Other people's clients work against the deployed application as they come: LangChain's and LlamaIndex's."""

import asyncio
import json

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

QUESTION = "How many legs has a llama?"
NUM_TOKENS = 8
UNIT = {
    "type": "object",
    "properties": {"unit": {"enum": ["metres", "feet"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "measure", "description": "Measures a llama.", "parameters": UNIT}}


@pytest.fixture(scope="module")
def expected(served):
    """What the application answers in its own words."""
    from llamafarm_ray.workflows.chat import ask

    return ask(served.url, "bot:1.0.0", QUESTION, max_tokens=NUM_TOKENS).text


def langchain(served, model="bot:1.0.0", num_tokens=NUM_TOKENS, **options):
    return ChatOpenAI(base_url=served.url, api_key="none", model=model, temperature=0, max_tokens=num_tokens, **options)


def llama_index(served, model="bot:1.0.0", **options):
    return OpenAILike(
        api_base=served.url,
        api_key="none",
        model=model,
        is_chat_model=True,
        temperature=0,
        max_tokens=NUM_TOKENS,
        **options,
    )


def test_langchain_asks_and_streams(served, expected):
    chat = langchain(served)
    answer = chat.invoke(QUESTION)
    assert answer.content.strip() == expected
    assert answer.response_metadata["model_name"].startswith("bot:1.0.0#")
    assert 0 < answer.usage_metadata["output_tokens"] <= NUM_TOKENS
    assert "".join(piece.content for piece in chat.stream(QUESTION)).strip() == expected

    async def streamed():
        return "".join([piece.content async for piece in chat.astream(QUESTION)])

    assert asyncio.run(streamed()).strip() == expected
    assert [one.content.strip() for one in chat.batch([QUESTION] * 4)] == [expected] * 4


def test_langchain_calls_tools_and_gets_structured_output(served):
    chat = langchain(served, model="tiny", num_tokens=64).bind_tools([TOOL], tool_choice="measure")
    (call,) = chat.invoke("How tall?").tool_calls
    assert call["name"] == "measure"
    assert call["args"]["unit"] in {"metres", "feet"}


def test_langchain_sends_limits_for_auto(served):
    chat = langchain(served, model="auto", default_headers={"x-llamafarm-task": "chat"})
    assert chat.invoke(QUESTION).response_metadata["model_name"]
    nobody = langchain(served, model="auto", default_headers={"x-llamafarm-task": "juggling"}, max_retries=0)
    with pytest.raises(openai.NotFoundError, match="none is for the task 'juggling'"):
        nobody.invoke(QUESTION)


def test_llama_index_asks_and_streams(served, expected):
    llm = llama_index(served)
    messages = [ChatMessage(role="user", content=QUESTION)]
    assert llm.chat(messages).message.content.strip() == expected
    assert "".join(piece.delta or "" for piece in llm.stream_chat(messages)).strip() == expected

    async def asked():
        return await llm.achat(messages)

    assert asyncio.run(asked()).message.content.strip() == expected


def test_llama_index_completes(served):
    llm = OpenAILike(
        api_base=served.url,
        api_key="none",
        model="bot:1.0.0",
        is_chat_model=False,
        temperature=0,
        max_tokens=NUM_TOKENS,
    )
    text = served.complete("bot:1.0.0", prompt=QUESTION, num_tokens=NUM_TOKENS).json()["choices"][0]["text"]
    assert llm.complete(QUESTION).text == text
    assert "".join(piece.delta or "" for piece in llm.stream_complete(QUESTION)) == text


def test_the_tools_arguments_are_json(served):
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How tall?"}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "measure"}},
        "max_tokens": 64,
    }
    response = httpx.post(f"{served.url}/chat/completions", json=body, timeout=60)
    (call,) = response.json()["choices"][0]["message"]["tool_calls"]
    assert set(json.loads(call["function"]["arguments"])) == {"unit"}
