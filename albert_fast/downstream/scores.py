"""Accuracy, F1 and Matthews correlation of predicted classes, with the majority-class accuracy for comparison."""

import math
from collections.abc import Mapping

import numpy as np

from albert_fast.options import note


def classification_scores(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, float]:
    """Scores of int arrays [examples] with values from 0 to num_classes - 1.

    f1: for two classes the F1 of class 1, else the macro average over the classes that occur in either array.
    commonest_class: the frequency of the most frequent label, which is the accuracy of always predicting it.
    matthews: correlation of labels and predictions (Gorodkin 2004, R_K; for two classes Matthews 1975); 0 if either is
    constant.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)  # [label, prediction]
    np.add.at(confusion, (labels, predictions), 1)
    right, labelled, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    occurs = labelled + predicted > 0
    f1 = 2 * right / np.maximum(labelled + predicted, 1)
    total = int(confusion.sum())
    # Python integers, because products of counts can overflow 64 bits.
    counts, guesses = labelled.tolist(), predicted.tolist()
    covariance = int(right.sum()) * total - sum(c * g for c, g in zip(counts, guesses, strict=True))
    spread = (total**2 - sum(c * c for c in counts)) * (total**2 - sum(g * g for g in guesses))
    return {
        "accuracy": float(right.sum()) / max(total, 1),
        "commonest_class": float(labelled.max()) / max(total, 1),
        "f1": float(f1[1] if num_classes == 2 else f1[occurs].mean() if occurs.any() else 0.0),
        "matthews": covariance / math.sqrt(spread) if spread else 0.0,
    }


def warn_of_chance(scores: Mapping[str, float], data: str) -> None:
    """Print a note if the accuracy on `data` does not exceed that of always predicting the majority class."""
    if scores["accuracy"] <= scores["commonest_class"]:
        note(
            f"accuracy {scores['accuracy']:.4f} on {data} does not beat always predicting its majority class "
            f"({scores['commonest_class']:.4f}): nothing was learned. Try a model with more pretraining, --pooling "
            "mean, a higher --learning_rate, more --epochs or more examples"
        )
