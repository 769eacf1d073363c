"""A whole training step: HuggingFace eager and ours eager; on a GPU also HuggingFace compiled and ours captured."""

import pytest
import torch

from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.flops import step_flops
from albert_fast.measure.batch import full_batch
from albert_fast.model import AlbertForPreTraining
from albert_fast.step import TrainStep
from bench import harness, huggingface, machine
from bench.bench_pretrain import check_gradients

GPU_RUNS = [("base", 128, 1024), ("base", 128, 16384), ("base", 512, 16384), ("xlarge", 512, 16384)]
CPU_RUNS = [("tiny", 128, 256), ("tiny", 128, 1024), ("tiny", 128, 4096)]
IMPLEMENTATIONS = ("huggingface", "ours", *(("huggingface-compile", "captured") if harness.KIND == "cuda" else ()))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("preset", "length", "tokens"), GPU_RUNS if harness.KIND == "cuda" else CPU_RUNS)
def test_step(benchmark, preset, length, tokens, implementation):
    config = AlbertConfig.from_preset(preset, layout="google")
    batch = full_batch(config, tokens, length)
    torch.manual_seed(0)
    train = TrainConfig(
        optimizer="adamw", learning_rate=1e-4, warmup_steps=0, max_steps=10_000,
        capture="on" if implementation == "captured" else "off",
    )  # fmt: skip
    step = TrainStep(AlbertForPreTraining(config, "auto").to(harness.KIND), batch, length, train, harness.DTYPE)
    notes = {}
    if implementation.startswith("huggingface"):
        theirs = huggingface.build(config).to(harness.KIND)
        huggingface.copy_weights(theirs, step.model)
        autocast = harness.DTYPE if harness.KIND == "cuda" else None
        if implementation.endswith("compile"):
            theirs.forward = torch.compile(theirs.forward, dynamic=False)
        peer = huggingface.PeerStep(theirs, train, autocast)
        notes = check_gradients(step, peer, batch, harness.KIND)
        padded = huggingface.pad(batch, harness.KIND)

    def timed() -> None:
        if implementation.startswith("huggingface"):
            peer(padded)
        else:
            step([batch])
        machine.synchronize()

    benchmark.group = f"step {preset} S={length} T={tokens}"
    benchmark.pedantic(timed, rounds=10 if harness.KIND == "cuda" else 5, warmup_rounds=2)
    done = step_flops(config, tokens, length, len(batch.sentence_order_labels), len(batch.masked_lm_ids))
    harness.record(
        benchmark, op=f"step S={length}", direction="whole", implementation=implementation, preset=preset,
        tokens=tokens, moved=0, done=done, **notes,
    )  # fmt: skip
    if benchmark.stats is not None:
        benchmark.extra_info["tokens_per_second"] = tokens / benchmark.stats.stats.median
