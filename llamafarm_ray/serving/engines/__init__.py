"""Engines beside vLLM, behind the same gate: what answers where vLLM can't.

``base`` says what an engine is, ``app`` gives any of them OpenAI's routes (``requests``, ``responses``,
``detokenizer``). ``transformers`` serves adapters of every type that peft knows, ``onnx`` models in that format,
``custom`` a class that users write; these are models in this process (``in_process``; ``causal`` is how they write),
whose answers a ``worker`` thread computes in turn. ``gguf`` has processes of llama.cpp's (``llama_server``,
``llama_process``) write answers (``llama_answer``). ``choice`` says which engine serves what, ``replica`` puts one on
Ray Serve.
"""
