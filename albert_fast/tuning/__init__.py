"""Tuning on a card: check every op, time its candidates, choose the fastest correct one, and cache the choice.

`choose` tunes the problems of a model's step, `cache` stores the choices, and `doctor` reports everything.
"""
