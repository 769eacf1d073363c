"""Converts SentencePiece unigram models (30k-clean.model, spiece.model) to HuggingFace tokenizers, with ALBERT's rules.

The model file is a protocol buffer (sentencepiece_model.proto): pieces with log-probabilities, trainer settings, and a
character normalisation table. ALBERT also preprocesses text (google-research/albert, tokenization.py): quotes `` and ''
become ", accents are removed by NFKD, text is lowercased. And it postprocesses: a piece such as "9," is split into the
pieces of "9" and ",". tokenizer.json cannot express this, so HuggingFace's converter for AlbertTokenizer penalises such
pieces, which is nearly equivalent. We do the same; `take_penalties` finds these pieces again.
"""

import struct
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from albert_fast.options import UserError
from albert_fast.protobuf import message_fields

MARKER = "\u2581"  # prefix of pieces that begin a word
_PENALTY = 100.0  # for pieces that end in a digit and a comma
_NORMAL, _UNKNOWN = 1, 2  # types of pieces
_MODEL_TYPES = {2: "BPE", 3: "word", 4: "character"}


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


def is_sentencepiece(content: bytes) -> bool:
    """Whether a file looks like a SentencePiece model: it starts with pieces, each a text and a score."""
    return content[:1] == b"\n" and content[2:3] == b"\n" and b"\x15" in content[:256]


def sentencepiece_tokenizer(content: bytes, lowercase: bool = True, strip_accents: bool = True) -> tokenizers.Tokenizer:
    """Build the tokenizer from the bytes of a model file.

    Raises:
        UserError: not a SentencePiece model, or not a unigram model.
    """
    try:
        message = list(message_fields(content))
        pieces = [_piece(value) for number, value in message if number == 1 and isinstance(value, bytes)]
        trainer, normalizer = (
            {key: value for number, part in message if number == field for key, value in message_fields(part)}  # type: ignore[arg-type]
            for field in (2, 3)
        )
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise UserError(f"damaged, or not a SentencePiece model ({error})") from None
    kind = trainer.get(3, 1)
    if kind != 1:
        raise UserError(
            f"a SentencePiece model of type {_MODEL_TYPES.get(int(kind), kind)}; ALBERT's are unigram models"
        )
    unknown = next((index for index, piece in enumerate(pieces) if piece.kind == _UNKNOWN), None)
    if unknown is None:
        raise UserError("a SentencePiece model without a piece for unknown text; ALBERT's have <unk>")
    scores = [(piece.text, piece.score - (_PENALTY if _ends_number(piece.text) else 0)) for piece in pieces]
    backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=unknown, byte_fallback=bool(trainer.get(35, 0))))
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if strip_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    table = normalizer.get(2)
    if isinstance(table, bytes) and table:
        steps.append(normalizers.Precompiled(table))
    backend.normalizer = normalizers.Sequence(steps)
    metaspace = pre_tokenizers.Metaspace(replacement=MARKER, prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement=MARKER, prepend_scheme="always")
    return backend


def take_penalties(state: dict[str, Any]) -> list[str]:
    """Remove the penalty from penalised pieces in the content of a tokenizer.json; returns these pieces."""
    model = state["model"]
    if model["type"] != "Unigram":
        return []
    least = min(score for piece, score in model["vocab"] if not _ends_number(piece))
    found = [entry for entry in model["vocab"] if _ends_number(entry[0]) and entry[1] < least - _PENALTY / 2]
    for entry in found:
        entry[1] += _PENALTY
    return [piece for piece, _ in found]


def without_comma(backend: tokenizers.Tokenizer, piece: str, unk_id: int) -> list[int]:
    """Ids that replace a piece ending in a digit and a comma: those of the text before the comma, and the comma's."""
    parts = backend.encode(piece[:-1].replace(MARKER, ""), add_special_tokens=False).tokens
    if piece[0] != MARKER and parts[0][0] == MARKER:
        parts = [part for part in (parts[0][1:], *parts[1:]) if part]
    return [unk_id if (index := backend.token_to_id(part)) is None else index for part in (*parts, ",")]


def _piece(message: bytes) -> _Piece:
    fields = dict(message_fields(message))
    text, score = fields.get(1, b""), fields.get(2, 0)
    if not isinstance(text, bytes) or not isinstance(score, int):
        raise ValueError("a piece that is no text with a score")
    return _Piece(
        text.decode("utf-8"), struct.unpack("<f", score.to_bytes(4, "little"))[0], int(fields.get(3, _NORMAL))
    )


def _ends_number(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()
