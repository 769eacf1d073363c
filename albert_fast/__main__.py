"""`python -m albert_fast` is `albert-fast`; torchrun starts it this way."""

from albert_fast.cli import main

main()
