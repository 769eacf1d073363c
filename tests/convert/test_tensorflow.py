"""TensorFlow checkpoints reproduce recorded outputs; mismatched variables are named, slots and averages skipped."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import google_variables, write_google
from support.conversions import CASES, SHARE_TYPES, fixture, google, run

from albert_fast.config import AlbertConfig
from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.convert.compare import compute
from albert_fast.options import UserError
from albert_fast.pretrained import read_weights

WORDS = "albert.embeddings.word_embeddings.weight"


def weights(checkpoint: Path, output: Path, **options: bool) -> dict[str, torch.Tensor]:
    convert(ConvertOptions(checkpoint=str(checkpoint), output=str(output), **options))
    return read_weights(output)


@pytest.mark.parametrize("suffix", ["BERTAdam", "Momentum", "adam/m", "lamb_v", "adam_m_1"])
def test_slots_of_any_optimizer(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variables = google_variables()
    slots = {f"{name}/{suffix}": np.zeros_like(value) for name, value in variables.items()}
    scalars = {"global_step": np.array(7), "loss_scale": np.array(1.0, np.float32)}
    prefix = write_google(tmp_path / "theirs", variables | slots | scalars)
    ours = weights(prefix, tmp_path / "ours")
    assert torch.equal(ours[WORDS], torch.from_numpy(variables["bert/embeddings/word_embeddings"]))
    said = capsys.readouterr().out
    assert f"skipped slots and averages: {suffix} of {len(variables)} variables" in said
    assert "skipped global_step, loss_scale (not weights)" in said


def test_adafactor_slots_have_other_shapes(tmp_path: Path) -> None:
    variables = google_variables()
    slots = {f"{name}/{slot}": np.zeros(3, np.float32) for name in variables for slot in ("vr", "vc")}
    weights(write_google(tmp_path / "theirs", variables | slots), tmp_path / "ours")
    mesh = {f"{name}_slot_{slot}": np.zeros(3, np.float32) for name in variables for slot in ("vr", "vc")}
    weights(write_google(tmp_path / "mesh", variables | mesh), tmp_path / "mesh-ours")
    other = {"bert/embeddings/word_embeddings/more": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match="unused bert/embeddings/word_embeddings/more"):
        weights(write_google(tmp_path / "theirs", variables | other), tmp_path / "other")


def test_moving_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variables = google_variables()
    averages = {f"{name}/ExponentialMovingAverage": value + 1 for name, value in variables.items()}
    prefix = write_google(tmp_path / "theirs", variables | averages)
    plain, averaged = weights(prefix, tmp_path / "plain"), weights(prefix, tmp_path / "averaged", use_averages=True)
    assert f"used the ExponentialMovingAverage of {len(variables)} of {len(variables)}" in capsys.readouterr().out
    for name in plain:
        torch.testing.assert_close(averaged[name], plain[name] + 1)
    alone = weights(write_google(tmp_path / "alone", averages), tmp_path / "alone-ours")
    assert all(torch.equal(alone[name], averaged[name]) for name in plain)
    with pytest.raises(UserError, match="contains no ExponentialMovingAverage"):
        weights(write_google(tmp_path / "none", variables), tmp_path / "refused", use_averages=True)


def test_a_scope_around_the_variables(tmp_path: Path) -> None:
    variables = {f"module/{name}": value for name, value in google_variables().items()}
    ours = weights(write_google(tmp_path / "theirs", variables), tmp_path / "ours")
    assert torch.equal(ours[WORDS], torch.from_numpy(variables["module/bert/embeddings/word_embeddings"]))


def test_a_tf_hub_module(tmp_path: Path) -> None:
    variables = google_variables()
    write_google(tmp_path / "hub", variables)
    hub = tmp_path / "hub"
    for folder, names in (("variables", ["index", "data-00000-of-00001"]), ("assets", [])):
        (hub / folder).mkdir()
        for name in names:
            (hub / f"model.ckpt.{name}").rename(hub / folder / f"variables.{name}")
    (hub / "albert_config.json").rename(hub / "assets" / "albert_config.json")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    (hub / "assets" / "vocab.txt").write_text("\n".join(tokens))
    (hub / "saved_model.pb").write_bytes(b"")
    ours = weights(hub, tmp_path / "ours")
    assert torch.equal(ours[WORDS], torch.from_numpy(variables["bert/embeddings/word_embeddings"]))
    assert (tmp_path / "ours" / "vocab.txt").read_text().split() == tokens
    shutil.rmtree(hub / "assets")
    with pytest.raises(UserError, match="which config"):
        weights(hub, tmp_path / "refused")


def test_a_plain_bert_is_named(tmp_path: Path) -> None:
    """Google's BERT has the same layer names as an unshared model of albert_zh."""
    variables = google_variables(layout="zh", share_type="None", embedding_size=16)
    variables["bert/embeddings/word_embeddings_2"] = np.eye(16, dtype=np.float32)
    weights(write_google(tmp_path / "zh", variables, embedding_size=16), tmp_path / "ours")
    del variables["bert/embeddings/word_embeddings_2"]
    with pytest.raises(UserError, match="is a plain BERT, not an ALBERT"):
        weights(write_google(tmp_path / "bert", variables, embedding_size=128), tmp_path / "refused")


@pytest.mark.parametrize("layout", ["google", "zh"])
def test_relu_of_googles_chinese_models(layout: str, tmp_path: Path) -> None:
    """gelu is the tanh approximation in TensorFlow's code; relu is relu."""
    for act, expected in (("relu", "relu"), ("gelu", "gelu_new")):
        prefix = write_google(tmp_path / act, google_variables(layout=layout), hidden_act=act)
        weights(prefix, tmp_path / f"{act}-ours")
        config = AlbertConfig.from_pretrained(tmp_path / f"{act}-ours")
        assert (config.hidden_act, config.layout) == (expected, layout)


@pytest.mark.parametrize("share_type", [None, *SHARE_TYPES])
@pytest.mark.parametrize("case", CASES)
def test_tensorflow_outputs(case: str, share_type: str | None, tmp_path: Path) -> None:
    prefix, config, outputs = fixture(case)
    model = run(prefix, tmp_path / "out", config=str(config), share_type=share_type, check=str(outputs))
    assert model.config.share_type == (share_type or "all")
    assert model.config.hidden_act == "gelu_new"
    recorded = dict(np.load(outputs))
    real = torch.from_numpy(recorded["input_mask"]).bool()
    atol = 5e-5 if "preln" in case else 1e-5
    computed = compute(model, recorded)
    for i, expected in enumerate(recorded["all_encoder_layers"], 1):
        actual = computed[f"all_encoder_layers layer {i}"]
        torch.testing.assert_close(actual[real], torch.from_numpy(expected)[real], atol=atol, rtol=0)
    for name in recorded.keys() & computed.keys() - {"embedding_output", "encoder_input", "sequence_output"}:
        torch.testing.assert_close(computed[name], torch.from_numpy(recorded[name]), atol=atol, rtol=0)


def test_every_missing_variable_is_named(tmp_path: Path, recorded_variables: dict[str, np.ndarray]) -> None:
    del recorded_variables["global_step"]
    for name in recorded_variables:
        rest = {other: value for other, value in recorded_variables.items() if other != name}
        with pytest.raises(UserError) as error:
            run(google(tmp_path, rest), tmp_path / "out")
        scope = name.replace("_1/beta", "").replace("_1/gamma", "").replace("LayerNorm", "")
        assert name in str(error.value) or scope in str(error.value)
        assert not (tmp_path / "out").exists()


def test_unknown_variables_are_named(tmp_path: Path, recorded_variables: dict[str, np.ndarray]) -> None:
    recorded_variables |= {"output_weights": np.zeros((2, 64), np.float32), "foreign/adam_m": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"unused foreign/adam_m, output_weights"):
        run(google(tmp_path, recorded_variables), tmp_path / "out")


def test_wrong_shapes_are_named(tmp_path: Path, recorded_variables: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"bert/embeddings/word_embeddings \[103, 24\] instead of \[104, 24\]"):
        run(google(tmp_path, recorded_variables, vocab_size=104), tmp_path / "out")


def test_layer_norms_of_later_tensorflow(tmp_path: Path, recorded_variables: dict[str, np.ndarray]) -> None:
    """layer_normalization, layer_normalization_1, ... numbered across the graph instead of LayerNorm, LayerNorm_1."""
    scope = "bert/encoder/transformer/group_0/inner_group_0"
    numbers = {
        "bert/embeddings/LayerNorm": "",
        f"{scope}/LayerNorm": "_9",
        f"{scope}/LayerNorm_1": "_10",
        "cls/predictions/transform/LayerNorm": "_11",
    }

    def rename(name: str) -> str:
        parent, _, leaf = name.rpartition("/")
        return f"{parent.rpartition('/')[0]}/layer_normalization{numbers[parent]}/{leaf}" if parent in numbers else name

    renamed = {rename(name): value for name, value in recorded_variables.items()}
    assert len([name for name in renamed if "layer_normalization" in name]) == 8
    run(google(tmp_path, renamed), tmp_path / "out", check=str(fixture("google")[2]))
