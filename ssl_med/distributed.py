"""Sharing between processes, so that N devices compute what one device would; no-ops on one device."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    """Backward sums over processes: sample i of rank r enters the loss of every process.

    DDP then averages parameter gradients over processes, which gives the gradient of the mean of their losses.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = all_reduce_sum(grad)
        start = rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather_with_grad(x: Tensor) -> Tensor:
    """(B, ...) of every process -> (world * B, ...) in rank order; all processes must hold equal B."""
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """As `gather_with_grad`, without gradient."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def own_rows(x: Tensor) -> Tensor:
    """The part of this process of what `gather` gives, (world * B, ...) -> (B, ...), without the memory of the rest."""
    if world_size() == 1 or x.ndim == 0:
        return x
    size = len(x) // world_size()
    return x[rank() * size : (rank() + 1) * size].clone()


@torch.no_grad()
def mean_over_processes(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars by name, each as its mean over processes, in one reduction."""
    if world_size() == 1 or not values:
        return values
    names = list(values)
    means = all_reduce_mean(torch.stack([values[name].detach().float() for name in names]))
    return dict(zip(names, means.unbind(), strict=True))


@torch.no_grad()
def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over processes, a new tensor, without gradient."""
    if world_size() == 1:
        return x
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@torch.no_grad()
def all_reduce_max(x: Tensor) -> Tensor:
    """Largest over processes, a new tensor, without gradient."""
    if world_size() == 1:
        return x
    largest = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean over processes of a floating tensor, without gradient."""
    return all_reduce_sum(x) / world_size()


def gather_objects(items: list[T]) -> list[T]:
    """Concatenates the picklable lists of all processes, in rank order."""
    if world_size() == 1:
        return items
    parts: list[list[T] | None] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts if part is not None for item in part]


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce_sum(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce_sum(grad)


def all_reduce_sum_with_grad(x: Tensor) -> Tensor:
    """Sum over processes; backward sums too, since x enters the loss of every process, and DDP averages those gradients."""
    total: Tensor = _AllReduceSum.apply(x) if world_size() > 1 else x  # type: ignore[no-untyped-call]
    return total


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batch of all processes on the CPU, where torch's SyncBatchNorm does not run.

    Same parameters, buffers and state-dict keys as BatchNorm; the mean and the centred second moment are reduced in two
    passes, which keeps the precision of one-process normalisation.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = all_reduce_sum(torch.full((), input.numel() / input.shape[1], dtype=wide.dtype, device=input.device))
        mean: Tensor = _AllReduceSum.apply(wide.sum(axes)) / count  # type: ignore[no-untyped-call]
        centred = wide - mean.view(shape)
        variance: Tensor = _AllReduceSum.apply(centred.square().sum(axes)) / count  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = variance * count / (count - 1)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        result = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)


def convert_sync_batchnorm(module: nn.Module, *, device_type: str) -> nn.Module:
    """Replaces every BatchNorm below `module`, in place, by one whose statistics span all processes.

    Args:
        module: the network; it must not be a BatchNorm itself.
        device_type: "cuda" uses torch's SyncBatchNorm, anything else `SharedBatchNorm`.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SharedBatchNorm):
            if device_type == "cuda":
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
                continue
            shared = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            if child.affine:
                shared.weight, shared.bias = child.weight, child.bias
            shared.running_mean, shared.running_var = child.running_mean, child.running_var
            shared.num_batches_tracked = child.num_batches_tracked
            shared.train(child.training)
            setattr(module, name, shared)
        else:
            convert_sync_batchnorm(child, device_type=device_type)
    return module
