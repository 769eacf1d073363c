"""Text to shards to batches: `prepare` tokenizes the text once, and the C++ loader draws packed micro-batches from it.

Only `adapters` needs torch.
"""
