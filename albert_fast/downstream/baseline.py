"""A bag-of-words baseline: the accuracy that a fine-tuned model has to beat."""

import re
from collections.abc import Sequence

from albert_fast.downstream.examples import Example
from albert_fast.options import UserError


def word_count_accuracy(train: Sequence[Example], dev: Sequence[Example]) -> float:
    """Accuracy on `dev` of logistic regression over tf-idf of words or, for CJK text, of character 1- and 2-grams.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise UserError("--baseline needs scikit-learn: pip install scikit-learn") from None
    texts, dev_texts = ([_text(example) for example in examples] for examples in (train, dev))
    cjk_characters = sum(len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", text)) for text in texts)
    by_characters = cjk_characters > 0.2 * sum(map(len, texts))
    kind = {"analyzer": "char", "ngram_range": (1, 2)} if by_characters else {"token_pattern": r"(?u)\S+"}
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, **kind), LogisticRegression(C=3, max_iter=1000))
    model.fit(texts, [example.label for example in train])
    return float(model.score(dev_texts, [example.label for example in dev]))


def _text(example: Example) -> str:
    return example.text_a if example.text_b is None else f"{example.text_a}\n{example.text_b}"
