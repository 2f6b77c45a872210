"""Adapters of one base model behind an OpenAI-compatible endpoint: Ray Serve, HAProxy and vLLM.

``application`` builds the Serve application of ``vllm_replica`` and ``router``; these, ``ray_llm``, which imports vLLM,
and ``replicas`` touch Ray's private parts. ``affinity`` says which replica a version's requests go to, and
``affinity_router`` asks it for Ray Serve. ``adapters`` loads, ``resolution`` says which version a request means.
``gate`` stands before the engine: ``intake``
reads requests strictly, ``access`` says whose they are, ``limits`` what is left of a key's, ``turns`` whose turn it is,
``prompts`` how long a prompt is; ``exchange`` is what the engine gets and sends, ``usage`` what that cost, ``feedback``
keeps what users say. ``selection`` says which model is the best for a task, ``offers`` what is known of each,
``activity`` and ``measured`` how they do; ``auto`` chooses for a request. ``engines`` has what answers where vLLM
can't.
"""
