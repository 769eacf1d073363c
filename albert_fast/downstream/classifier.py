"""ALBERT that sorts sentences, or pairs of them, into classes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.downstream.columns import Columns
from albert_fast.downstream.texts import EncodedTexts, encode_texts, mean_vectors
from albert_fast.model import Albert
from albert_fast.modules import Linear, initialize
from albert_fast.ops import Ops, dropout_site
from albert_fast.options import UserError, check_choice
from albert_fast.packed import Packed
from albert_fast.pretrained import PretrainedModel

SETTINGS = "finetune.json"  # the flags of the run that made a classifier, beside it
Text = str | tuple[str, str | None] | list[str]


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of one text, and the probability of each."""

    label: str
    probabilities: dict[str, float]


class AlbertForSequenceClassification(PretrainedModel):
    """ALBERT with a classifier over the pooled vector; the config's id2label names the classes.

    The pooler reads the first token's vector or, where classifier_pooling of the config is mean, the mean of all.
    Dropout of classifier_dropout_prob (the config's; 0 where it has none) follows it, in training only.
    """

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__(config, ops)
        self.albert = Albert(config, self.ops)
        names = config.extra.get("id2label") or {}
        if not names:
            raise UserError(
                "this is no classifier, for its config names no classes; make one with `albert-fast finetune`"
            )
        if len(names) < 2 or set(names) != {str(i) for i in range(len(names))}:
            raise UserError(f"id2label={names} of the config does not name two or more classes from 0")
        self.class_names = [str(names[str(i)]) for i in range(len(names))]
        self.pooling = str(config.extra.get("classifier_pooling") or "first")
        check_choice("classifier_pooling", self.pooling, ("first", "mean"))
        self.dropout = float(config.extra.get("classifier_dropout_prob") or 0.0)
        self.classifier = Linear(config.hidden_size, len(names), self.ops)
        self.tokenizer: Tokenizer | None = None
        # Of fine-tuning, where from_pretrained finds them:
        self.max_seq_length = config.max_position_embeddings
        self.columns: Columns | None = None
        initialize(self, config.initializer_range)

    @classmethod
    def from_pretrained(cls, directory: str | Path, ops: str | Ops = "torch", **overrides: Any) -> Any:
        """The classifier saved in `directory`, with its tokenizer, so that `predict` takes text."""
        model = super().from_pretrained(directory, ops, **overrides)
        model.tokenizer = load_tokenizer(directory)
        if (Path(directory) / SETTINGS).is_file():
            settings = read_settings(Path(directory))
            model.max_seq_length = settings["max_seq_length"]
            model.columns = Columns(**settings["columns"]) if "columns" in settings else None
        return model

    @property
    def reads_pairs(self) -> bool | None:
        """Whether it learnt from pairs of texts rather than single ones; None where its folder does not say."""
        return None if self.columns is None else self.columns.text_b is not None

    def forward(self, batch: Packed) -> Tensor:
        """Logits [B, classes] of a packed batch."""
        if self.pooling == "mean":
            vectors = mean_vectors(self.albert(batch), batch.cu_seqlens)  # [B, H]
        else:
            vectors = self.albert(batch, batch.first_tokens())
        pooled = self.albert.pool(vectors)
        site = dropout_site("classifier", self.config.num_hidden_layers * self.config.inner_group_num)
        return self.classifier(self.ops.dropout(pooled, *batch.dropout(self.dropout, site)))

    @torch.no_grad()
    def logits(self, texts: EncodedTexts, batch_size: int = 64) -> Tensor:
        """Logits [texts, classes], fp32 on the CPU."""
        device = next(self.parameters()).device
        parts = [self(texts.batch(rows, device)).float() for rows in texts.in_order(batch_size)]
        return torch.cat(parts).cpu()

    def predict(
        self, texts: Sequence[Text], batch_size: int = 64, max_seq_length: int | None = None
    ) -> list[Prediction]:
        """The class of each text.

        Args:
            texts: sentences, or pairs of them.
            max_seq_length: tokens of the longest sequence, specials included; longer ones are cut (None: as in
                fine-tuning).
        """
        if self.tokenizer is None:
            raise UserError("this classifier has no tokenizer; load it with from_pretrained, or set `tokenizer`")
        if isinstance(texts, str):
            raise UserError("predict takes a list of texts; put the one text into a list")
        for text in texts:
            pair = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text)
            if not pair and not isinstance(text, str):
                raise UserError(f"predict takes texts and pairs of texts, not {text!r:.200}")
        pairs = [(text, None) if isinstance(text, str) else (text[0], text[1]) for text in texts]
        if not pairs:
            return []
        length = max_seq_length or self.max_seq_length
        probabilities = self.logits(encode_texts(self.tokenizer, pairs, length, self.config), batch_size).softmax(-1)
        return [
            Prediction(self.class_names[int(row.argmax())], dict(zip(self.class_names, row.tolist(), strict=True)))
            for row in probabilities
        ]


def read_settings(directory: Path) -> dict[str, Any]:
    """The flags of the run that made the classifier in `directory`."""
    file = directory / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not settings["max_seq_length"] >= 1:
            raise ValueError("max_seq_length is not 1 or more")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged ({error}); fine-tune again, or remove it") from None
    return settings
