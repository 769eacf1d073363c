"""Downstream use of a pretrained model: fine-tuning, evaluation, mask filling and text embeddings."""
