"""python -m support.every_call cuda: runs every kernel with every autotune candidate, for use under a sanitizer."""

import sys
from collections.abc import Iterable

import torch

from albert_fast.kernels.calls import Sizes, calls, random, with_every_candidate

SIZES = (Sizes(37, 312, 1248, 12, 128, 1001, 9), Sizes(130, 768, 3072, 12, 128, 1001, 33))


def run(device: str, sizes: Iterable[Sizes] = SIZES) -> list[str]:
    """Run every call; returns the names of the ops."""
    names: list[str] = []
    for size in sizes:
        for call in calls(size, torch.bfloat16, random(device)):
            with_every_candidate(call)
            names.append(call.name)
    if device == "cuda":
        torch.cuda.synchronize()
    return names


if __name__ == "__main__":
    print(*run(sys.argv[1]), sep="\n")
