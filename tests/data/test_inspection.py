"""inspect: what it prints is what the batches hold."""

import json
import re

import numpy as np
import pytest

from albert_fast.cli import main
from albert_fast.config import DataConfig
from albert_fast.data.batches import Batch, PretrainingLoader
from albert_fast.data.inspection import InspectOptions, batch_statistics, inspect, original_ids
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.options import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("inspect")
    blocks = (re.sub(r"\n\s*\n", "\n", text).strip() for text in topics.values())
    (path / "topics.txt").write_text("\n\n".join(blocks), encoding="utf-8")
    options = {"train_vocab": 2000, "workers": 1}
    prepare(PrepareOptions(input=(str(path / "topics.txt"),), output=str(path / "out"), **options))
    return str(path / "out")


FLAGS = ["--tokens_per_batch", "4096", "--max_seq_length", "128"]


def test_statistics_of_the_stream(folder, capsys):
    main(["inspect", folder, "--json", "--batches", "60", *FLAGS])
    found = json.loads(capsys.readouterr().out)
    assert found["batches"] == 60
    assert found["tokens"] > 0.99 * 60 * 4096
    assert found["mask_rate"] == pytest.approx(0.15, abs=0.005)
    assert found["replaced_by_mask"] == pytest.approx(0.8, abs=0.02)
    assert found["kept"] == pytest.approx(0.1, abs=0.02)
    assert found["replaced_by_random"] == pytest.approx(0.1, abs=0.02)
    assert found["label_1_rate"] == pytest.approx(0.5, abs=0.05)
    assert sum(found["masked_run_words"].values()) == pytest.approx(1, abs=1e-4)
    assert sum(found["closed_by"].values()) >= 60


def test_statistics_count_what_stands_in_a_batch(folder):
    """A batch made by hand: [CLS] t t t [SEP] t t [SEP], one masked, one kept, one at random; one slot unused."""
    tokenizer = load_tokenizer(folder)
    the, ing, other = (tokenizer.tokens.index(token) for token in ("the", "##ing", "statement"))
    ids = [tokenizer.cls_id, tokenizer.mask_id, ing, the, tokenizer.sep_id, other, the, tokenizer.sep_id, 0, 0]
    batch = Batch(
        input_ids=np.array(ids, np.int32),
        token_type_ids=np.array([0] * 5 + [1] * 3 + [0] * 2, np.int32),
        position_ids=np.array([*range(8), 0, 0], np.int32),
        cu_seqlens=np.array([0, 8, 10], np.int32),
        masked_lm_positions=np.array([1, 2, 5, 0], np.int32),
        masked_lm_ids=np.array([the, ing, the, 0], np.int32),
        masked_lm_weights=np.array([1, 1, 1, 0], np.float32),
        sentence_order_labels=np.array([1, 0], np.int32),
        sentence_order_weights=np.array([1, 0], np.float32),
        **dict.fromkeys(("index", "epoch"), 0),
        num_tokens=8,
        num_sequences=1,
        num_predictions=3,
    )
    assert original_ids(batch)[[1, 2, 5]].tolist() == [the, ing, the]
    found = batch_statistics([batch], tokenizer)
    assert (found["tokens"], found["unused_token_share"], found["unused_slot_share"]) == (8, 0.2, 0.25)
    assert (found["mask_rate"], found["mask_rate_of_maskable"]) == (0.375, 0.6)
    assert (found["replaced_by_mask"], found["kept"], found["replaced_by_random"]) == (0.33333, 0.33333, 0.33333)
    assert found["label_1_rate"] == 1.0
    assert found["masked_run_words"] == {"1": 1.0, "2": 0.0, "3": 0.0, "more": 0.0}  # "the ##ing" is one word


def test_examples_show_the_first_sequences(folder, capsys):
    main(["inspect", folder, "--examples", "2", "--batches", "1", *FLAGS])
    shown = capsys.readouterr().out
    tokenizer = load_tokenizer(folder)
    with PretrainingLoader(folder, tokens_per_batch=4096, max_seq_length=128, seed=42) as loader:
        batch = next(loader)
    lines = [line for line in shown.split("\n") if line.startswith("[CLS] ")]
    assert len(lines) == 2
    for index in range(2):
        begin, end = batch.cu_seqlens[index : index + 2]
        label = ("in order", "swapped")[batch.sentence_order_labels[index]]
        assert f"{end - begin} tokens" in shown
        assert label in shown
        first_segment = original_ids(batch)[begin:end][batch.token_type_ids[begin:end] == 0]
        assert f"A: {tokenizer.decode(first_segment.tolist())}\n" in shown
        original = [tokenizer.tokens[i] for i in original_ids(batch)[begin:end]]
        assert [part.split("→")[0] for part in lines[index].split()] == original
    assert "→[MASK]" in shown


def test_colours_are_there_on_a_terminal(folder, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    inspect(InspectOptions(data=folder, batches=1), DataConfig(tokens_per_batch=4096, max_seq_length=128))
    assert "\x1b[1;31m" in capsys.readouterr().out


def test_bad_options_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="batches=0"):
        inspect(InspectOptions(data=folder, batches=0), DataConfig())
    with pytest.raises(UserError, match="is not a prepared folder"):
        inspect(InspectOptions(data=str(tmp_path)), DataConfig())
