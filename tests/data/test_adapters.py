"""The stream for other trainers: the same micro-batches, and HuggingFace's ALBERT learns from them."""

import textwrap

import numpy as np
import pytest
import torch
from support.shard_writer import PAD, Document, random_documents, write_shard
from torch.utils.data import DataLoader

from albert_fast.data import adapters
from albert_fast.data.adapters import IGNORED, ExampleDataset, PackedDataset, PaddingCollator
from albert_fast.data.batches import PretrainingLoader
from albert_fast.options import UserError

SETTINGS = {"tokens_per_batch": 1024, "max_seq_length": 64, "seed": 3}


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "a.bin"
    write_shard(path, random_documents(1, 300), 500)
    return path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_packed_dataset_is_the_stream_for_any_number_of_workers(shard, num_workers):
    dataset = PackedDataset([shard], **SETTINGS, rank=1, world_size=2)
    with PretrainingLoader([shard], **SETTINGS, rank=1, world_size=2) as loader:
        for batch, tensors in zip(loader, DataLoader(dataset, batch_size=None, num_workers=num_workers), strict=False):
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(tensor.numpy(), getattr(batch, name))
            if batch.index > 20:
                break


def test_bad_settings_are_refused_at_once(shard):
    with pytest.raises(UserError, match="tokens_per_batch=5"):
        PackedDataset([shard], **(SETTINGS | {"tokens_per_batch": 5}))


def test_examples_hold_what_the_batch_holds(shard):
    with PretrainingLoader([shard], **SETTINGS) as loader:
        batch = next(loader)
    stream = iter(ExampleDataset([shard], **SETTINGS))
    examples = [next(stream) for _ in range(batch.num_sequences)]
    stream.close()
    assert sum((e["labels"] != IGNORED).sum() for e in examples) == batch.num_predictions
    padded = PaddingCollator(PAD)(examples)
    assert {tensor.dtype for tensor in padded.values()} == {torch.int64}
    for i in range(batch.num_sequences):
        begin, end = batch.cu_seqlens[i : i + 2]
        length = int(end - begin)
        assert padded["attention_mask"][i].tolist() == [1] * length + [0] * (len(padded["input_ids"][i]) - length)
        for name in ("input_ids", "token_type_ids"):
            np.testing.assert_array_equal(padded[name][i, :length], getattr(batch, name)[begin:end])
        assert (padded["input_ids"][i, length:] == PAD).all()
        assert (padded["labels"][i, length:] == IGNORED).all()
        slots = (batch.masked_lm_positions >= begin) & (batch.masked_lm_positions < end) & (batch.masked_lm_weights > 0)
        positions = batch.masked_lm_positions[slots] - begin
        np.testing.assert_array_equal(np.flatnonzero(padded["labels"][i] != IGNORED), positions)
        np.testing.assert_array_equal(padded["labels"][i][positions], batch.masked_lm_ids[slots])
    np.testing.assert_array_equal(padded["sentence_order_label"], batch.sentence_order_labels[: batch.num_sequences])


def test_without_sentence_order_there_is_no_label(shard):
    example = next(iter(ExampleDataset([shard], **SETTINGS, sentence_order=False)))
    assert set(example) == {"input_ids", "token_type_ids", "labels"}
    assert "sentence_order_label" not in PaddingCollator(PAD)([example])


@pytest.mark.slow
def test_huggingface_albert_learns_from_it(tmp_path):
    from transformers import AlbertConfig, AlbertForPreTraining

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    # A few ids make up most of the text, which is learnt in tens of steps.
    documents = [Document([6 + np.minimum(random.geometric(0.4, 9), 70) for _ in range(4)]) for _ in range(400)]
    write_shard(tmp_path / "a.bin", documents, 80)
    dataset = ExampleDataset([tmp_path / "a.bin"], max_seq_length=40, seed=1, tokens_per_batch=2000)
    shape = {"embedding_size": 32, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    model = AlbertForPreTraining(AlbertConfig(vocab_size=dataset.vocab_size, num_hidden_layers=2, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step, inputs in enumerate(DataLoader(dataset, batch_size=32, collate_fn=PaddingCollator(dataset.pad_token_id))):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == 40:
            break
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1.0, losses


def test_the_example_for_huggingfaces_trainer_runs_as_it_stands(shard, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    example = textwrap.dedent(adapters.__doc__.split("prepare`:\n")[1])
    small = {
        '"corpus/"': repr([str(shard)]),
        "max_steps=1000": "max_steps=3, report_to=[], use_cpu=True",
        "=64,": "=4,",
    }
    sizes = {"=312": "=24", "=12,": "=4,", "=1248": "=48", "=4,\n": "=1,\n"}
    for text, replacement in (small | sizes).items():
        assert text in example
        example = example.replace(text, replacement)
    exec(example.replace("Trainer(Albert", "result = Trainer(Albert"), scope := {})
    assert scope["result"].global_step == 3
    assert 0 < scope["result"].training_loss < 20
