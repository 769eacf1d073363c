"""Other projects' weights in (TensorFlow, HuggingFace, albert_pytorch), HuggingFace's format out."""
