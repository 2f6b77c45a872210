"""vLLM: adapters, the engine process, and repairs. Only these modules import vLLM or Ray Serve LLM."""
