"""The subset of the protobuf wire format used by TensorFlow checkpoints and SentencePiece models."""

from collections.abc import Iterator


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The variable-length integer at `position` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a varint of more than 10 bytes")


def message_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message as (number, value) in order; fixed-size values are returned as integers.

    Raises:
        ValueError, IndexError: the bytes are not a valid message.
    """
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = varint(message, position)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, position = varint(message, position)
        if length is None or position + length > len(message):
            raise ValueError(f"field {number} of wire type {kind} at byte {position}")
        piece = message[position : position + length]
        yield number, piece if kind == 2 else int.from_bytes(piece, "little")
        position += length
