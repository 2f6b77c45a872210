"""Models from models: download, convert, quantize, merge and combine."""
