"""Text to shards to batches: tokenized once by `prepare`, drawn as packed micro-batches by the C++ loader.

Nothing here needs torch but `adapters`.
"""
