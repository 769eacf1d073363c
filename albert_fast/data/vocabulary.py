"""A WordPiece vocabulary from text: the same tokens in the same order every time, on every machine."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import tokenizers
from tokenizers import models, trainers

from albert_fast.data.input_files import InputFile, file_bytes
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.data.text import Position, TextError, chunk_lines, locate, part_spans, read_chunks
from albert_fast.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from albert_fast.data.wordpiece import IDEOGRAPH
from albert_fast.options import UserError, note

SAMPLE_BYTES = 1 << 26
# Runs that WordPiece would call unknown whatever the vocabulary (over 100 characters of one word) are not counted.
# Hangul syllables, and kana that decompose into another and a mark.
_TAKEN_APART = re.compile(
    "[\uac00-\ud7a3がぎぐげござじずぜぞだぢづでどばぱびぴぶぷべぺぼぽゔガギグゲゴザジズゼゾダヂヅデドバパビピブプベペボポヴ]"
)
_LONG_WORD = re.compile(r"[^\W\u2e80-\u9fff]{101,}")


def train_vocabulary(
    files: Sequence[InputFile], size: int, *, lowercase: bool = True, strip_accents: bool | None = None,
    json_field: str | None = None,
) -> Tokenizer:  # fmt: skip
    """Train a WordPiece vocabulary of `size` tokens: the special ones, characters by frequency, then merges.

    Args:
        strip_accents: None: where the text is lowered, unless it is Japanese or Korean (`keeps_marks`).

    Text of over SAMPLE_BYTES is sampled evenly, which bounds memory and time. HuggingFace's trainer numbers the
    pieces inside words in the order of a randomly seeded hash map and breaks ties by these numbers; giving it all
    characters beforehand, in order, leaves nothing to chance.

    Raises:
        UserError: no text, or a size too small for the special tokens and some characters.
    """
    if size < len(SPECIAL_TOKENS) + 32:
        raise UserError(f"train_vocab={size} is too small for a vocabulary; use 1000 or more")
    note(f"making a vocabulary of {size} tokens from at most {SAMPLE_BYTES >> 20} MiB of the text")
    specials = list(SPECIAL_TOKENS)
    found: Counter[str] = Counter()
    for text in _sample(files, json_field):
        found.update(text)
    if strip_accents is None and lowercase and keeps_marks(found):
        strip_accents = False
        note("the text is Japanese or Korean, so marks are kept; --strip_accents would split Hangul and make か of が")
    backend = wordpiece_tokenizer(specials, lowercase, strip_accents).backend
    counts: Counter[str] = Counter()
    for character, count in found.items():
        for c in backend.normalizer.normalize_str(character):
            counts[c] += count
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    if not ranked:
        raise UserError(f"input {', '.join(file.path for file in files)} holds no text; give files with text")
    characters = [piece for c in ranked for piece in ([c, f"##{c}"] if _goes_on_words(c) else [c])]
    # Rare ideographs may leave no room for words: three quarters of the vocabulary at most, more if merges run out.
    alphabet = characters[: max(3 * size // 4 - len(specials), 0)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=specials + alphabet,
        limit_alphabet=1,  # HuggingFace's own choice among characters; those given are in already
        show_progress=False,
        continuing_subword_prefix="##",
    )
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trained.train_from_iterator(_sample(files, json_field), trainer)
    vocabulary = trained.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    tokens += [piece for piece in characters if piece not in vocabulary]
    if len(tokens) < size:
        note(f"the text gives a vocabulary of {len(tokens)} tokens, fewer than train_vocab={size}")
    return wordpiece_tokenizer(tokens[:size], lowercase, strip_accents)


def keeps_marks(characters: Counter[str]) -> bool:
    """Whether over a hundredth of the letters are Hangul or voiced kana, which stripping accents takes apart.

    It decomposes syllables into jamo and drops the marks of が and ぱ (google-research/bert issues 130 and 135).
    """
    letters = sum(count for c, count in characters.items() if c.isalpha())
    return sum(count for c, count in characters.items() if _TAKEN_APART.match(c)) > 0.01 * letters


def _goes_on_words(character: str) -> bool:
    """Whether a word can hold it after its first character: BERT makes words of ideographs and punctuation alone."""
    ascii_symbol = character.isascii() and not character.isalnum()
    return not (ascii_symbol or IDEOGRAPH.match(character) or unicodedata.category(character).startswith("P"))


def _sample(files: Sequence[InputFile], json_field: str | None) -> Iterator[str]:
    """The text of about SAMPLE_BYTES of chunks, evenly over the files."""
    keep = SAMPLE_BYTES / max(sum(file_bytes(file.path) for file in files), 1)
    spans = part_spans(files, 1, 1)
    if not spans:
        return
    taken = 0
    for index, chunk in enumerate(read_chunks(spans, Position(0, spans[0].start))):
        if (keep < 1 and int((index + 1) * keep) == int(index * keep)) or taken > 4 * SAMPLE_BYTES:
            continue
        try:
            text = "\n".join(chunk_lines(chunk, json_field))
        except TextError as error:
            file = spans[chunk.position.span].file
            raise locate(file, chunk.position.offset + error.offset, error.message) from None
        taken += len(chunk.data)
        yield _LONG_WORD.sub(" ", text)
