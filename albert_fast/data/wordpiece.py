"""BERT's WordPiece on whole chunks: the same ids as HuggingFace's pipeline, several times as fast.

That pipeline handles characters independently up to the split into words, and then each word independently. So two
tables reproduce its ids: one from characters to text, filled by HuggingFace's own normalizer and pre-tokenizer, and one
from words to ids, filled by its model. A chunk then takes two passes in C and a gather. Text whose normalisation
depends on several characters (combining marks that are reordered) is left to HuggingFace.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

# The blocks whose characters BERT's normalizer surrounds with spaces.
IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf"
    "\U0002f800-\U0002fa1f]"
)
MAX_WORDS = 1 << 18
MAX_WORD_CHARACTERS = 64
_LINE_END = "\x00"  # free to use: the normalizer removes it from text


class WordPieceCache:
    """Encodes lines with `backend`, which must be `supported` and hold no added tokens."""

    def __init__(self, backend: tokenizers.Tokenizer):
        self._characters = _Characters(backend)
        self._words = _Words(backend.model)

    @staticmethod
    def supported(backend: tokenizers.Tokenizer) -> bool:
        normalizer = backend.normalizer
        return (
            isinstance(backend.model, models.WordPiece)
            and isinstance(normalizer, normalizers.BertNormalizer)
            and normalizer.clean_text
            and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
            and not backend.get_added_tokens_decoder()
        )

    def encode_lines(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, Counter[str]] | None:
        """Encode lines; None if HuggingFace's pipeline is needed.

        Returns ids int32 [T], lengths int64 [len(lines)] in tokens, indices int64 of the tokens that are a single
        ideograph (possibly unknown), and counts of unknown words.
        """
        text = "\n".join(lines)
        if not lines or text.count("\n") != len(lines) - 1:
            return None
        words = f"{text}\n".translate(self._characters).split()
        if self._characters.inseparable and not self._characters.inseparable.isdisjoint(text):
            return None
        table = self._words
        if len(table.begins) > MAX_WORDS:
            table.clear()
        index = np.fromiter(map(table.__getitem__, words), np.int64, len(words))
        begins, pieces = np.frombuffer(table.begins, np.int64), np.frombuffer(table.pieces, np.int32)
        counts = (begins[1:] - begins[:-1])[index]
        ends = np.cumsum(counts)
        ids = pieces[np.arange(ends[-1]) + np.repeat(begins[index] - ends + counts, counts)]
        is_ideograph = np.frombuffer(table.is_ideograph, np.bool_)[index]
        unknown: Counter[str] = Counter()
        if table.unknown:
            found = index[np.frombuffer(table.is_unknown, np.bool_)[index]]
            unknown.update(map(table.unknown.__getitem__, found.tolist()))
        return ids, np.diff(ends[index == 0], prepend=0), ends[is_ideograph] - 1, unknown


class _Characters(dict):
    """Table for str.translate: each character after normalisation, with blanks where the pre-tokenizer splits."""

    def __init__(self, backend: tokenizers.Tokenizer):
        super().__init__({ord("\n"): f" {_LINE_END} "})
        normalizer = backend.normalizer
        self._normalize, self._split = normalizer.normalize_str, backend.pre_tokenizer.pre_tokenize_str
        # Stripping accents decomposes the text, which reorders the remaining marks.
        self._sorts_marks = normalizer.lowercase if normalizer.strip_accents is None else normalizer.strip_accents
        self.inseparable: set[str] = set()

    def __missing__(self, code: int) -> str:
        pieces = (piece for piece, _ in self._split(f"a{self._normalize(chr(code))}a"))
        text = " ".join(pieces)[1:-1]
        if any((self._sorts_marks and unicodedata.combining(c)) or (c.isspace() and c != " ") for c in text):
            self.inseparable.add(chr(code))
        self[code] = text
        return text


class _Words(dict):
    """Maps a word to its index i; its ids are pieces[begins[i]:begins[i + 1]]. Word 0 is the end of a line."""

    def __init__(self, model: models.WordPiece):
        super().__init__()
        self._model = model
        self._unknown_piece = [model.token_to_id(model.unk_token)]
        self.clear()

    def clear(self) -> None:
        super().clear()
        self[_LINE_END] = 0
        self.begins, self.pieces = array("q", [0, 0]), array("i")
        self.is_ideograph, self.is_unknown = bytearray(1), bytearray(1)
        self.unknown: dict[int, str] = {}

    def __missing__(self, word: str) -> int:
        pieces = [token.id for token in self._model.tokenize(word)]
        index = len(self.begins) - 1
        self.pieces.extend(pieces)
        self.is_unknown.append(pieces == self._unknown_piece)
        if pieces == self._unknown_piece:
            self.unknown[index] = word[:MAX_WORD_CHARACTERS]
        self.begins.append(len(self.pieces))
        self.is_ideograph.append(len(word) == 1 and IDEOGRAPH.match(word) is not None)
        if len(word) <= MAX_WORD_CHARACTERS:
            self[word] = index
        return index
