"""Checkpoints restore a step bitwise, and loosened sharing does not change the outputs."""

import pytest
import torch
from support.steps import eager, make_batch, make_step, same

from albert_fast import checkpoint, pretrained
from albert_fast.options import UserError

LOOSER = [("all", "ffn"), ("all", "attention"), ("all", "None"), ("ffn", "None"), ("attention", "None")]


def saved(step, tmp_path, batches: int):
    checkpoint.save(tmp_path, batches, step, {"cursor": {"index": batches}}, tmp_path, keep=3)
    return checkpoint.find(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_resuming_equals_never_having_stopped(tmp_path, dtype):
    whole = make_step(dtype)
    eager(whole, 3)
    found = saved(whole, tmp_path, 3)
    resumed = make_step(dtype)
    found.load_into(resumed)
    for step in (whole, resumed):
        step.read_metrics()
        step([make_batch(10)])
    assert same([t.clone() for t in whole.mutable_tensors()], [t.clone() for t in resumed.mutable_tensors()])


@pytest.mark.parametrize(("old", "new"), LOOSER)
@pytest.mark.parametrize("ln_type", ["postln", "preln"])
def test_loosened_sharing_keeps_the_outputs_and_divides_the_moments(tmp_path, old, new, ln_type):
    tight, loose = make_step(share_type=old, ln_type=ln_type), make_step(share_type=new, ln_type=ln_type)
    eager(tight, 3)
    saved(tight, tmp_path, 3).load_into(loose)
    assert tight.evaluate([make_batch(5)]) == loose.evaluate([make_batch(5)])
    before, after = tight.optimizer.state(), loose.optimizer.state()
    for part in ("attention", "feed_forward"):
        layers = {s: s in ("all", "ffn" if part == "feed_forward" else "attention") for s in (old, new)}
        uses = 3 if layers[old] and not layers[new] else 1
        for layer in range(3):
            source = 0 if layers[old] else layer
            target = 0 if layers[new] else layer
            for moment, divisor in (("exp_avg", uses), ("exp_avg_sq", uses**2)):
                name = f"{moment}.albert.encoder.{part}.{{}}.output.weight"
                assert torch.equal(after[name.format(target)], before[name.format(source)] / divisor)
    word = "exp_avg.albert.embeddings.word_embeddings.weight"
    assert torch.equal(before[word], after[word])


def test_tighter_sharing_is_refused(tmp_path):
    with pytest.raises(UserError, match="can only be loosened"):
        saved(make_step(share_type="None"), tmp_path, 0).load_into(make_step(share_type="all"))


def test_only_the_newest_are_kept_and_damaged_ones_skipped(tmp_path, capsys):
    step = make_step()
    for number in (1, 2, 3, 4):
        saved(step, tmp_path, number)
    assert (tmp_path / "last").read_text() == "checkpoint-4\n"
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    (tmp_path / "checkpoint-4" / "optimizer.safetensors").unlink()
    (tmp_path / "checkpoint-3" / "checkpoint.json").write_text("{")
    assert checkpoint.find(tmp_path).step == 2
    assert capsys.readouterr().err.count("is damaged") == 2


def test_damage_to_any_file_of_a_checkpoint_is_detected(tmp_path):
    saved(make_step(), tmp_path, 1)
    for file in sorted((tmp_path / "checkpoint-1").iterdir()):
        content = file.read_bytes()
        for at in (0, len(content) // 2, len(content) - 2):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            assert checkpoint.find(tmp_path) is None, (file.name, at)
        file.write_bytes(content)
    assert checkpoint.find(tmp_path).step == 1


def test_a_full_disk_leaves_no_partial_checkpoint(tmp_path, monkeypatch):
    step = make_step()
    saved(step, tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        saved(step, tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir() if "checkpoint" in p.name] == ["checkpoint-1"]
