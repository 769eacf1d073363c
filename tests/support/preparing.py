"""Small corpora, runs of prepare on them, and the content of a prepared folder."""

import random

from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.shards import read_documents
from albert_fast.data.tokenizer import SPECIAL_TOKENS

CHARACTERS = "abcdefgh我们在北京大学习自然语言处理"
VOCABULARY = [*SPECIAL_TOKENS, *CHARACTERS, *(f"##{c}" for c in "abcdefgh"), "ab", "##cd", ",", "。"]


def corpus(seed, documents=60, newline="\n"):
    """Text of many documents, with repeated empty lines, trailing spaces and some long lines."""
    rng = random.Random(seed)
    blocks = []
    for _ in range(documents):
        words = [["".join(rng.choices(CHARACTERS, k=rng.randint(1, 6))) for _ in range(rng.choice((1, 5, 20)))]
                 for _ in range(rng.choice((1, 3, 9)))]  # fmt: skip
        blocks.append("".join(" ".join(sentence) + rng.choice(("", " ")) + newline for sentence in words))
        blocks.append(rng.choice((newline, f" {newline}", newline * 3)))
    return "".join(blocks).encode()


def run(inputs, output, vocabulary, **options):
    defaults = {"vocab": vocabulary, "workers": 1, "shard_tokens": 700}
    return prepare(PrepareOptions(input=tuple(map(str, inputs)), output=str(output), **{**defaults, **options}))


def write(path, content):
    path.write_bytes(content)
    return path


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def documents(folder):
    return [[sentence.ids.tolist() for sentence in document] for document in read_documents(folder)]
