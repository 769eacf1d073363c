"""Requirements on the memory accesses of every kernel."""

from bench.counting import Traffic


def assert_clean(counted: Traffic) -> None:
    """No out-of-bounds access, no atomics; each argument is entirely written exactly once or entirely read."""
    assert counted.out_of_bounds == counted.atomics == 0
    for a in counted.arguments:
        label = f"{a.kernel} {a.name} {list(a.tensor.shape)}"
        if a.written.any():
            assert (a.written == 1).all(), f"{label}: some element is not written exactly once"
        elif a.name != "key_ptr":  # read only with dropout
            assert a.read.all(), f"{label}: some element is never read"
