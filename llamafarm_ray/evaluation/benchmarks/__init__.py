"""Public benchmarks by lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness), an extra."""
