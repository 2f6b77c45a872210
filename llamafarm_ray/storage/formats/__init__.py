"""Headers of model files, read and checked without the tensors."""
