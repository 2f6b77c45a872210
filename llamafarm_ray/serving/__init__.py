"""Adapters of one base model behind an OpenAI-compatible endpoint: Ray Serve, HAProxy and vLLM.

``application`` builds the Serve application, ``gate`` guards and names every request, ``adapters`` loads,
``resolution`` says which version a request means, ``ray_llm`` is the only module that touches Ray's private parts and
vLLM.
"""
