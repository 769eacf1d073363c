"""ALBERT with a classification head for sentences and sentence pairs."""

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
from albert_fast.options import Options, UserError, check_choice, option
from albert_fast.packed import Packed
from albert_fast.pretrained import PretrainedModel

SETTINGS = "finetune.json"  # the flags of the fine-tuning run, saved beside its classifier
Text = str | tuple[str, str | None] | list[str]


@dataclass(frozen=True)
class Prediction:
    """The most likely class of one text, and the probability of every class."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Arguments of `predict`, validated like the flags of the same names."""

    batch_size: int = option(64, at_least=1)
    max_seq_length: int | None = option(None, at_least=3)


class AlbertForSequenceClassification(PretrainedModel):
    """ALBERT with a linear classifier over the pooler's output. The config's id2label names the classes.

    The pooler reads the first token's vector, or the mean over all tokens if the config has classifier_pooling=mean.
    In training, dropout with the config's classifier_dropout_prob (default 0) is applied to the pooler's output.
    """

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__(config, ops)
        self.albert = Albert(config, self.ops)
        names = config.extra.get("id2label") or {}
        if not names:
            raise UserError("not a classifier: its config names no classes; train one with `albert-fast finetune`")
        if len(names) < 2 or set(names) != {str(i) for i in range(len(names))}:
            raise UserError(f"id2label={names} must number two or more classes from 0; correct the config")
        self.class_names = [str(names[str(i)]) for i in range(len(names))]
        self.pooling = str(config.extra.get("classifier_pooling") or "first")
        check_choice("classifier_pooling", self.pooling, ("first", "mean"))
        self.dropout = float(config.extra.get("classifier_dropout_prob") or 0.0)
        self.classifier = Linear(config.hidden_size, len(names), self.ops)
        self.tokenizer: Tokenizer | None = None
        # from_pretrained sets these two from the fine-tuning run:
        self.max_seq_length = config.max_position_embeddings
        self.columns: Columns | None = None
        initialize(self, config.initializer_range)

    @classmethod
    def from_pretrained(cls, directory: str | Path, ops: str | Ops = "torch", **overrides: Any) -> Any:
        """Load the classifier saved in `directory` together with its tokenizer, which `predict` needs."""
        model = super().from_pretrained(directory, ops, **overrides)
        model.tokenizer = load_tokenizer(directory)
        if (Path(directory) / SETTINGS).is_file():
            settings = read_settings(Path(directory))
            model.max_seq_length = settings["max_seq_length"]
            model.columns = Columns(**settings["columns"]) if "columns" in settings else None
        return model

    @property
    def reads_pairs(self) -> bool | None:
        """Whether the classifier was trained on pairs rather than single texts; None if unknown."""
        return None if self.columns is None else self.columns.text_b is not None

    def forward(self, batch: Packed) -> Tensor:
        """Logits [B, classes] of a packed batch of B sequences."""
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
        PredictOptions(batch_size=batch_size)
        device = next(self.parameters()).device
        parts = [self(texts.batch(rows, device)).float() for rows in texts.in_order(batch_size)]
        return torch.cat(parts).cpu()

    def predict(
        self, texts: Sequence[Text], batch_size: int = 64, max_seq_length: int | None = None
    ) -> list[Prediction]:
        """Classify each text.

        Args:
            texts: sentences, or pairs of sentences.
            max_seq_length: longer sequences are truncated to this many tokens, special tokens included (None: as in
                fine-tuning).
        """
        PredictOptions(batch_size=batch_size, max_seq_length=max_seq_length)
        if self.tokenizer is None:
            raise UserError("this classifier has no tokenizer; load it with from_pretrained, or set `tokenizer`")
        if isinstance(texts, str):
            raise UserError("predict takes a list of texts, not a string; wrap the text in a list")
        for text in texts:
            pair = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text)
            if not pair and not isinstance(text, str):
                raise UserError(f"predict takes strings and pairs of strings, not {text!r:.200}; convert it first")
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
    """The flags of the fine-tuning run that wrote the classifier in `directory`."""
    file = directory / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not settings["max_seq_length"] >= 1:
            raise ValueError("max_seq_length must be 1 or more")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged ({error}); fine-tune again, or remove it") from None
    return settings
