"""Fine-tune a base model, and estimate a run."""
