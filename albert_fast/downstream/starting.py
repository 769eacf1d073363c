"""Builds the initial classifier of a fine-tuning run and fills in the flags that depend on it."""

from dataclasses import replace

from albert_fast.config import AlbertConfig
from albert_fast.downstream.classifier import SETTINGS, AlbertForSequenceClassification
from albert_fast.downstream.defaults import choose_defaults, fill_in, first_token_spread, tokens_seen
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.downstream.texts import EncodedTexts
from albert_fast.options import note
from albert_fast.pretrained import checkpoint_folder, read_weights


def with_defaults(
    options: FinetuneOptions, model: AlbertForSequenceClassification, texts: EncodedTexts
) -> FinetuneOptions:
    """Fill in learning_rate, pooling and epochs if not given, and set the pooling of `model` accordingly."""
    folder = checkpoint_folder(options.model)
    own = model.config.extra.get("classifier_pooling") if (folder / SETTINGS).is_file() else None
    given = {
        "learning_rate": options.learning_rate,
        "pooling": options.pooling or own,  # a fine-tuned classifier keeps its pooling
        "epochs": options.epochs,
    }
    spread = first_token_spread(model, texts)
    given = fill_in(given, choose_defaults(model.config.hidden_size, spread, tokens_seen(folder)))
    model.pooling = model.config.extra["classifier_pooling"] = given["pooling"]
    return replace(options, **given)


def starting_model(options: FinetuneOptions, names: list[str], ops: str) -> AlbertForSequenceClassification:
    """The backbone of options.model with a classifier for `names`: its own if the classes are equal, else a new one."""
    folder = checkpoint_folder(options.model)
    weights, config = read_weights(folder), AlbertConfig.from_pretrained(folder)
    if config.attention_probs_dropout_prob > 0:
        note(
            f"setting the config's attention_probs_dropout_prob={config.attention_probs_dropout_prob} to 0: packed "
            "attention has no dropout; use --hidden_dropout_prob instead"
        )
    id2label = {str(i): name for i, name in enumerate(names)}
    keep_classifier = "classifier.weight" in weights and config.extra.get("id2label") == id2label
    dropout = config.hidden_dropout_prob if options.hidden_dropout_prob is None else options.hidden_dropout_prob
    config = config.replace(
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=dropout,
        extra={
            **config.extra,
            "architectures": ["AlbertForSequenceClassification"],
            "classifier_pooling": options.pooling or config.extra.get("classifier_pooling"),
            "classifier_dropout_prob": options.classifier_dropout_prob,
            "id2label": id2label,
            "label2id": {name: i for i, name in enumerate(names)},
        },
    )
    model = AlbertForSequenceClassification(config, ops)
    head = weights if keep_classifier else model.state_dict()
    parts = {"albert.": weights, "classifier.": head}
    model.load_weights(
        {name: held[name] for part, held in parts.items() for name in held if name.startswith(part)}, str(folder)
    )
    return model
