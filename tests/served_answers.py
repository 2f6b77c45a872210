"""Texts of the served models, as tests compare them."""

PROMPT = "The capital of France"


def whole_letters(text):
    """Without the bytes of a letter cut off at the end, which vLLM holds back and transformers shows."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def said(response):
    return whole_letters(response.json()["choices"][0]["text"])
