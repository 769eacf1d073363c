"""Halves of characters, and line ends that make one line of a text."""

import json

import pytest

from albert_fast.data.characters import check_line_ends, whole_characters
from albert_fast.options import UserError


def test_half_a_character_is_replaced_and_whole_ones_are_kept():
    assert whole_characters(json.loads(r'"a\ud83db\ud83d\ude00"')) == "a\ufffd\ufffd\ufffdb\U0001f600"


def test_carriage_returns_alone_are_no_line_ends():
    with pytest.raises(UserError, match="it has old Mac line ends"):
        check_line_ends("a\rb\r", "it")
    for text in ("a\r\nb\r\n", "a\nb", "a"):
        check_line_ends(text, "it")
