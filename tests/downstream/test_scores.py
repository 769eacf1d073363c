"""Scores equal scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics

from albert_fast.downstream.scores import classification_scores


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_scores_equal_scikit_learn(num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    for case in range(40):
        labels, predictions = generator.integers(num_classes, size=(2, 1 + case))
        if case % 5 == 0:
            predictions[:] = predictions[0]
        scores = classification_scores(labels, predictions, num_classes)
        assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))
        assert scores["matthews"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predictions))
        average = {"average": "binary", "pos_label": 1} if num_classes == 2 else {"average": "macro"}
        expected = sklearn.metrics.f1_score(labels, predictions, zero_division=0, **average)
        assert scores["f1"] == pytest.approx(expected)


def test_large_counts_do_not_overflow() -> None:
    labels = np.repeat([0, 1], 3_000_000)
    predictions = labels.copy()
    predictions[::10] = 1 - predictions[::10]
    assert classification_scores(labels, predictions, 2)["matthews"] == pytest.approx(0.8)
