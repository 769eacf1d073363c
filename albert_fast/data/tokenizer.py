"""Text to token ids and back, with HuggingFace's tokenizers library; load_tokenizer.py loads it from files."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, processors

from albert_fast.data.encode import EncodedLines, Segmenter, encode_cached, encode_pieces, encode_wordpiece
from albert_fast.data.sentencepiece import MARKER, take_penalties, without_comma
from albert_fast.data.wordpiece import IDEOGRAPH, WordPieceCache
from albert_fast.files import write_file
from albert_fast.options import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Names of these tokens in published tokenizer.json files, in the order of SPECIAL_TOKENS.
_SPECIAL_NAMES = (("[PAD]", "<pad>"), ("[UNK]", "<unk>"), ("[CLS]", "<s>", "<cls>"), ("[SEP]", "</s>", "<sep>"))
_MASK_NAMES = ("[MASK]", "<mask>")
_UNUSED = re.compile(r"\[unused\d+\]")


class Tokenizer:
    """A HuggingFace tokenizer with the properties that pretraining needs.

    Attributes:
        tokens: vocabulary in id order, "" for ids without a token; `vocab_size` is its length.
        pad_id, unk_id, cls_id, sep_id, mask_id: special ids (unk_id = pad_id if there is no unknown token).
        is_wordpiece: whether pieces inside a word begin with "##".
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.no_padding()
        backend.no_truncation()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.tokens = [""] * (max(vocabulary.values(), default=-1) + 1)
        for token, index in vocabulary.items():
            self.tokens[index] = token
        self.is_wordpiece = isinstance(backend.model, models.WordPiece)
        self.special_names: list[str | None] = []
        for names in (*_SPECIAL_NAMES, _MASK_NAMES):
            found = next((name for name in names if name in vocabulary), None)
            if found is None and names[0] != "[UNK]":
                raise UserError(f"the vocabulary has no {names[0]}; pretraining needs {' '.join(SPECIAL_TOKENS)}")
            self.special_names.append(found)
        pad, unk, cls, sep, mask = self.special_names
        self.pad_id, self.cls_id, self.sep_id, self.mask_id = (vocabulary[str(name)] for name in (pad, cls, sep, mask))
        self.unk_id = vocabulary[unk] if unk is not None else self.pad_id
        if backend.post_processor is None:
            backend.post_processor = processors.TemplateProcessing(
                single=f"{cls} $A {sep}",
                pair=f"{cls} $A {sep} $B:1 {sep}:1",
                special_tokens=[(str(cls), self.cls_id), (str(sep), self.sep_id)],
            )
        backend.add_special_tokens([str(name) for name in self.special_names if name is not None])
        self.backend = backend

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The five special tokens of pretraining, and all added tokens that the tokenizer marks as special."""
        added = self.backend.get_added_tokens_decoder()
        five = {self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}
        return frozenset(five | {index for index, token in added.items() if token.special})

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over the tokens in id order, each followed by a newline; 32 bytes."""
        return hashlib.sha256("".join(f"{token}\n" for token in self.tokens).encode("utf-8")).digest()

    @cached_property
    def is_ordinary(self) -> np.ndarray:
        """bool [vocab_size]: may serve as random replacement (not special, not [unusedN], not a gap)."""
        ordinary = [bool(token) and not _UNUSED.fullmatch(token) for token in self.tokens]
        return np.array([keep and i not in self.special_ids for i, keep in enumerate(ordinary)])

    @cached_property
    def begins_word(self) -> np.ndarray:
        """bool [vocab_size]: begins a word, judged by the token alone: no ##, or with SentencePiece's word marker."""
        if not self.is_wordpiece and self.carries_marker.any():
            return self.carries_marker
        return np.array([not token.startswith("##") for token in self.tokens])

    @property
    def is_lowercase(self) -> bool | None:
        """Whether BERT's normalizer lowercases the text; None for other normalizers."""
        normalizer = self.backend.normalizer
        return normalizer.lowercase if isinstance(normalizer, normalizers.BertNormalizer) else None

    @property
    def text_backend(self) -> tokenizers.Tokenizer:
        """The same tokenizer for plain text, where "[MASK]" is six characters and not the mask token."""
        return self._for_text[0]

    @property
    def taken_apart(self) -> dict[int, list[int]]:
        """Ids of `text_backend` to be replaced by several others (the last rule in albert_fast.data.sentencepiece)."""
        return self._for_text[1]

    @cached_property
    def _for_text(self) -> tuple[tokenizers.Tokenizer, dict[int, list[int]]]:
        state = json.loads(self.backend.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in self.special_ids]
        state["post_processor"] = None  # it may refer to the removed tokens, and is not needed here
        pieces = take_penalties(state)
        backend = tokenizers.Tokenizer.from_str(json.dumps(state))
        return backend, {self.tokens.index(piece): without_comma(backend, piece, self.unk_id) for piece in pieces}

    @cached_property
    def _cache(self) -> WordPieceCache | None:
        return WordPieceCache(self.text_backend) if WordPieceCache.supported(self.text_backend) else None

    def encode_lines(self, lines: Sequence[str], segment: Segmenter | None = None) -> EncodedLines:
        """Tokenize lines of running text, without special tokens.

        Args:
            segment: for WordPiece, splits a line into all its words; ideographs inside a word then do not begin one.
        """
        if self._cache is not None and (encoded := encode_cached(self, self._cache, lines, segment)) is not None:
            return encoded
        return encode_wordpiece(self, lines, segment) if self.is_wordpiece else encode_pieces(self, lines)

    @cached_property
    def carries_marker(self) -> np.ndarray:
        """bool [vocab_size]: begins with SentencePiece's word marker (pre-tokenizers may not split there)."""
        return np.array([token.startswith(MARKER) for token in self.tokens])

    @cached_property
    def is_ideograph(self) -> np.ndarray:
        """bool [vocab_size]: a single CJK ideograph (in the blocks that BERT's normalizer surrounds with spaces)."""
        return np.array([len(token) == 1 and bool(IDEOGRAPH.match(token)) for token in self.tokens])

    def encode(self, text: str) -> list[int]:
        """Ids of a plain text, without special tokens."""
        return self.encode_lines([text]).ids.tolist()

    def encode_pair(self, text_a: str, text_b: str | None, max_seq_length: int) -> tuple[list[int], list[int]]:
        """Encode plain texts and `join` them."""
        return self.join(self.encode(text_a), None if text_b is None else self.encode(text_b), max_seq_length)

    def join(self, a: list[int], b: list[int] | None, max_seq_length: int) -> tuple[list[int], list[int]]:
        """[CLS] A [SEP] or [CLS] A [SEP] B [SEP]; the longer of the two is truncated until the result fits.

        Returns:
            input_ids and token_type_ids (0 up to the first [SEP], 1 after it), lists of at most max_seq_length.
        """
        second = b or []
        specials = 2 if b is None else 3
        if max_seq_length < specials:
            raise UserError(
                f"max_seq_length={max_seq_length} has no room for {specials} special tokens; use 16 or more"
            )
        room = max_seq_length - specials
        # Equivalent to removing one token at a time from the longer one (from B if equal).
        keep_a = max(room - len(second), (room + 1) // 2)
        keep_b = max(room - len(a), room // 2)
        if len(a) + len(second) > room:
            a, second = a[:keep_a], second[:keep_b]
        ids = [self.cls_id, *a, self.sep_id]
        types = [0] * len(ids)
        if b is not None:
            ids += [*second, self.sep_id]
            types += [1] * (len(second) + 1)
        return ids, types

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids, as far as normalisation is reversible."""
        return self.backend.decode(list(map(int, ids)), skip_special_tokens=skip_special_tokens)

    def files(self) -> dict[str, bytes]:
        """Contents of the files that `save` writes, by name; transformers' AutoTokenizer can load them."""
        pad, unk, cls, sep, mask = self.special_names
        names = {"pad_token": pad, "unk_token": unk, "cls_token": cls, "sep_token": sep, "mask_token": mask}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, **names}
        normalizer = self.backend.normalizer
        if isinstance(normalizer, normalizers.BertNormalizer):
            config["do_lower_case"] = normalizer.lowercase
            if normalizer.strip_accents not in (None, normalizer.lowercase):
                config["strip_accents"] = normalizer.strip_accents
            if not normalizer.handle_chinese_chars:
                config["tokenize_chinese_chars"] = False
        files = {
            "tokenizer.json": (self.backend.to_str(pretty=True) + "\n").encode("utf-8"),
            "tokenizer_config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8"),
        }
        if self.is_wordpiece:
            files["vocab.txt"] = "".join(f"{token}\n" for token in self.tokens).encode("utf-8")
        return files

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt into `directory`."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            write_file(Path(directory) / name, content)
