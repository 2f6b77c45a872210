"""Requests that nobody means well with, each made from a good one that is answered.

What is wrong with each is said by its name. Paths and headers are as a server gives them to an app, past all that an
HTTP client would refuse to send.
"""

import json

from fake_gateway import BOT

COMPLETIONS, ROUTE = "/v1/completions", "/v1/chat/completions"
JSON = (b"content-type", b"application/json")
PIN = "xyzzy"
"""Is in the good request's prompt, and has no place in an error."""
CHAT = {"model": "bot", "messages": [{"role": "user", "content": f"My pin is {PIN}."}]}
GOOD = json.dumps(CHAT).encode()

PATHS = {
    "double slash": "//v1/chat/completions",
    "trailing slash": "/v1/chat/completions/",
    "dot segment": "/v1/./chat/completions",
    "parent segment": "/v1/models/../chat/completions",
    "parent of health": "/health/../v1/completions",
    "upper case": "/V1/CHAT/COMPLETIONS",
    "semicolon": "/v1/chat/completions;a=b",
    "null byte": "/v1/chat/completions\0",
    "new line": "/v1/chat/completions\r\nX: y",
    "backslash": "/v1\\chat\\completions",
    "overlong": "/v1/" + "x" * 100_000,
    "absolute": "http://other/v1/chat/completions",
    "unicode": "/v1/chat/completion\N{LATIN SMALL LETTER LONG S}",
    "admin": "/v1/load_lora_adapter",
    "rpc": "/collective_rpc",
    "sleep": "/sleep",
    "weights": "/update_weights",
    "pause": "/pause",
    "profile": "/start_profile",
    "router": "/internal/route",
    "health, posted": "/health",
    "no path": "",
}
SPELLINGS = [b"/v1/chat%2Fcompletions", b"/v1/%63hat/completions", b"/v1/chat/completions%20"]
METHODS = ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
NO_METHODS = ["post", "P" * 9999]
"""HTTP would take them, and knows none of them."""

ROUTED = (b"serve_multiplexed_model_id", BOT.encode())
HEADERS = {
    "the router's, with dashes": [(b"serve-multiplexed-model-id", BOT.encode())],
    "the router's, mixed": [(b"serve_multiplexed-model_id", BOT.encode())],
    "the router's, twice": [ROUTED, (b"serve_multiplexed_model_id", b"tiny")],
    "the router's, in another case too": [ROUTED, (b"Serve_Multiplexed_Model_Id", b"tiny")],
    "the gate's model": [(b"x-llamafarm-model", b"bot:1.0.0")],
    "the gate's digest": [(b"x-llamafarm-digest", b"sha256:0")],
    "the gate's, in upper case": [(b"X-LLAMAFARM-MODEL", b"bot:1.0.0")],
    "the gate's, with underscores": [(b"x_llamafarm_model", b"bot:1.0.0")],
    "a limit for a model that is named": [(b"x-llamafarm-min-quality", b"0.5")],
    "a limit twice": [(b"x-llamafarm-task", b"chat"), (b"x-llamafarm-task", b"qa")],
    "a limit with underscores": [(b"x_llamafarm_task", b"chat")],
    "a header in a value": [(b"x-a", b"1\r\nserve_multiplexed_model_id: tiny")],
    "a request in a value": [(b"x-a", b"1\r\n\r\nPOST /sleep HTTP/1.1\r\n\r\n")],
    "a null in a value": [(b"x-a", b"1\0")],
    "a line feed in a name": [(b"x-a\nserve_multiplexed_model_id", b"tiny")],
    "a space in a name": [(b"content-length ", b"5")],
    "a colon in a name": [(b"x-a:", b"5")],
    "no name": [(b"", b"5")],
    "two lengths": [(b"content-length", b"5"), (b"content-length", str(len(GOOD)).encode())],
    "two lengths in one": [(b"content-length", b"5, 5")],
    "a length and chunks": [(b"content-length", str(len(GOOD)).encode()), (b"transfer-encoding", b"chunked")],
    "two transfer encodings": [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"identity")],
    "a negative length": [(b"content-length", b"-1")],
    "a length with a sign": [(b"content-length", b"+" + str(len(GOOD)).encode())],
    "a length in hex": [(b"content-length", b"0x10")],
    "a length in other digits": [(b"content-length", "\N{ARABIC-INDIC DIGIT FIVE}".encode())],
    "a length that is too short": [(b"content-length", b"5")],
    "a length that is too long": [(b"content-length", str(len(GOOD) + 1).encode())],
    "two hosts": [(b"host", b"a"), (b"host", b"b")],
    "two content types": [(b"content-type", b"text/plain")],
    "two keys": [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")],
}
FLOODS = {
    "a thousand headers": [(b"x-%d" % number, b"") for number in range(1000)],
    "a thousand times the same": [(b"x-a", b"")] * 1000,
    "a long value": [(b"x-a", b"a" * 70_000)],
    "a long name": [(b"a" * 70_000, b"")],
    "many long ones": [(b"x-%d" % number, b"a" * 1000) for number in range(100)],
}
# A page of another site may send these to this machine: https://fetch.spec.whatwg.org/#cors-safelisted-request-header
SAFELISTED_TYPES = [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b"", None]
ENCODINGS = [b"gzip", b"br", b"deflate", b"zstd", b"identity, gzip"]

BODIES = {
    "nothing": b"",
    "half": GOOD[:-5],
    "two": GOOD + GOOD,
    "trailing text": GOOD + b" x",
    "latin-1": b'{"model": "bot", "messages": "\xe9"}',
    "utf-16": json.dumps(CHAT).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "overlong utf-8": b'{"model": "\xc0\xaf"}',
    "a null byte": GOOD.replace(b"pin", b"p\0in"),
    "a list": b"[]",
    "a text": b'"bot"',
    "a number": b"5",
    "null": b"null",
    "NaN": GOOD[:-1] + b', "temperature": NaN}',
    "Infinity": GOOD[:-1] + b', "temperature": Infinity}',
    "minus Infinity": GOOD[:-1] + b', "temperature": -Infinity}',
    "a number that overflows": GOOD[:-1] + b', "temperature": 1e999}',
    "a number of 5,000 digits": GOOD[:-1] + b', "seed": ' + b"1" * 5000 + b"}",
    "a key twice": GOOD[:-1] + b', "model": "tiny"}',
    "a key twice, inside": b'{"model": "bot", "messages": [{"role": "user", "role": "system", "content": ""}]}',
    "half a surrogate pair": b'{"model": "bot", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "half a surrogate pair in a key": GOOD[:-1] + b', "\\udfff": 1}',
    "a hundred levels": GOOD[:-1] + b', "tools": ' + b"[" * 100 + b"]" * 100 + b"}",
    "a hundred thousand levels": b"[" * 100_000,
    "a hundred thousand objects": b'{"a":' * 100_000,
    "single quotes": b"{'model': 'bot'}",
    "a comment": b"/* */" + GOOD,
    "multipart": b"--x\r\nContent-Disposition: form-data\r\n\r\n--x--",
}
FIELDS = {
    "no model": {"model": None},
    "an empty model": {"model": ""},
    "a model that is a number": {"model": 5},
    "a model that is a list": {"model": ["bot"]},
    "a model that is an object": {"model": {"id": "bot"}},
    "a long model": {"model": "b" * 1_000_000},
    "no messages": {"messages": None},
    "messages that are empty": {"messages": []},
    "messages that are a text": {"messages": "hello"},
    "messages that are texts": {"messages": ["hello"]},
    "a message without a role": {"messages": [{"content": "hello"}]},
    "a message with a role that is none": {"messages": [{"role": 1, "content": "hello"}]},
    "a stream that is a text": {"stream": "yes"},
    "a stream that is a number": {"stream": 1},
    "stream options that are a list": {"stream": True, "stream_options": []},
    "no answers": {"n": 0},
    "a negative number of answers": {"n": -1},
    "a million answers": {"n": 1_000_000},
    "half an answer": {"n": 1.5},
    "true answers": {"n": True},
    "a text of answers": {"n": "1"},
    "a million to choose from": {"best_of": 1_000_000},
    "a negative length": {"max_tokens": -5},
    "a length beyond 64 bits": {"max_tokens": 2**64},
    "a length that is a text": {"max_tokens": "5"},
    "a length that is no whole number": {"max_completion_tokens": 5.5},
    "another's request id": {"request_id": "chatcmpl-0"},
    "a priority": {"priority": -100},
    "somebody else's cache": {"kv_transfer_params": {"remote_host": "10.0.0.1"}},
    "engine arguments": {"vllm_xargs": {"a": 1}},
    "a pickle": {"prompt_embeds": "gASVAAAA"},
}
PROMPTS = [None, 5, {}, [], True]
NAMES = {
    "parent folders": "../../etc/passwd",
    "parent folders in the middle": "bot/../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a path of Windows": "..\\..\\windows",
    "a file URI": "file:///etc/passwd",
    "a web URI": "http://169.254.169.254/latest/meta-data",
    "a bucket": "s3://bucket/key",
    "a new line": "bot\n",
    "a header": "bot\r\nx-llamafarm-model: tiny",
    "a null byte": "bot\0",
    "a null byte in the version": "bot:1.0.0\0",
    "a space": "bot ",
    "another slash": "bot/",
    "full-width letters": "\N{FULLWIDTH LATIN SMALL LETTER B}ot",
    "a right-to-left mark": "bot\N{RIGHT-TO-LEFT OVERRIDE}",
    "a template": "{{7*7}}",
    "a percent escape": "%2e%2e%2fbot",
    "a version that is none": "bot:latest",
    "a version of many digits": "bot:" + "9" * 200 + ".0.0",
    "an alias that is none": "bot@",
    "two aliases": "bot@production@staging",
    "an empty digest of another": "bot:1.0.0#000000000000",
    "a digest and more": f"{BOT}/../x",
    "two digests": f"{BOT}{BOT}",
    "another case": "BOT",
    "a variant": f"{BOT};candidate;bot@production#1;",
    "a variant that is none": f"{BOT};winner;bot@production#1",
    "half a decision": f"{BOT};candidate",
    "a shadow that is none": f"{BOT};baseline;r;../x",
    "too much of a decision": f"{BOT};baseline;r;{BOT};x",
    "the base and more": "tiny/../tiny",
}
