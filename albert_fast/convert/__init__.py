"""Imports checkpoints from TensorFlow, HuggingFace and albert_pytorch; exports to HuggingFace's format."""
