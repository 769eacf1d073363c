"""The process group: none for one rank, torchrun's for several."""

import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist

from albert_fast.options import UserError
from albert_fast.ranks import ranks


def test_one_rank_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with ranks("cpu") as (rank, world_size, device):
        assert (rank, world_size, device) == (0, 1, torch.device("cpu"))
        assert not dist.is_initialized()


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(UserError, match="LOCAL_RANK=2: torch finds 2 CUDA devices; use --nproc-per-node=2"),
        ranks("cuda"),
    ):
        pass


def one_of_two(own: int, port: int) -> None:
    os.environ |= {"RANK": str(own), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ranks("cpu") as (rank, world_size, _):
        total = torch.tensor(rank + 1)
        dist.all_reduce(total)
        assert (rank, world_size, int(total)) == (own, 2, 3)
    assert not dist.is_initialized()


def test_two_ranks_share_a_group_that_is_destroyed_at_the_end() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [multiprocessing.get_context("fork").Process(target=one_of_two, args=(own, port)) for own in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
