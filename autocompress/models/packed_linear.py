"""A linear layer of packed weights.

A copy of this file and of those it imports lies beside the weights of an exported checkpoint.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

# Relative, so that the copies beside an exported checkpoint find each other.
from .packed_kernels import Kernel, make_kernel  # noqa: TID252
from .packed_weights import decode  # noqa: TID252


class PackedLinear(nn.Module):
    """A linear layer whose weight is kept packed.

    It is multiplied by a kernel that reads the codes, or decoded when it is first used where there
    is none. Conversions of the model change the number format of the decoded weight and of the
    bias, never that of the packed tensors: `float()` and `half()` would lose what they stand for.

    Args:
        shape: (rows, columns) of the weight.
        tensors: Some of `STORED`, as the setting needs; they become buffers.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, int],
        setting: str,
        tensors: Mapping[str, Tensor],
        bias: nn.Parameter | None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.setting = setting
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.register_parameter("bias", bias)
        self._dtype = torch.get_default_dtype() if bias is None else bias.dtype
        self._decoded: Tensor | None = None
        self._kernel: Kernel | None = None
        self._has_kernel: bool | None = None

    @property
    def weight(self) -> Tensor:
        """The decoded (rows, columns) weight in the model's number format."""
        if self._decoded is None:
            # It outlives this call, and may be used where gradients flow through it.
            with torch.inference_mode(False), torch.no_grad():
                shape = (self.out_features, self.in_features)
                weight = decode(self.setting, shape, self._packed)
                self._decoded = weight.to(self._dtype)
        return self._decoded

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs, (..., columns), times the weight, (..., rows)."""
        kernel = None if inputs.requires_grad else self._made()
        if kernel is None:
            return nn.functional.linear(inputs, self.weight, self.bias)
        products = kernel(inputs.reshape(-1, self.in_features))
        outputs = products.view(*inputs.shape[:-1], self.out_features)
        return outputs if self.bias is None else outputs + self.bias

    @property
    def _packed(self) -> dict[str, Tensor]:
        return dict(self.named_buffers(recurse=False))

    def _made(self) -> Kernel | None:
        """Return the weight as its kernel reads it; None if there is none."""
        if self._has_kernel is None:
            with torch.inference_mode(False), torch.no_grad():
                shape = (self.out_features, self.in_features)
                self._kernel = make_kernel(self.setting, shape, self._packed, self._dtype)
            self._has_kernel = self._kernel is not None
        return self._kernel

    def extra_repr(self) -> str:
        """Return what `print` says of the layer."""
        return f"{self.in_features}, {self.out_features}, {self.setting}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        """Move or convert the layer; packed tensors are moved as plain bytes."""
        packed = {id(buffer) for buffer in self.buffers(recurse=False)}
        (device,) = {buffer.device for buffer in self.buffers(recurse=False)}

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in packed:
                return fn(tensor)
            return fn(tensor.view(torch.uint8)).view(tensor.dtype)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        self._dtype = fn(torch.empty(0, dtype=self._dtype, device=device)).dtype
        self._decoded = self._kernel = self._has_kernel = None
        return self
