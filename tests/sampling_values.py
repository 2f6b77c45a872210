"""Values of each field that a client may put into a request for text, ordinary ones and those at the edge.

The edge is what an engine may trip over: ends of ranges, ids beyond the vocabulary, what contradicts itself.
"""

import itertools

HUGE = 2**80
"""Beyond what engines send from process to process."""
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "count", "parameters": SCHEMA}}]

SAMPLING = {
    "temperature": [0, 1e-6, 0.9, 2],
    "top_p": [1e-9, 0.5, 1],
    "top_k": [-1, 0, 1, 2**31, HUGE],
    "min_p": [0, 0.5, 1],
    "seed": [0, -1, 2**63 - 1, HUGE],
    "n": [1, 3],
    "frequency_penalty": [-2, 2],
    "presence_penalty": [-2, 2],
    "repetition_penalty": [1e-45, 0.5, 2, 1e300],
    "logit_bias": [{"5": -100, "6": 100}, {"999999": 1}, {"5": 1e39}, {}],
    "logit_bias_of_all": [{str(token): -100 for token in range(400)}],
    "stop": ["a", ["\n", "the"], ""],
    "stop_token_ids": [[0, 5], [10**9], [-1]],
    "include_stop_str_in_output": [True],
    "ignore_eos": [True],
    "min_tokens": [0, 4, 10**6, HUGE],
    "max_tokens": [0, 1, 12, 10**6],
    "skip_special_tokens": [False],
    "spaces_between_special_tokens": [False],
    "truncate_prompt_tokens": [-1, 1, 8, HUGE],
    "truncation_side": ["left", "right"],
    "allowed_token_ids": [[5], list(range(300)), [], [10**9], [-1]],
    "bad_words": [["the"], [""], ["a", " a", "\u00e9"]],
    "prompt_logprobs": [0, 3, -1, HUGE],
    "logprob_token_ids": [[5], [HUGE], [-1], []],
    "structured_outputs": [
        {"regex": "[ab]{1,4}"},
        {"choice": ["yes", "no"]},
        {"json": SCHEMA},
        {"json": {"type": "integer", "multipleOf": 3}},
        {"json_object": True},
        {"grammar": 'root ::= "a" | "b"'},
        {"grammar": "root ::= "},
        {"grammar": 'root ::= root "a"'},
        {"regex": r"[^\s\S]"},
        {"regex": "(a{1,300}){1,300}"},
        {"json": {"type": "integer", "minimum": 5, "maximum": 3}},
        {"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
        {"json": {"enum": []}},
        {"json": {"$ref": "#"}},
    ],
    "response_format": [{"type": "text"}, {"type": "json_object"}],
    "watermarking": [True, False],
    "use_beam_search": [True],
    "length_penalty": [0, 2],
    "add_special_tokens": [False],
    "return_tokens_as_token_ids": [True],
    "return_token_ids": [True],
    "return_token_offsets": [True],
    "routed_experts_prompt_start": [0, HUGE, -1],
    "return_mm_kwargs": [True],
    "mm_payload": [None, {}, "x"],
    "repetition_detection": [
        {"max_pattern_size": 4, "min_count": 2},
        {"max_pattern_size": HUGE, "min_pattern_size": 10**6, "min_count": 2},
        {"max_pattern_size": -1, "min_count": 0},
    ],
    "thinking_token_budget": [0, 4, -1, HUGE],
    "stream": [True],
    "stream_options": [{"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}],
    "stream_interval": [1, 1000, 0, HUGE],
    "cache_salt": ["x", ""],
    "session_id": ["s", ""],
    "user": ["u"],
    "echo": [True],
}
"""What completions and chats share."""

COMPLETION = {**SAMPLING, "logprobs": [0, 5, 20, -1], "suffix": ["end"]}
CHAT = {
    **SAMPLING,
    "logprobs": [True],
    "top_logprobs": [0, 5, 20, -1],
    "max_completion_tokens": [1, 12],
    "tools": [TOOLS],
    "tool_choice": ["none", "auto", "required", {"type": "function", "function": {"name": "count"}}],
    "parallel_tool_calls": [False],
    "reasoning_effort": ["none", "low"],
    "include_reasoning": [False],
    "add_generation_prompt": [False],
    "continue_final_message": [True],
    "documents": [[{"title": "a", "text": "b"}]],
    "chat_template": ["{{ 7 * 7 }}", "{% for"],
    "chat_template_kwargs": [{"enable_thinking": False}, {"messages": []}],
    "media_io_kwargs": [{"image": {}}],
    "mm_processor_kwargs": [{"a": 1}],
    "return_prompt_text": [True],
}

ELSEWHERE = {
    *("model", "messages", "prompt"),
    *("ec_transfer_params", "kv_transfer_params", "priority", "prompt_embeds", "request_id", "vllm_xargs"),
}
"""Fields of the requests that are not here: what is asked, and what the gate refuses."""


def alone_and_in_pairs(table):
    """The fields of requests: each value alone, and each field with each other field, in two pairs of values."""
    for name, given in table.items():
        for value in given:
            yield fields((name, value))
    for number, (one, other) in enumerate(itertools.combinations(table, 2)):
        for turn in (number, number + 1):
            yield fields((one, table[one][turn % len(table[one])]), (other, table[other][turn % len(table[other])]))


def fields(*pairs):
    return {name.removesuffix("_of_all"): value for name, value in pairs}
