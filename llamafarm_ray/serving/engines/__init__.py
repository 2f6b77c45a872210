"""Engines: vLLM, and those for models and adapters that vLLM can't serve.

``base`` is the protocol of an engine, ``app`` gives any of them OpenAI's routes (``requests``, ``responses``,
``detokenizer``), and ``choice`` selects one for a base model and its adapters. ``transformers`` serves adapters of
every peft type, ``onnx`` models in that format, ``custom`` a class that users write. These compute in this process
(``in_process``; ``causal`` generates text), and a ``worker`` thread interleaves their answers. ``gguf`` starts
llama.cpp's server, ``vllm`` holds everything that imports vLLM. ``speed_trial`` measures one engine in a process.
"""
