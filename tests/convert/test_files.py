"""Finding the checkpoint in a folder, and weights files that are damaged or contain other objects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.bundles import write_bundle
from support.checkpoints import huggingface_weights, write_huggingface
from support.conversions import fixture, google, huggingface, run

from albert_fast.options import UserError


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    config = str(fixture("google")[1])
    write_bundle(tmp_path / "resnet", {"conv1/kernel": np.zeros((3, 3), np.float32)})
    with pytest.raises(UserError, match=r"resnet.index is not an ALBERT .* conv1/kernel"):
        run(tmp_path / "resnet", tmp_path / "out", config=config)
    write_bundle(tmp_path / "keras", {"_CHECKPOINTABLE_OBJECT_GRAPH": ("string", (), b"x")})
    with pytest.raises(UserError, match="object checkpoint"):
        run(tmp_path / "keras", tmp_path / "out", config=config)
    with pytest.raises(UserError, match=r"nor .*absent.index exists"):
        run(tmp_path / "absent", tmp_path / "out", config=config)
    with pytest.raises(UserError, match="several checkpoints"):
        run(tmp_path, tmp_path / "out", config=config)
    with pytest.raises(UserError, match="which config"):
        run(tmp_path / "resnet", tmp_path / "out")


def test_the_newest_checkpoint_of_a_folder(tmp_path: Path, recorded_variables: dict[str, np.ndarray]) -> None:
    google(tmp_path, recorded_variables)
    write_bundle(tmp_path / "model.ckpt-5", {"x": np.zeros(1, np.float32)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "x"\n')
    run(tmp_path, tmp_path / "out")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path / "hf")
    whole = (tmp_path / "hf" / "model.safetensors").read_bytes()
    for size in [*range(0, len(whole), 1009), len(whole) - 1]:
        (tmp_path / "hf" / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            run(tmp_path / "hf", tmp_path / "ours")
    (tmp_path / "hf" / "model.safetensors").unlink()
    binary = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(theirs.state_dict(), binary)
    whole = binary.read_bytes()
    for size in [*range(0, len(whole), 2003), len(whole) - 1]:
        binary.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"pytorch_model\.bin is damaged") as error:
            run(tmp_path / "hf", tmp_path / "ours")
        assert "\n" not in str(error.value)
    torch.save({"lstm": {"weight": torch.zeros(3)}, "step": 3}, binary)
    with pytest.raises(UserError, match="not a state dict"):
        run(tmp_path / "hf", tmp_path / "ours")
    torch.save(theirs, binary)
    with pytest.raises(UserError, match=r"perhaps a whole model\); save model.state_dict\(\)"):
        run(tmp_path / "hf", tmp_path / "ours")
    binary.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 47\n")
    with pytest.raises(UserError, match="is a Git LFS pointer; fetch the file itself with git lfs pull"):
        run(tmp_path / "hf", tmp_path / "ours")


def test_deepspeed_optimizer_files_are_ignored(tmp_path: Path) -> None:
    weights = huggingface_weights()
    held = {"module": {f"module.{name}": tensor for name, tensor in weights.items()}, "ds_version": "0.14"}
    theirs = write_huggingface(tmp_path / "hf", held, "mp_rank_00_model_states.pt")
    torch.save({}, theirs / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert run(theirs, tmp_path / "ours").config.hidden_size == 16


def test_safetensors_of_another_model_are_refused(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf")
    save_file({"lstm.weight": torch.zeros(3)}, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(UserError, match=r"not a known ALBERT \(weights lstm.weight"):
        run(tmp_path / "hf", tmp_path / "ours")
