"""The ranks of a run: this process's rank and device, and its process group."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from albert_fast.options import UserError, device_kind


@contextmanager
def ranks(device: str) -> Iterator[tuple[int, int, torch.device]]:
    """This process's rank, the number of ranks and its device, within the process group given by torchrun's variables.

    The group is destroyed only on success. Destroying it waits for the other ranks and, with NCCL, for every CUDA graph
    that contains a collective, so a failed process exits at once instead, and torchrun ends the others.
    """
    kind = device_kind(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        if local.index >= (count := torch.cuda.device_count()):
            raise UserError(f"LOCAL_RANK={local.index}: torch finds {count} CUDA devices; use --nproc-per-node={count}")
        torch.cuda.set_device(local)
    if world_size > 1:
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    yield int(os.environ.get("RANK", "0")), world_size, local
    if world_size > 1:
        dist.destroy_process_group()
