"""What must hold of whatever a kernel reads and writes."""

from bench.counting import Traffic


def assert_clean(counted: Traffic) -> None:
    """Nothing out of bounds, no atomics, and every argument either written exactly once or read, all of it."""
    assert counted.out_of_bounds == counted.atomics == 0
    for a in counted.arguments:
        label = f"{a.kernel} {a.name} {list(a.tensor.shape)}"
        if a.written.any():
            assert (a.written == 1).all(), f"{label}: some element is not written exactly once"
        elif a.name != "key_ptr":  # which dropout alone reads
            assert a.read.all(), f"{label}: some element is never read"
