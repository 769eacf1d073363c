"""Attributes ops to parts of the model: by the running code, or in backward by the code that created the node."""

import sys
from bisect import bisect_right
from dataclasses import dataclass
from types import FrameType

import torch
from torch import nn

from albert_fast import heads, model, modules

_MODEL_FILES = (model.__file__, heads.__file__, modules.__file__)


@dataclass(frozen=True)
class Place:
    """Innermost active module (path without numbers), encoder layer, and whether model code is running."""

    module: str = ""
    layer: int | None = None
    in_model: bool = False


class Places:
    """Finds the place of the op being dispatched.

    Args:
        root: the model whose modules name the places.
    """

    def __init__(self, root: nn.Module | None):
        self._names = {} if root is None else {id(module): name for name, module in root.named_modules()}
        self._sequence_numbers: list[int] = []
        self._forward: list[Place] = []

    def find(self) -> Place:
        """Place in the model code; in backward outside model code, the place of the corresponding forward op."""
        place = self._in_code(sys._getframe(1))
        node = torch._C._current_autograd_node()
        if node is None:
            self._sequence_numbers.append(torch._C._autograd._get_sequence_nr())
            self._forward.append(place)
            return place
        return place if place.in_model else self._of_node(node._sequence_nr())

    def _of_node(self, sequence_number: int) -> Place:
        """Find the first op recorded after this sequence number: it was the first to run inside the node's forward."""
        index = bisect_right(self._sequence_numbers, sequence_number)
        return self._forward[index] if index < len(self._forward) else Place()

    def _in_code(self, frame: FrameType | None) -> Place:
        name, layer, in_model = "", None, False
        while frame is not None:
            if frame.f_code.co_filename in _MODEL_FILES:
                # f_locals keeps references until it is read again, which happens before the next op, here.
                variables = frame.f_locals
                in_model = True
                module = variables.get("self")
                name = name or self._names.get(id(module), "")
                if layer is None and isinstance(module, model.Layer):
                    layer = module.depth
            frame = frame.f_back
        path = ".".join(part for part in name.split(".") if not part.isdigit())
        return Place(path.removeprefix("albert."), layer, in_model)
