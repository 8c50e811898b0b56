"""The output channels of parameters, as one number per tensor for the centralize ops.

The number is 0 if the output channel is dimension 0, and g > 0 if it is dimension 1 (a transposed convolution with g
groups). It is -1 if the gradient must not be centralized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

#: The ways to say which weights belong to transposed convolutions.
Transposed = nn.Module | Mapping[Tensor, int] | Iterable[Tensor]


def transposed_groups(transposed: Transposed) -> dict[Tensor, int]:
    """The weights of transposed convolutions with the groups of each, from a module or as given."""
    if isinstance(transposed, nn.Module):
        layers = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        return {layer.weight: layer.groups for layer in transposed.modules() if isinstance(layer, layers)}
    return dict(transposed) if isinstance(transposed, Mapping) else dict.fromkeys(transposed, 1)


def channel_number(param: Tensor, conv_only: bool, transposed: Mapping[Tensor, int]) -> int:
    """The number of `param`. It is -1 for one dimension (with conv_only, for two) and for one weight per channel.

    The mean of a single weight's gradient is that gradient, so a centralized single weight would never move. Examples
    are `Linear(1, n)`, a depthwise 1x1 convolution, a layer scale [C, 1, 1] and the norms of `weight_norm`.
    """
    if param.dim() <= (2 if conv_only else 1):
        return -1
    groups = transposed.get(param, 0)
    weights = param.numel() // max(1, param.shape[1] * groups if groups else param.shape[0])
    return -1 if weights == 1 else groups


def local(tensor: Tensor) -> Tensor:
    """The part of a `DTensor` that this process has, which shares its memory. Other tensors are returned unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def check_sharding(op: str, param: Tensor, grad: Tensor, channel: int) -> None:
    """Raise an error for parameters whose output channels are spread over processes.

    The mean of such a channel would need all processes. `fully_shard` (FSDP2) splits dimension 0, so each process has
    whole output channels and can centralize them.

    Raises:
        RuntimeError: `<op>: params must ...`.
    """
    if getattr(param, "_fsdp_flattened", False) and param.dim() == 1:
        raise RuntimeError(
            f"{op}: params must keep their shapes to be centralized, got a flat parameter of FSDP1, of {param.numel()} "
            "elements; use fully_shard (FSDP2)"
        )
    for placement in getattr(grad, "placements", ()):
        fits = placement.is_replicate() or (placement.is_shard() and (channel < 0 or placement.dim == 0 == channel))
        if not fits:
            raise RuntimeError(
                f"{op}: params must be replicated or sharded by output channel, got a gradient {placement} of shape "
                f"{list(grad.shape)}"
            )
