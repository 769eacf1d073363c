"""First contact with a card: check every op there, time its candidates there, take the fastest right one, remember it.

`choose` does that for the problems of a model's step, `cache` remembers, `doctor` shows all of it.
"""
