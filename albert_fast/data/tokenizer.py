"""Text to token ids and back: vocab.txt, tokenizer.json or a new vocabulary, all through HuggingFace tokenizers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from albert_fast.data.wordpiece import IDEOGRAPH, WordPieceCache
from albert_fast.files import write_file
from albert_fast.options import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The names that published tokenizer.json files give them, in the order of SPECIAL_TOKENS.
_SPECIAL_NAMES = (("[PAD]", "<pad>"), ("[UNK]", "<unk>"), ("[CLS]", "<s>", "<cls>"), ("[SEP]", "</s>", "<sep>"))
_MASK_NAMES = ("[MASK]", "<mask>")
_UNUSED = re.compile(r"\[unused\d+\]")


class Tokenizer:
    """A HuggingFace tokenizer and what pretraining asks of it.

    Attributes:
        tokens: the vocabulary in id order, "" where an id has no token; `vocab_size` is its length.
        pad_id, unk_id, cls_id, sep_id, mask_id: the special ids (unk_id = pad_id where no unknown token exists).
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
        """The five of pretraining and every added token that the tokenizer itself calls special."""
        added = self.backend.get_added_tokens_decoder()
        five = {self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}
        return frozenset(five | {index for index, token in added.items() if token.special})

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over the tokens in id order, each followed by a newline; 32 bytes."""
        return hashlib.sha256("".join(f"{token}\n" for token in self.tokens).encode("utf-8")).digest()

    @cached_property
    def is_ordinary(self) -> np.ndarray:
        """bool [vocab_size]: may stand as a random replacement (not special, not [unusedN], not a gap)."""
        ordinary = [bool(token) and not _UNUSED.fullmatch(token) for token in self.tokens]
        return np.array([keep and i not in self.special_ids for i, keep in enumerate(ordinary)])

    @cached_property
    def begins_word(self) -> np.ndarray:
        """bool [vocab_size]: WordPiece's rule, a token that does not begin with ## begins a word."""
        return np.array([not token.startswith("##") for token in self.tokens])

    @property
    def is_lowercase(self) -> bool | None:
        """Whether BERT's normalizer lowers the text; None where the tokenizer has another one."""
        normalizer = self.backend.normalizer
        return normalizer.lowercase if isinstance(normalizer, normalizers.BertNormalizer) else None

    @cached_property
    def text_backend(self) -> tokenizers.Tokenizer:
        """The same tokenizer for running text: "[MASK]" in it is five characters, not the mask."""
        state = json.loads(self.backend.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in self.special_ids]
        state["post_processor"] = None  # it may name the tokens just dropped, and no text gets them here
        return tokenizers.Tokenizer.from_str(json.dumps(state))

    @cached_property
    def _cache(self) -> WordPieceCache | None:
        return WordPieceCache(self.text_backend) if WordPieceCache.supported(self.text_backend) else None

    def encode_lines(
        self, lines: Sequence[str], segment: Callable[[str], Iterable[str]] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokenize lines of running text, without special tokens.

        Args:
            segment: a line's words in order, none left out; an ideograph inside a word then does not begin one.

        Returns:
            ids int32 [T] of all lines in a row, word starts bool [T], and lengths int64 [len(lines)] in tokens.
        """
        if self._cache is not None and (encoded := self._cache.encode_lines(lines)) is not None:
            ids, lengths, ideographs = encoded
            starts = self.begins_word[ids]
            if segment is None:
                return ids, starts, lengths
            begins = _ideographs_begin(lines, segment)
            if len(begins) == len(ideographs):
                starts[ideographs] = begins | (ids[ideographs] == self.unk_id)
                return ids, starts, lengths
        # The fast form knows neither offsets nor words.
        fast = segment is None and self.is_wordpiece
        encode = self.text_backend.encode_batch_fast if fast else self.text_backend.encode_batch
        encodings = encode(lines, add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        total = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, total)
        if self.is_wordpiece:
            starts = self.begins_word[ids]
        else:
            # Only WordPiece is free of special tokens by construction: a unigram or BPE model may hold them as
            # pieces, and text that spells one is no special token.
            ids[np.isin(ids, list(self.special_ids - {self.unk_id}))] = self.unk_id
            words = chain.from_iterable((-1 if word is None else word for word in e.word_ids) for e in encodings)
            word = np.fromiter(words, np.int64, total)
            starts = np.ones(total, np.bool_)
            starts[1:] = (word[1:] != word[:-1]) | self._carries_marker[ids[1:]]
            starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        if segment is not None:
            inside = [
                begin not in edges
                for line, encoding in zip(lines, encodings, strict=True)
                for edges in [{0, *accumulate(map(len, segment(line)))}]
                for begin, _ in encoding.offsets
            ]
            starts &= ~(np.array(inside, np.bool_) & self._is_ideograph[ids])
        return ids, starts, lengths

    @cached_property
    def _carries_marker(self) -> np.ndarray:
        """bool [vocab_size]: the token begins with SentencePiece's word marker (pre-tokenizers may not split there)."""
        return np.array([token.startswith("\u2581") for token in self.tokens])

    @cached_property
    def _is_ideograph(self) -> np.ndarray:
        """bool [vocab_size]: one CJK ideograph (the blocks that BERT's normalizer spaces out)."""
        return np.array([len(token) == 1 and bool(IDEOGRAPH.match(token)) for token in self.tokens])

    def encode(self, text: str) -> list[int]:
        """The ids of one running text, without special tokens."""
        return self.encode_lines([text])[0].tolist()

    def encode_pair(self, text_a: str, text_b: str | None, max_seq_length: int) -> tuple[list[int], list[int]]:
        """`join` of the ids of running texts."""
        return self.join(self.encode(text_a), None if text_b is None else self.encode(text_b), max_seq_length)

    def join(self, a: list[int], b: list[int] | None, max_seq_length: int) -> tuple[list[int], list[int]]:
        """[CLS] A [SEP] or [CLS] A [SEP] B [SEP] of token ids, the longer of the two cut until all fits.

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
        # As cutting one token at a time from the longer (B where both are as long) does.
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
        """The text of ids, as far as normalisation lets it come back."""
        return self.backend.decode(list(map(int, ids)), skip_special_tokens=skip_special_tokens)

    def files(self) -> dict[str, bytes]:
        """The content of every file that `save` writes, by name: what transformers' AutoTokenizer loads."""
        pad, unk, cls, sep, mask = self.special_names
        names = {"pad_token": pad, "unk_token": unk, "cls_token": cls, "sep_token": sep, "mask_token": mask}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, **names}
        if self.is_lowercase is not None:
            config["do_lower_case"] = self.is_lowercase
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


def _ideographs_begin(lines: Sequence[str], segment: Callable[[str], Iterable[str]]) -> np.ndarray:
    """For every ideograph of the lines in order, whether it begins a word of `segment`: bool."""
    text = "\n".join(lines)
    lengths = np.fromiter(chain.from_iterable((*map(len, segment(line)), 1) for line in lines), np.int64)
    begins = np.zeros(len(text) + 1, np.bool_)
    begins[np.cumsum(lengths) - lengths] = True
    return begins[[match.start() for match in IDEOGRAPH.finditer(text)]]


def load_tokenizer(path: str | Path, lowercase: bool | None = None) -> Tokenizer:
    """Load a vocab.txt, a tokenizer.json, or a folder that holds one.

    Args:
        lowercase: for vocab.txt, whether to lower the text and strip accents (None: yes, unless a
            tokenizer_config.json beside it says no). A tokenizer.json says for itself.
    """
    path = Path(path)
    if path.is_dir():
        file = next((path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).exists()), None)
        if file is None:
            raise UserError(f"vocabulary {path}: the folder holds neither tokenizer.json nor vocab.txt")
        path = file
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"vocabulary {path}: {error.strerror}; give a vocab.txt or a tokenizer.json") from None
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {path}: offset {error.start} is not UTF-8; save the file as UTF-8") from None
    try:
        if path.suffix != ".json":
            return wordpiece_tokenizer(_read_vocabulary(text), _default_lowercase(path, lowercase))
        if lowercase is not None:
            raise UserError("a tokenizer.json says itself whether it lowers the text; leave --lowercase out")
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"not a tokenizer of HuggingFace tokenizers ({error})") from None
        return Tokenizer(backend)
    except UserError as error:
        raise UserError(f"vocabulary {path}: {error}") from None


def wordpiece_tokenizer(tokens: Sequence[str], lowercase: bool = True) -> Tokenizer:
    """BERT's WordPiece over `tokens` in id order; `lowercase` also strips accents (Devlin et al., tokenization.py)."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(f"it lacks {' '.join(missing)}; pretraining needs {' '.join(SPECIAL_TOKENS)}")
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return Tokenizer(backend)


def _read_vocabulary(text: str) -> list[str]:
    """One token a line. Only \\n ends a line: U+2028 is a token of the Chinese vocabulary."""
    lines = text.removesuffix("\n").split("\n")
    tokens = [line.removesuffix("\r") for line in lines]
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        if not token:
            raise UserError(f"line {number} is empty; a vocabulary has one token a line")
        if seen.setdefault(token, number) != number:
            raise UserError(f"line {number} repeats {token!r} of line {seen[token]}; a token has one id")
    return tokens


def _default_lowercase(path: Path, lowercase: bool | None) -> bool:
    if lowercase is not None:
        return lowercase
    try:
        config = json.loads((path.parent / "tokenizer_config.json").read_text(encoding="utf-8"))
        return bool(config.get("do_lower_case", True))
    except (OSError, ValueError, AttributeError):
        return True
