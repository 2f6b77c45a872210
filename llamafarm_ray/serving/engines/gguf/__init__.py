"""GGUF files served by llama.cpp: the engine, its server process, tokenizer and answers."""
