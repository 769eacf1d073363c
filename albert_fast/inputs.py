"""Static input buffers of a step, and the ring of staging buffers that prefetches the next micro-batch."""

import numpy as np
import torch

from albert_fast.data.batches import Batch

FIELDS = (
    "input_ids", "token_type_ids", "position_ids", "cu_seqlens", "masked_lm_positions", "masked_lm_ids",
    "masked_lm_weights", "sentence_order_labels", "sentence_order_weights", "num_tokens",
)  # fmt: skip


class Inputs:
    """Static device buffers of one micro-batch: one int32 allocation with a view per field, filled by one copy.

    On CUDA, a ring of pinned host buffers and a copy stream upload the next micro-batch while this one is computed.
    """

    RING = 3

    def __init__(self, example: Batch, max_seq_length: int, device: torch.device):
        self.max_seqlen, self.cuda = max_seq_length, device.type == "cuda"
        arrays = {name: np.atleast_1d(getattr(example, name)) for name in FIELDS}
        arrays["num_tokens"] = arrays["num_tokens"].astype(np.int32)
        lengths = [-(-array.size // 32) * 32 for array in arrays.values()]  # every field is aligned to 128 bytes
        edges = [0, *np.cumsum(lengths).tolist()]
        self.layout = {n: (start, a.size, a.dtype) for (n, a), start in zip(arrays.items(), edges, strict=False)}
        self.device_buffer = torch.zeros(edges[-1], dtype=torch.int32, device=device)
        self.fields = {
            name: self.device_buffer[start : start + size].view(torch.float32 if dtype == np.float32 else torch.int32)
            for name, (start, size, dtype) in self.layout.items()
        }
        ring = self.RING if self.cuda else 1
        self.host = [torch.zeros(edges[-1], dtype=torch.int32, device="cpu", pin_memory=self.cuda) for _ in range(ring)]
        if self.cuda:
            self.staging = [torch.zeros_like(self.device_buffer) for _ in range(ring)]
            self.stream = torch.cuda.Stream(device)
            self.copied, self.taken = ([torch.cuda.Event() for _ in range(ring)] for _ in range(2))
            self.stream.wait_stream(torch.cuda.current_stream(device))  # which fills `staging` with zeros
        self.turn = 0

    def load(self, batch: Batch) -> None:
        """Copy `batch` into the static buffers, ordered before the next work on the current stream."""
        slot = self.turn % len(self.host)
        self.turn += 1
        if self.cuda:
            self.copied[slot].synchronize()  # until the copy of RING batches ago has left this pinned buffer
        host = self.host[slot].numpy()
        for name, (start, size, dtype) in self.layout.items():
            host[start : start + size].view(dtype)[:] = getattr(batch, name)
        if not self.cuda:
            self.device_buffer.copy_(self.host[slot])
            return
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.taken[slot])
            self.staging[slot].copy_(self.host[slot], non_blocking=True)
            self.copied[slot].record()
        torch.cuda.current_stream().wait_event(self.copied[slot])
        self.device_buffer.copy_(self.staging[slot])
        self.taken[slot].record()
