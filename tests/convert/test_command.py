"""Weights of the four projects become ours and compute what they did; what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.bundles import write_bundle
from torch import Tensor, nn

from albert_fast.cli import main
from albert_fast.config import AlbertConfig
from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.convert.compare import compute
from albert_fast.convert.tensor_bundle import TensorBundle
from albert_fast.data.tokenizer import wordpiece_tokenizer
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
CASES = {
    "zh-postln": ("tf_zh", "albert_config.json", "outputs.npz"),
    "zh-preln": ("tf_zh", "albert_config_preln.json", "outputs_preln.npz"),
    "google": ("tf_google", "albert_config.json", "outputs.npz"),
}
SHARE_TYPES = ["all", "ffn", "attention", "None"]
SIZES = {"vocab_size": 50, "embedding_size": 8, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def fixture(name: str) -> tuple[Path, Path, Path]:
    """(prefix, config, outputs) of a checkpoint that the original TensorFlow code wrote and evaluated."""
    folder, config, outputs = CASES[name]
    if not FIXTURES.is_dir():
        pytest.skip(f"{FIXTURES} is not there: this test compares with TensorFlow's recorded outputs")
    return FIXTURES / folder / "albert_model.ckpt", FIXTURES / folder / config, FIXTURES / folder / outputs


def run(checkpoint: Path, output: Path, **options: Any) -> AlbertForPreTraining:
    """Converts into `output` and loads what was written."""
    convert(ConvertOptions(checkpoint=str(checkpoint), output=str(output), **options))
    return AlbertForPreTraining.from_pretrained(output).eval()


def inputs(vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, attention_mask, token_type_ids [3, 11], of lengths 11, 4 and 7."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(vocab_size, (3, 11), generator=generator)
    mask = (torch.arange(11) < torch.tensor([[11], [4], [7]])).long()
    return ids * mask, mask, torch.randint(2, (3, 11), generator=generator) * mask


# ------------------------------------------------------------------------------------------------------- TensorFlow


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


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, config, outputs = fixture("google")
    flags = ["convert", str(prefix), "--config", str(config), "--check", str(outputs), "--share-type", "ffn"]
    main([*flags, "--output", str(tmp_path / "out")])
    assert "all_encoder_layers layer 4" in capsys.readouterr().out
    assert AlbertForPreTraining.from_pretrained(tmp_path / "out").config.share_type == "ffn"
    with pytest.raises(SystemExit) as stop:
        main([*flags, "--output", str(tmp_path / "other"), "--tolerance", "1e-9"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_the_check_sees_a_wrong_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, _, outputs = fixture("zh-postln")
    wrong = tmp_path / "config.json"
    wrong.write_text(fixture("zh-postln")[1].read_text().replace("postln", "preln"))
    with pytest.raises(UserError, match=r"all_encoder_layers layer 1.* differ by up to .* more than 5e-05"):
        run(prefix, tmp_path / "out", config=str(wrong), check=str(outputs))
    assert "embedding_output" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_skipped_variables_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, config, _ = fixture("google")
    run(prefix, tmp_path / "out", config=str(config))
    said = capsys.readouterr().out
    assert "skipped global_step" in said
    assert "skipped slots and averages: adam_m of 32 variables, adam_v of 32 variables" in said


@pytest.fixture
def google_variables() -> dict[str, np.ndarray]:
    bundle = TensorBundle(fixture("google")[0])
    return {name: bundle.read(name) for name in bundle.entries if not name.endswith(("adam_m", "adam_v"))}


def google(tmp_path: Path, variables: dict[str, np.ndarray], **config: int) -> Path:
    """A checkpoint of `variables` with the fixture's config, changed; its prefix."""
    write_bundle(tmp_path / "model.ckpt", variables)
    stated = json.loads(fixture("google")[1].read_text())
    (tmp_path / "albert_config.json").write_text(json.dumps(stated | config))
    return tmp_path / "model.ckpt"


def test_every_missing_variable_is_named(tmp_path: Path, google_variables: dict[str, np.ndarray]) -> None:
    del google_variables["global_step"]
    for name in google_variables:
        rest = {other: value for other, value in google_variables.items() if other != name}
        with pytest.raises(UserError) as error:
            run(google(tmp_path, rest), tmp_path / "out")
        scope = name.replace("_1/beta", "").replace("_1/gamma", "").replace("LayerNorm", "")
        assert name in str(error.value) or scope in str(error.value)
        assert not (tmp_path / "out").exists()


def test_unknown_variables_are_named(tmp_path: Path, google_variables: dict[str, np.ndarray]) -> None:
    google_variables |= {"output_weights": np.zeros((2, 64), np.float32), "foreign/adam_m": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"unused, foreign/adam_m, output_weights"):
        run(google(tmp_path, google_variables), tmp_path / "out")


def test_wrong_shapes_are_named(tmp_path: Path, google_variables: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"bert/embeddings/word_embeddings \[103, 24\], by the config \[104, 24\]"):
        run(google(tmp_path, google_variables, vocab_size=104), tmp_path / "out")


def test_layer_norms_of_later_tensorflow(tmp_path: Path, google_variables: dict[str, np.ndarray]) -> None:
    """layer_normalization, layer_normalization_1, ... numbered through the graph instead of LayerNorm, LayerNorm_1."""
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

    renamed = {rename(name): value for name, value in google_variables.items()}
    assert len([name for name in renamed if "layer_normalization" in name]) == 8
    run(google(tmp_path, renamed), tmp_path / "out", check=str(fixture("google")[2]))


def test_zh_without_factorisation_folds_the_projection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """albert_zh multiplies by word_embeddings_2 even where E == H; our zh layout has no projection there."""
    prefix, config, outputs = fixture("zh-postln")
    bundle = TensorBundle(prefix)
    variables = {name: bundle.read(name) for name in bundle.entries if "lamb_" not in name}
    word, second = variables["bert/embeddings/word_embeddings"], variables["bert/embeddings/word_embeddings_2"]
    # The same function at E = H: words of width E, padded with zeros, by a projection padded with zeros.
    variables["bert/embeddings/word_embeddings"] = np.pad(word, ((0, 0), (0, 48 - 16)))
    variables["bert/embeddings/word_embeddings_2"] = np.pad(second, ((0, 48 - 16), (0, 0)))
    write_bundle(tmp_path / "model.ckpt", variables)
    (tmp_path / "config.json").write_text(json.dumps(json.loads(config.read_text()) | {"embedding_size": 48}))
    model = run(tmp_path / "model.ckpt", tmp_path / "out", check=str(outputs))
    assert "albert.embeddings.projection.weight" not in model.state_dict()
    assert "multiplied into the word embeddings" in capsys.readouterr().out


def test_zh_with_layers_of_their_own(tmp_path: Path) -> None:
    prefix, config, outputs = fixture("zh-preln")
    bundle = TensorBundle(prefix)
    variables = {}
    for name in bundle.entries:
        for layer in range(3) if "layer_shared" in name else [0]:
            variables[name.replace("layer_shared", f"layer_{layer}")] = bundle.read(name)
    write_bundle(tmp_path / "model.ckpt", variables)
    model = run(tmp_path / "model.ckpt", tmp_path / "out", config=str(config), check=str(outputs))
    assert model.config.share_type == "None"
    with pytest.raises(UserError, match=r"have different weights; .* use --share_type None"):
        run(tmp_path / "model.ckpt", tmp_path / "other", config=str(config), share_type="all")


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    config = str(fixture("google")[1])
    write_bundle(tmp_path / "resnet", {"conv1/kernel": np.zeros((3, 3), np.float32)})
    with pytest.raises(UserError, match=r"resnet.index is no ALBERT .* conv1/kernel"):
        run(tmp_path / "resnet", tmp_path / "out", config=config)
    write_bundle(tmp_path / "keras", {"_CHECKPOINTABLE_OBJECT_GRAPH": ("string", (), b"x")})
    with pytest.raises(UserError, match="object checkpoint"):
        run(tmp_path / "keras", tmp_path / "out", config=config)
    with pytest.raises(UserError, match=r"nor does .*absent.index"):
        run(tmp_path / "absent", tmp_path / "out", config=config)
    with pytest.raises(UserError, match="several checkpoints"):
        run(tmp_path, tmp_path / "out", config=config)
    with pytest.raises(UserError, match="which config"):
        run(tmp_path / "resnet", tmp_path / "out")


def test_the_newest_checkpoint_of_a_folder(tmp_path: Path, google_variables: dict[str, np.ndarray]) -> None:
    google(tmp_path, google_variables)
    write_bundle(tmp_path / "model.ckpt-5", {"x": np.zeros(1, np.float32)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "x"\n')
    run(tmp_path, tmp_path / "out")


# ------------------------------------------------------------------------------------------------------ HuggingFace


def huggingface(directory: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> nn.Module:
    """A random HuggingFace ALBERT, every parameter away from its initial 0 or 1, saved in `directory`."""
    stated = transformers.AlbertConfig(**(SIZES | {"num_hidden_layers": 4, "max_position_embeddings": 40} | config))
    torch.manual_seed(seed)
    model = transformers.AlbertForPreTraining(stated).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory)
    return model


def assert_equal_outputs(ours: AlbertForPreTraining, theirs: nn.Module, atol: float = 1e-5) -> None:
    ids, mask, types = inputs(50)
    with torch.no_grad():
        actual = ours(ids, mask, types, output_hidden_states=True)
        expected = theirs(
            input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True, return_dict=True
        )
    real = mask.bool()
    assert actual.hidden_states is not None
    inner = ours.config.inner_group_num  # HuggingFace records the inner layers too
    for a, e in zip(actual.hidden_states, expected.hidden_states[::inner], strict=True):
        torch.testing.assert_close(a[real], e[real], atol=atol, rtol=0)
    for name in ("prediction_logits", "sop_logits"):
        a, e = getattr(actual, name), getattr(expected, name)
        a, e = (a[real], e[real]) if a.dim() == 3 else (a, e)
        torch.testing.assert_close(a, e, atol=atol, rtol=0)


GROUPS = {"one": {}, "groups": {"num_hidden_groups": 2}, "inner": {"num_hidden_groups": 4, "inner_group_num": 2}}


@pytest.mark.parametrize("act", ["gelu_new", "gelu"])
@pytest.mark.parametrize("groups", GROUPS)
def test_huggingface_there_and_back(groups: str, act: str, tmp_path: Path) -> None:
    theirs = huggingface(tmp_path / "hf", hidden_act=act, **GROUPS[groups])
    ours = run(tmp_path / "hf", tmp_path / "ours")
    assert ours.config.layout == "google"
    assert_equal_outputs(ours, theirs)
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "back"), to="huggingface"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    again = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "back")
    for (name, a), (_, b) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    stated = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "back")]
    assert stated[0] == stated[1]


def test_huggingface_from_an_old_bin_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = huggingface(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = theirs.state_dict() | {"albert.embeddings.position_ids": torch.arange(40)[None]}
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    assert_equal_outputs(run(tmp_path / "hf", tmp_path / "ours"), theirs)
    said = capsys.readouterr().out
    assert "predictions.decoder.weight equals" in said
    assert "skipped albert.embeddings.position_ids" in said


def test_classifiers_there_and_back(tmp_path: Path) -> None:
    stated = transformers.AlbertConfig(**SIZES, num_hidden_layers=3, max_position_embeddings=40, num_labels=3)
    torch.manual_seed(4)
    theirs = transformers.AlbertForSequenceClassification(stated).eval()
    theirs.save_pretrained(tmp_path / "hf")
    convert(ConvertOptions(checkpoint=str(tmp_path / "hf"), output=str(tmp_path / "ours"), share_type="None"))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    wordpiece_tokenizer(tokens).save(tmp_path / "ours")
    ours = AlbertForSequenceClassification.from_pretrained(tmp_path / "ours")
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "back"), to="huggingface"))
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    ids = torch.tensor([ours.tokenizer.encode_pair("w1 w2", "w3", 40)[0]])
    types = torch.tensor([ours.tokenizer.encode_pair("w1 w2", "w3", 40)[1]])
    expected = theirs(input_ids=ids, token_type_ids=types).logits
    torch.testing.assert_close(back(input_ids=ids, token_type_ids=types).logits, expected, atol=1e-5, rtol=0)
    probabilities = ours.predict([("w1 w2", "w3")])[0].probabilities
    assert list(probabilities) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert list(probabilities.values()) == pytest.approx(expected.softmax(-1)[0].tolist(), abs=1e-5)
    assert back.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_classifiers_of_tensorflow_and_albert_pytorch(
    tmp_path: Path, google_variables: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = {name: value for name, value in google_variables.items() if not name.startswith("cls/")}
    head = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    prefix = google(tmp_path, backbone | {"output_weights": head, "output_bias": np.ones(3, np.float32)})
    convert(ConvertOptions(checkpoint=str(prefix), output=str(tmp_path / "tf")))
    np.testing.assert_array_equal(load_file(tmp_path / "tf" / "model.safetensors")["classifier.weight"].numpy(), head)
    assert "the config names no classes; they are called 0, 1, 2" in capsys.readouterr().out
    state = seed(tmp_path / "seed").state()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("cls.")}
    state |= {"classifier.weight": torch.randn(2, 16), "classifier.bias": torch.randn(2)}
    torch.save(state, tmp_path / "seed" / "pytorch_model.bin")
    convert(ConvertOptions(checkpoint=str(tmp_path / "seed"), output=str(tmp_path / "ours")))
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert torch.equal(written["classifier.weight"], state["classifier.weight"])


def test_huggingface_without_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = huggingface(tmp_path / "hf")
    theirs.albert.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"lacks predictions.bias, .*sop_classifier.classifier.bias.*--new_heads"):
        run(tmp_path / "bare", tmp_path / "ours")
    ours = run(tmp_path / "bare", tmp_path / "ours", new_heads=True)
    assert "sop_head.weight" in capsys.readouterr().err
    ids, mask, types = inputs(50)
    expected = theirs.albert(input_ids=ids, attention_mask=mask, token_type_ids=types).pooler_output
    torch.testing.assert_close(ours(ids, mask, types).pooler_output, expected, atol=1e-5, rtol=0)
    convert(ConvertOptions(checkpoint=str(tmp_path / "bare"), output=str(tmp_path / "again"), new_heads=True))
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_bfloat16_comes_back_as_bfloat16(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf", dtype=torch.bfloat16)
    run(tmp_path / "hf", tmp_path / "ours")
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "back"), to="huggingface"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.bfloat16 for name in before)


@pytest.mark.parametrize("share_type", SHARE_TYPES)
@pytest.mark.parametrize("inner", [1, 2], ids="inner{}".format)
def test_export_of_every_share_type(share_type: str, inner: int, tmp_path: Path) -> None:
    config = AlbertConfig.from_preset(
        "tiny",
        hidden_size=16,
        embedding_size=8,
        intermediate_size=24,
        num_attention_heads=2,
        vocab_size=50,
        layout="google",
        share_type=share_type,
        num_hidden_groups=2,
        inner_group_num=inner,
    )
    torch.manual_seed(1)
    ours = AlbertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    ours.save_pretrained(tmp_path / "ours")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "我", *(f"x{i}" for i in range(40))]
    wordpiece_tokenizer(tokens).save(tmp_path / "ours")
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "hf"), to="huggingface"))
    theirs = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "hf")
    assert_equal_outputs(ours, theirs.eval())
    assert theirs.config.pad_token_id == 0
    assert transformers.AutoModel.from_pretrained(tmp_path / "hf").config.model_type == "albert"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer("the cats我", "cat")["input_ids"] == [2, 5, 6, 7, 8, 3, 6, 3]
    assert tokenizer("the cats", "cat")["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"layout": "zh"}, "before the projection"), ({"ln_type": "preln"}, "post-LN")],
    ids=["zh", "preln"],
)
def test_export_of_what_huggingface_cannot_compute(change: dict[str, str], reason: str, tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 16,
        "embedding_size": 8,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    AlbertForPreTraining(AlbertConfig.from_preset("tiny", **sizes, **({"layout": "google"} | change))).save_pretrained(
        tmp_path / "ours"
    )
    with pytest.raises(UserError, match=reason):
        convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "hf"), to="huggingface"))
    assert not (tmp_path / "hf").exists()


def test_groups_that_huggingface_rounds_otherwise(tmp_path: Path) -> None:
    """18 layers in 14 groups: HuggingFace puts a layer into another group than Google's code and ours."""
    sizes = {"num_hidden_layers": 18, "num_hidden_groups": 14}
    theirs = huggingface(tmp_path / "hf", **sizes)
    with pytest.raises(UserError, match="use --share_type None"):
        run(tmp_path / "hf", tmp_path / "ours")
    assert_equal_outputs(run(tmp_path / "hf", tmp_path / "ours", share_type="None"), theirs, atol=5e-5)


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
    with pytest.raises(UserError, match="no state dict"):
        run(tmp_path / "hf", tmp_path / "ours")
    torch.save(theirs, binary)
    with pytest.raises(UserError, match="holds more than tensors"):
        run(tmp_path / "hf", tmp_path / "ours")


# ---------------------------------------------------------------------------------------------------- albert_pytorch


def dense(inputs: int, outputs: int) -> nn.Module:
    return nn.Linear(inputs, outputs)


class Seed(nn.Module):
    """albert_pytorch's BertForPreTraining: its module tree, hence its names, and its arithmetic (erf gelu)."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config, c = config, config
        h, e, f, layers = c.hidden_size, c.embedding_size, c.intermediate_size, c.num_hidden_layers

        def norm() -> nn.Module:
            return nn.LayerNorm(h, eps=1e-12)

        def attention() -> nn.Module:
            own = nn.ModuleDict({name: dense(h, h) for name in ("query", "key", "value")})
            return nn.ModuleDict({"self": own, "output": nn.ModuleDict({"dense": dense(h, h), "LayerNorm": norm()})})

        def intermediate() -> nn.Module:
            return nn.ModuleDict({"dense": dense(h, f)})

        def output() -> nn.Module:
            return nn.ModuleDict({"dense": dense(f, h), "LayerNorm": norm()})

        def several(part: Any, shared: bool) -> nn.Module:
            return part() if shared else nn.ModuleList(part() for _ in range(layers))

        def layer(attention_shared: bool, ffn_shared: bool) -> nn.Module:
            parts = {"intermediate": several(intermediate, ffn_shared), "output": several(output, ffn_shared)}
            return nn.ModuleDict({"attention": several(attention, attention_shared), **parts})

        if c.share_type == "None":
            encoder = nn.ModuleDict({"layer": nn.ModuleList(layer(True, True) for _ in range(layers))})
        else:
            encoder = nn.ModuleDict({"layer_shared": layer(c.share_type != "ffn", c.share_type != "attention")})
        embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(c.vocab_size, e)})
        transform = nn.ModuleDict({"dense": dense(h, h), "LayerNorm": norm()})
        self.predictions_bias = nn.Parameter(torch.zeros(c.vocab_size))
        predictions = nn.ModuleDict({"transform": transform, "decoder": nn.Linear(e, c.vocab_size, bias=False)})
        if e != h:
            embeddings["word_embeddings_2"] = nn.Linear(e, h, bias=False)
            predictions["project_layer"] = nn.Linear(h, e, bias=False)
        embeddings["position_embeddings"] = nn.Embedding(c.max_position_embeddings, h)
        embeddings["token_type_embeddings"] = nn.Embedding(c.type_vocab_size, h)
        embeddings["LayerNorm"] = norm()
        pooler = nn.ModuleDict({"dense": dense(h, h)})
        self.bert = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder, "pooler": pooler})
        self.cls = nn.ModuleDict({"predictions": predictions, "seq_relationship": dense(h, 2)})
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            predictions["decoder"].weight.copy_(embeddings["word_embeddings"].weight)
            if e != h:
                predictions["project_layer"].weight.copy_(embeddings["word_embeddings_2"].weight.t())

    def state(self) -> dict[str, Tensor]:
        state = self.state_dict()
        return state | {"cls.predictions.bias": state.pop("predictions_bias")}

    def part(self, name: str, layer: int) -> Any:
        encoder = self.bert["encoder"]
        found = (encoder["layer"][layer] if "layer" in encoder else encoder["layer_shared"])[name]
        return found[layer] if isinstance(found, nn.ModuleList) else found

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        c, e = self.config, self.bert["embeddings"]
        x = e["word_embeddings"](ids)
        x = e["word_embeddings_2"](x) if "word_embeddings_2" in e else x
        x = x + e["position_embeddings"](torch.arange(ids.shape[1])) + e["token_type_embeddings"](types)
        x = e["LayerNorm"](x)
        states = [x]
        pre = c.ln_type == "preln"
        for layer in range(c.num_hidden_layers):
            attention, intermediate, output = (self.part(n, layer) for n in ("attention", "intermediate", "output"))
            norm = attention["output"]["LayerNorm"]
            y = norm(x) if pre else x
            query, key, value = (
                attention["self"][name](y).unflatten(-1, (c.num_attention_heads, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + (1.0 - mask[:, None, None]) * -10000.0
            y = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            x = x + attention["output"]["dense"](y)
            x = x if pre else norm(x)
            y = output["LayerNorm"](x) if pre else x
            x = x + output["dense"](nn.functional.gelu(intermediate["dense"](y)))
            x = x if pre else output["LayerNorm"](x)
            states.append(x)
        heads = self.cls["predictions"]
        y = heads["transform"]["LayerNorm"](nn.functional.gelu(heads["transform"]["dense"](x)))
        y = heads["project_layer"](y) if "project_layer" in heads else y
        pooled = self.bert["pooler"]["dense"](x[:, 0]).tanh()
        return states, heads["decoder"](y) + self.predictions_bias, self.cls["seq_relationship"](pooled)


def seed(directory: Path, **changes: Any) -> Seed:
    sizes = {
        "hidden_size": 16,
        "embedding_size": 8,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    config = AlbertConfig.from_preset("tiny", **({**sizes, "max_position_embeddings": 40} | changes))
    torch.manual_seed(3)
    model = Seed(config).eval()
    directory.mkdir()
    torch.save(model.state(), directory / "pytorch_model.bin")
    stated = {name: value for name, value in config.to_dict().items() if name not in ("share_type", "layout")}
    (directory / "albert_config.json").write_text(json.dumps(stated))
    return model


@pytest.mark.parametrize("embedding_size", [8, 16], ids="E{}".format)
@pytest.mark.parametrize("ln_type", ["postln", "preln"])
@pytest.mark.parametrize("share_type", SHARE_TYPES)
def test_albert_pytorch(share_type: str, ln_type: str, embedding_size: int, tmp_path: Path) -> None:
    theirs = seed(tmp_path / "seed", share_type=share_type, ln_type=ln_type, embedding_size=embedding_size)
    ours = run(tmp_path / "seed", tmp_path / "ours")
    assert (ours.config.share_type, ours.config.hidden_act, ours.config.layout) == (share_type, "gelu", "zh")
    ids, mask, types = inputs(50)
    with torch.no_grad():
        states, prediction_logits, sop_logits = theirs(ids, mask, types)
        actual = ours(ids, mask, types, output_hidden_states=True)
    real = mask.bool()
    assert actual.hidden_states is not None
    for a, e in zip(actual.hidden_states, states, strict=True):
        torch.testing.assert_close(a[real], e[real], atol=2e-5, rtol=0)
    torch.testing.assert_close(actual.prediction_logits[real], prediction_logits[real], atol=2e-5, rtol=0)
    torch.testing.assert_close(actual.sop_logits, sop_logits, atol=2e-5, rtol=0)


def test_albert_pytorch_untied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = seed(tmp_path / "seed")
    state = model.state()
    run(tmp_path / "seed", tmp_path / "tied")
    said = capsys.readouterr().out
    assert "cls.predictions.decoder.weight equals bert.embeddings.word_embeddings.weight" in said
    assert "cls.predictions.project_layer.weight equals the transpose of" in said
    state["cls.predictions.project_layer.weight"] += 0.25
    old_names = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in state.items()}
    torch.save({f"module.{name}": value for name, value in old_names.items()}, tmp_path / "seed" / "pytorch_model.bin")
    run(tmp_path / "seed", tmp_path / "untied")
    assert "WARNING: cls.predictions.project_layer.weight differs" in capsys.readouterr().out
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("tied", "untied")]
    assert same[0] == same[1]


# ------------------------------------------------------------------------------------------------------- the command


def test_the_output_is_never_overwritten(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf")
    with pytest.raises(UserError, match="not an empty folder"):
        run(tmp_path / "hf", tmp_path / "hf")
    (tmp_path / "ours").mkdir()
    run(tmp_path / "hf", tmp_path / "ours")


def test_what_fails_on_the_way_leaves_nothing_and_takes_nothing(tmp_path: Path) -> None:
    model = AlbertForPreTraining(AlbertConfig(**SIZES, num_hidden_layers=2, layout="zh"))
    model.save_pretrained(tmp_path / "ours")
    mine = tmp_path / "hf.partial" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError):
        convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "hf"), to="huggingface"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf.partial", "ours"]
    assert mine.exists()


def test_recorded_outputs_that_cannot_be_of_the_model(tmp_path: Path) -> None:
    AlbertForPreTraining(AlbertConfig(**SIZES, num_hidden_layers=2)).save_pretrained(tmp_path / "ours")
    ids = np.array([[1, 2, 3]])
    for name, arrays, message in (
        ("ids", {"input_ids": ids + 9999}, "cannot read what it records"),
        ("text", {"input_ids": np.array([["a", "b"]])}, "cannot read what it records"),
        ("layers", {"input_ids": ids, "all_encoder_layers": np.zeros((1, 1, 3, 16))}, "records 1 layers, the model"),
    ):
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(UserError, match=message):
            run(tmp_path / "ours", tmp_path / "again", check=str(tmp_path / f"{name}.npz"))


def test_a_vocabulary_comes_along(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    vocabulary = tmp_path / "any_name.txt"
    vocabulary.write_text("\n".join(tokens))
    run(tmp_path / "hf", tmp_path / "ours", vocab=str(vocabulary))
    assert (tmp_path / "ours" / "vocab.txt").read_text().split() == tokens
    shutil.copyfile(vocabulary, tmp_path / "hf" / "vocab.txt")
    run(tmp_path / "hf", tmp_path / "beside")
    assert (tmp_path / "beside" / "tokenizer.json").is_file()
    vocabulary.write_text("\n".join([*tokens, "one_more"]))
    with pytest.raises(UserError, match=r"51 tokens, more than the checkpoint's vocab_size=50"):
        run(tmp_path / "hf", tmp_path / "wrong", vocab=str(vocabulary))


def test_our_own_folder_unshares(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path / "hf", num_hidden_groups=2)
    run(tmp_path / "hf", tmp_path / "ours")
    for share_type in SHARE_TYPES:
        model = run(tmp_path / "ours", tmp_path / share_type, share_type=share_type)
        assert_equal_outputs(model, theirs)
    with pytest.raises(UserError, match="different"):
        run(tmp_path / "None", tmp_path / "again", share_type="ffn")
    with pytest.raises(UserError, match="share_type='some' is unknown"):
        run(tmp_path / "ours", tmp_path / "again", share_type="some")


def test_dropout_of_the_config_stays_out_of_evaluation(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path / "hf", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    assert_equal_outputs(run(tmp_path / "hf", tmp_path / "ours"), theirs)


def test_strange_safetensors_are_refused(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf")
    save_file({"lstm.weight": torch.zeros(3)}, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(UserError, match=r"no ALBERT that we know; its first names are lstm.weight"):
        run(tmp_path / "hf", tmp_path / "ours")
