"""The protobuf wire format: its published examples, and invalid bytes."""

import pytest

from albert_fast.protobuf import message_fields, varint


@pytest.mark.parametrize(("data", "value"), [(b"\x01", 1), (b"\x96\x01", 150), (b"\xff" * 9 + b"\x01", 2**64 - 1)])
def test_varints(data: bytes, value: int) -> None:
    assert varint(b"?" + data + b"?", 1) == (value, 1 + len(data))


def test_fields_of_every_wire_type_come_in_order() -> None:
    message = b"\x08\x96\x01" + b"\x12\x07testing" + b"\x1d\x01\x02\x00\x00" + b"\x21" + bytes(7) + b"\x80"
    assert list(message_fields(message)) == [(1, 150), (2, b"testing"), (3, 0x201), (4, 0x80 << 56)]
    assert list(message_fields(b"")) == []


@pytest.mark.parametrize("message", [b"\x12\x07test", b"\x0b", b"\x08\x96", b"\x08" + b"\xff" * 11, b"\x1d\x01"])
def test_invalid_messages_are_refused(message: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        list(message_fields(message))
