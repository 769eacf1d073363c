"""Known column names are in lower case and unambiguous."""

from albert_fast.downstream.column_names import KNOWN, LABELS, OTHERS, PAIRS, SINGLES


def test_known_names_are_in_lower_case() -> None:
    assert all(name == name.lower().strip() for name in KNOWN)


def test_no_name_means_two_things() -> None:
    texts = {*SINGLES, *(name for pair in PAIRS for name in pair)}
    assert not texts & {*LABELS, *OTHERS}
    assert not {*LABELS} & {*OTHERS}
