"""Other people's clients work against the deployed application as they come: LangChain's and LlamaIndex's."""

import asyncio
from typing import Literal

import openai
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

QUESTION = "How many legs has a llama?"
NUM_TOKENS = 8
UNIT = {
    "type": "object",
    "properties": {"unit": {"enum": ["metres", "feet"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
DRAWN = {"model": "tiny", "temperature": 1, "max_tokens": 200}
"""A random model's likeliest token after a brace is white space, for ever; drawn tokens get on."""
FUNCTION = {"name": "measure", "description": "Measures a llama.", "parameters": UNIT, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}


@pytest.fixture(scope="module")
def expected(served):
    """What the application answers in its own words."""
    from llamafarm_ray.workflows.deployments.chat import ask

    return ask(served.url, "bot:1.0.0", QUESTION, max_tokens=NUM_TOKENS).text


def langchain(served, **options):
    options = {"model": "bot:1.0.0", "temperature": 0, "max_tokens": NUM_TOKENS, **options}
    return ChatOpenAI(base_url=served.url, api_key="none", **options)


def llama_index(served, **options):
    options = {"model": "bot:1.0.0", "is_chat_model": True, "temperature": 0, "max_tokens": NUM_TOKENS, **options}
    return OpenAILike(api_base=served.url, api_key="none", **options)


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


def test_langchain_calls_tools(served):
    chat = langchain(served, seed=7, **DRAWN).bind_tools([TOOL], tool_choice="measure")
    (call,) = chat.invoke("How tall?").tool_calls
    assert call["name"] == "measure"
    assert call["args"]["unit"] in {"metres", "feet"}


def test_langchain_gets_structured_output(served):
    chat = langchain(served, seed=7, **DRAWN)
    schema = {"title": "measure", "description": "Measures a llama.", **UNIT}
    found = chat.with_structured_output(schema, method="json_schema").invoke("How tall?")
    assert found["unit"] in {"metres", "feet"}


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
    llm = llama_index(served, is_chat_model=False)
    text = served.complete("bot:1.0.0", prompt=QUESTION, num_tokens=NUM_TOKENS).json()["choices"][0]["text"]
    assert llm.complete(QUESTION).text == text
    assert "".join(piece.delta or "" for piece in llm.stream_complete(QUESTION)) == text


def test_llama_index_calls_tools(served):
    def measure(unit: Literal["metres", "feet"]) -> str:
        """Measures a llama."""
        return unit

    llm = llama_index(served, is_function_calling_model=True, strict=True, additional_kwargs={"seed": 7}, **DRAWN)
    response = llm.chat_with_tools([FunctionTool.from_defaults(measure)], "How tall?", tool_choice="measure")
    (call,) = llm.get_tool_calls_from_response(response)
    assert (call.tool_name, set(call.tool_kwargs)) == ("measure", {"unit"})
