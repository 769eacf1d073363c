"""albert_fast: pretrain ALBERT fast and clearly."""

__version__ = "0.1.0"
