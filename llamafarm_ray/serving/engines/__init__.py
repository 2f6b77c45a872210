"""Engines beside vLLM, behind the same gate: what answers where vLLM can't.

``base`` says what an engine is, ``app`` gives any of them OpenAI's routes (``requests``, ``responses``,
``detokenizer``). ``transformers`` serves adapters of every type that peft knows, ``custom`` a class that users write;
both are models in this process (``in_process``), whose answers a ``worker`` thread computes in turn. ``choice`` says
which engine serves what, ``replica`` puts one on Ray Serve.
"""
