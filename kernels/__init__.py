"""Triton kernels, one op a file; imported as albert_fast.kernels."""
