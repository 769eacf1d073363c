"""What an op costs: our ops state it, PyTorch's follow one rule."""

import torch
from support.ledger_steps import spec

from albert_fast.measure.costs import costs_of, is_free
from albert_fast.measure.ledger import Ledger


def test_every_op_of_ours_states_its_cost():
    """Nothing of albert_fast is priced by the rule for PyTorch's ops."""
    from albert_fast.kernels.cost import stated

    seen = set()

    class Names(Ledger):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func not in self._bodies:
                seen.add(func._schema.name)
            return super().__torch_dispatch__(func, types, args, kwargs)

    for ln_type in ("postln", "preln"):
        asked = spec(num_hidden_layers=2, ln_type=ln_type)
        step = asked.build_on_meta()
        with torch.device("meta"), Names(step.model, asked.bodies()):
            step.micro_step()
            step.update()
    ours = {name for name in seen if name.startswith("albert_fast::")}
    assert ours
    assert ours <= stated()


def test_pytorchs_ops_read_their_arguments_and_write_their_results() -> None:
    aten, a, b, x = torch.ops.aten, torch.ones(3, 5), torch.ones(5, 7), torch.ones(2, 4)
    (product,) = costs_of(aten.mm.default, (a, b), {}, a @ b)
    assert (product.bytes, product.flops, product.kind) == (4 * (15 + 35 + 21), 2 * 3 * 5 * 7, "product")
    (total,) = costs_of(aten.add.Tensor, (x, x), {}, x + x)
    assert (total.bytes, total.flops, total.launches) == (4 * 3 * 8, 0, 1)
    (fill,) = costs_of(aten.zeros_like.default, (x,), {}, torch.zeros_like(x))
    assert fill.bytes == 4 * 8
    indices = torch.tensor([1, 1, 0])
    (gather,) = costs_of(aten.index_select.default, (x, 0, indices), {}, x[indices])
    assert gather.bytes == 2 * 4 * 12


def test_attention_makes_two_products_forward_and_five_backward() -> None:
    aten, (n, s, k, d) = torch.ops.aten, (3, 5, 7, 8)
    q, key = torch.ones(1, n, s, d), torch.ones(1, n, k, d)
    forward, backward = (
        getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{name}").default for name in ("", "_backward")
    )
    (cost,) = costs_of(forward, (q, key, key), {}, q)
    assert (cost.flops, cost.bytes, cost.launches, cost.kind) == (2 * 2 * n * s * k * d, 4 * (2 * 120 + 2 * 168), 1,
                                                                  "attention")  # fmt: skip
    (cost,) = costs_of(backward, (q, q, key, key, q, q), {}, (q, key, key))
    assert cost.flops == 5 * 2 * n * s * k * d
    packed = torch.ones(s, n, d)
    (cost,) = costs_of(aten._flash_attention_forward.default, (packed, packed, packed, None, None, s, k), {}, packed)
    assert (cost.flops, cost.launches) == (2 * 2 * n * s * k * d, 1)
    arguments = (packed,) * 6 + (None, None, s, k)
    (cost,) = costs_of(aten._flash_attention_backward.default, arguments, {}, packed)
    assert (cost.flops, cost.launches) == (5 * 2 * n * s * k * d, 3)


def test_views_and_allocations_launch_nothing() -> None:
    aten = torch.ops.aten
    assert all(map(is_free, (aten.view.default, aten.t.default, aten.empty.memory_format, aten.detach.default)))
    assert not any(map(is_free, (aten.add.Tensor, aten.add_.Tensor, aten.clone.default, aten.copy_.default)))
