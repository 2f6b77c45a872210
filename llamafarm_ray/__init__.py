"""llamafarm_ray: from a folder of documents to a fine-tuned adapter that answers over HTTP, on Ray."""

__version__ = "0.1.0"
