"""Loads tokenizers from a vocab.txt, a tokenizer.json, a SentencePiece model, or a folder with one of these."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from albert_fast.data.sentencepiece import is_sentencepiece, sentencepiece_tokenizer
from albert_fast.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from albert_fast.data.vocab_txt import read_vocab_txt
from albert_fast.options import UserError, note


def find_vocabulary(folder: Path) -> Path | None:
    """The vocabulary file in a folder: tokenizer.json, vocab.txt, or its only SentencePiece model."""
    for pattern in ("tokenizer.json", "vocab.txt", "spiece.model", "*.model", "vocab*.txt"):
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            raise UserError(f"vocabulary {folder}: which is meant, {' or '.join(path.name for path in found[:5])}?")
        if found:
            return found[0]
    return None


def load_tokenizer(path: str | Path, lowercase: bool | None = None, strip_accents: bool | None = None) -> Tokenizer:
    """Load a vocab.txt, a tokenizer.json, a SentencePiece model, or a folder with one of these.

    Args:
        lowercase, strip_accents: for vocab.txt and SentencePiece, preprocessing of the text. None: as in a
            tokenizer_config.json next to the file; without one, lowercase, and strip accents if lowercasing
            (SentencePiece: always). A tokenizer.json defines its own preprocessing.
    """
    path = Path(path)
    if path.is_dir():
        file = find_vocabulary(path)
        if file is None:
            raise UserError(f"vocabulary {path}: the folder has no tokenizer.json, vocab.txt or .model")
        path = file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"vocabulary {path}: {error.strerror}; give a vocab.txt or a tokenizer.json") from None
    try:
        if path.suffix == ".json":
            if lowercase is not None or strip_accents is not None:
                raise UserError("a tokenizer.json defines its own preprocessing; omit --lowercase")
            return Tokenizer(_from_json(_decoded(content)))
        rules = _text_rules(path.parent, lowercase, strip_accents)
        if path.suffix == ".model" or is_sentencepiece(content):
            return Tokenizer(sentencepiece_tokenizer(content, rules.lowercase, rules.strip_accents is not False))
        tokens, remarks = read_vocab_txt(_decoded(content))
        tokenizer = wordpiece_tokenizer(tokens, *rules)
    except UserError as error:
        raise UserError(f"vocabulary {path}: {error}") from None
    if remarks:
        note(f"vocabulary {path}: {'; '.join(remarks)}; ids are kept as published")
    return tokenizer


def wordpiece_tokenizer(
    tokens: Sequence[str], lowercase: bool = True, strip_accents: bool | None = None, split_ideographs: bool = True
) -> Tokenizer:
    """BERT's WordPiece with `tokens` in id order, "" for ids without a token (Devlin et al., tokenization.py).

    Args:
        strip_accents: None: if the text is lowercased.
        split_ideographs: make every CJK ideograph a word.
    """
    vocabulary = {token: index for index, token in enumerate(tokens) if token}
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(f"it lacks {' '.join(missing)}; pretraining needs {' '.join(SPECIAL_TOKENS)}")
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=split_ideographs,
        strip_accents=lowercase if strip_accents is None else strip_accents,
        lowercase=lowercase,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return Tokenizer(backend)


class _TextRules(NamedTuple):
    """Text preprocessing, with the field names of HuggingFace's tokenizer_config.json."""

    lowercase: bool = True
    strip_accents: bool | None = None
    split_ideographs: bool = True


def _text_rules(folder: Path, lowercase: bool | None, strip_accents: bool | None) -> _TextRules:
    file = folder / "tokenizer_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except (FileNotFoundError, NotADirectoryError):
        config = {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file.name} next to it cannot be read ({error}); fix or remove it") from None
    for name in ("do_lower_case", "strip_accents", "keep_accents", "tokenize_chinese_chars"):
        if not isinstance(config.get(name), bool | None):
            raise UserError(f"{file.name} beside it: {name}={config[name]!r} must be true or false")
    if strip_accents is None:
        strip_accents = config.get("strip_accents")
        if strip_accents is None and config.get("keep_accents"):
            strip_accents = False
    if lowercase is None:
        lowercase = bool(config.get("do_lower_case", True))
    return _TextRules(lowercase, strip_accents, bool(config.get("tokenize_chinese_chars", True)))


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"offset {error.start} is not UTF-8; save the file as UTF-8") from None


def _from_json(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"not a tokenizer of HuggingFace tokenizers ({error})") from None
