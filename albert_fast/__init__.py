"""albert_fast: pretrain ALBERT fast and clearly.

Training on a prepared folder from Python (`albert-fast pretrain` adds checkpoints, schedules, evaluation and more):

    loader = PretrainingLoader("shards", tokens_per_batch=512, max_seq_length=128, seed=1)
    model = AlbertForPreTraining(AlbertConfig.from_preset("tiny", vocab_size=loader.corpus.vocab_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for batch in itertools.islice(loader, 10):
        model.losses(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albert_fast.config import AlbertConfig
    from albert_fast.data.batches import PretrainingLoader
    from albert_fast.data.load_tokenizer import load_tokenizer
    from albert_fast.downstream.classifier import AlbertForSequenceClassification
    from albert_fast.model import AlbertForPreTraining

__version__ = "0.1.0"
__all__ = [
    "AlbertConfig", "AlbertForPreTraining", "AlbertForSequenceClassification", "PretrainingLoader", "load_tokenizer",
]  # fmt: skip

_MODULES = {
    "AlbertConfig": "config",
    "AlbertForPreTraining": "model",
    "AlbertForSequenceClassification": "downstream.classifier",
    "PretrainingLoader": "data.batches",
    "load_tokenizer": "data.load_tokenizer",
}


if not TYPE_CHECKING:  # to a type checker, this function would make every unknown name valid

    def __getattr__(name: str) -> Any:
        """Import public names on first use (PEP 562), so that `import albert_fast` does not import torch."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
