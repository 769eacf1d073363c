"""A reimplementation of albert_pytorch's model, for converting its checkpoints."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from albert_fast.config import AlbertConfig

SIZES = dict(hidden_size=16, embedding_size=8, intermediate_size=24, num_attention_heads=2, vocab_size=50)


class Seed(nn.Module):
    """albert_pytorch's BertForPreTraining: the same module tree (hence parameter names) and arithmetic (erf GELU)."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config, c = config, config
        h, e, f, layers = c.hidden_size, c.embedding_size, c.intermediate_size, c.num_hidden_layers

        def norm() -> nn.Module:
            return nn.LayerNorm(h, eps=1e-12)

        def attention() -> nn.Module:
            own = nn.ModuleDict({name: nn.Linear(h, h) for name in ("query", "key", "value")})
            return nn.ModuleDict(
                {"self": own, "output": nn.ModuleDict({"dense": nn.Linear(h, h), "LayerNorm": norm()})}
            )

        def intermediate() -> nn.Module:
            return nn.ModuleDict({"dense": nn.Linear(h, f)})

        def output() -> nn.Module:
            return nn.ModuleDict({"dense": nn.Linear(f, h), "LayerNorm": norm()})

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
        transform = nn.ModuleDict({"dense": nn.Linear(h, h), "LayerNorm": norm()})
        self.predictions_bias = nn.Parameter(torch.zeros(c.vocab_size))
        predictions = nn.ModuleDict({"transform": transform, "decoder": nn.Linear(e, c.vocab_size, bias=False)})
        if e != h:
            embeddings["word_embeddings_2"] = nn.Linear(e, h, bias=False)
            predictions["project_layer"] = nn.Linear(h, e, bias=False)
        embeddings["position_embeddings"] = nn.Embedding(c.max_position_embeddings, h)
        embeddings["token_type_embeddings"] = nn.Embedding(c.type_vocab_size, h)
        embeddings["LayerNorm"] = norm()
        pooler = nn.ModuleDict({"dense": nn.Linear(h, h)})
        self.bert = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder, "pooler": pooler})
        self.cls = nn.ModuleDict({"predictions": predictions, "seq_relationship": nn.Linear(h, 2)})
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
    config = AlbertConfig.from_preset("tiny", **({**SIZES, "max_position_embeddings": 40} | changes))
    torch.manual_seed(3)
    model = Seed(config).eval()
    directory.mkdir()
    torch.save(model.state(), directory / "pytorch_model.bin")
    stated = {name: value for name, value in config.to_dict().items() if name not in ("share_type", "layout")}
    (directory / "albert_config.json").write_text(json.dumps(stated))
    return model
