"""Compares a converted model, layer by layer, with recorded outputs of the original model."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError


def check_recorded(model: AlbertForPreTraining, file: Path, tolerance: float | None = None) -> None:
    """Print the maximum absolute difference of each recorded array; UserError if one exceeds `tolerance`.

    `file` is an .npz with input_ids [B, S], input_mask or attention_mask, segment_ids or token_type_ids, optionally
    masked_lm_positions [B, P], and any of the outputs that `compute` returns. Padding positions are ignored.
    """
    recorded = _load(file)
    tolerance = tolerance if tolerance is not None else {"postln": 1e-5, "preln": 5e-5}[model.config.ln_type]
    try:
        computed = compute(model, recorded)
    except (IndexError, TypeError, RuntimeError) as error:  # ids out of range, strings, mismatched shapes
        raise UserError(f"{file}: the model cannot process the recorded inputs ({error}); record them again") from None
    rows: list[tuple[str, float]] = []
    for name, actual in computed.items():
        key, _, layer = name.partition(" layer ")
        if key in recorded:
            if layer and len(recorded[key]) != model.config.num_hidden_layers:
                layers = f"{len(recorded[key])} layers, but the model has {model.config.num_hidden_layers}"
                raise UserError(f"{file}: {key} has {layers}; record the outputs of this model")
            expected = torch.from_numpy(recorded[key][int(layer) - 1] if layer else recorded[key])
            real = (
                torch.from_numpy(_mask(recorded)) if actual.dim() == 3 else None
            )  # only hidden states are [B, S, ...]
            rows.append((name, _difference(file, name, actual, expected, real)))
    if not rows:
        names = dict.fromkeys(name.partition(" ")[0] for name in computed)
        raise UserError(f"{file} has no outputs to compare; record any of {', '.join(names)}")
    table = Table("output", "maximum difference", f"within {tolerance:g}", title=escape(f"against {file}"))
    for name, difference in rows:
        table.add_row(name, f"{difference:.2e}", "yes" if difference <= tolerance else "[red]NO")
    Console(width=None).print(table)
    if wrong := [name for name, difference in rows if not difference <= tolerance]:
        worst = max(difference for _, difference in rows)
        raise UserError(
            f"{file}: {', '.join(wrong)} differ by up to {worst:.2e}, more than {tolerance:g}; not converted"
        )


@torch.no_grad()
def compute(model: AlbertForPreTraining, recorded: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The model's outputs for the recorded inputs, by the names used in recordings; fp32, [B, S, ...] zero-padded."""
    ids, mask = (torch.from_numpy(recorded["input_ids"]).long(), torch.from_numpy(_mask(recorded)))
    types = recorded.get("segment_ids", recorded.get("token_type_ids"))
    positions = recorded.get("masked_lm_positions")
    normed: list[Tensor] = []
    embeddings = model.albert.embeddings
    if model.config.layout == "google":  # LayerNorm feeds the projection; in zh it is the output
        assert embeddings.projection is not None
        hook = embeddings.projection.register_forward_pre_hook(lambda _, inputs: normed.append(inputs[0]))
    else:
        hook = embeddings.register_forward_hook(lambda *arguments: normed.append(arguments[2]))
    output = model(
        ids,
        mask.long(),
        None if types is None else torch.from_numpy(types).long(),
        None if positions is None else torch.from_numpy(positions).long(),
        output_hidden_states=True,
    )
    hook.remove()
    embedded = normed[0].new_zeros(*ids.shape, normed[0].shape[-1])
    embedded[mask] = normed[0]
    mlm_logits = output.prediction_logits.flatten(0, 1)
    states = output.hidden_states
    result = {"embedding_output": embedded, "encoder_input": states[0]}
    result |= {f"all_encoder_layers layer {i}": state for i, state in enumerate(states[1:], 1)}
    result |= {
        "sequence_output": output.last_hidden_state,
        "pooled_output": output.pooler_output,
        "mlm_logits": mlm_logits,
        "mlm_log_probs": mlm_logits.log_softmax(-1),
        "sop_logits": output.sop_logits,
        "sop_log_probs": output.sop_logits.log_softmax(-1),
    }
    if {"masked_lm_ids", "masked_lm_weights", "next_sentence_labels"} <= recorded.keys():
        labels = torch.from_numpy(recorded["masked_lm_ids"]).long().flatten()
        weights = torch.from_numpy(recorded["masked_lm_weights"]).flatten()
        order = torch.from_numpy(recorded["next_sentence_labels"]).long()
        result["mlm_example_loss"] = -result["mlm_log_probs"].gather(1, labels[:, None])[:, 0]
        # run_pretraining.py of both projects divides by the weights' sum plus 1e-5
        result["mlm_loss"] = (weights * result["mlm_example_loss"]).sum() / (weights.sum() + 1e-5)
        result["sop_example_loss"] = -result["sop_log_probs"].gather(1, order[:, None])[:, 0]
        result["sop_loss"] = result["sop_example_loss"].mean()
        result["total_loss"] = result["mlm_loss"] + result["sop_loss"]
    return result


def _load(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            recorded = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy and zipfile raise many exception types
        raise UserError(f"{file}: {error}; give an .npz file of recorded outputs") from None
    if "input_ids" not in recorded:
        raise UserError(f"{file} has no input_ids, only {', '.join(recorded)}; record the inputs too")
    return recorded


def _mask(recorded: dict[str, np.ndarray]) -> np.ndarray:
    mask = recorded.get("input_mask", recorded.get("attention_mask"))
    return np.ones_like(recorded["input_ids"], bool) if mask is None else mask.astype(bool)


def _difference(file: Path, name: str, actual: Tensor, expected: Tensor, real: Tensor | None) -> float:
    if actual.shape != expected.shape:
        raise UserError(f"{file}: {name} has shape {list(expected.shape)}, but the model returns {list(actual.shape)}")
    difference = (actual.double() - expected.double()).abs()
    return (difference if real is None else difference[real]).max().item()
