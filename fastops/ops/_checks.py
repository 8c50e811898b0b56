"""Argument checks of the fake kernels. Their messages equal those of csrc/common/checks.h."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_floating(op: str, argument: str, t: Tensor) -> None:
    if t.dtype not in FLOATING:
        got = dtype_name(t.dtype)
        raise RuntimeError(f"{op}: {argument} must have dtype float32, float64, float16 or bfloat16, got {got}")


def check_same_dtype(op: str, argument: str, t: Tensor, like_name: str, like: Tensor) -> None:
    if t.dtype != like.dtype:
        raise RuntimeError(
            f"{op}: {argument} must have the dtype of {like_name} ({dtype_name(like.dtype)}), got {dtype_name(t.dtype)}"
        )


def check_same_shape(op: str, argument: str, t: Tensor, like_name: str, like: Tensor) -> None:
    if t.shape != like.shape:
        raise RuntimeError(
            f"{op}: {argument} must have the shape of {like_name} {list(like.shape)}, got {list(t.shape)}"
        )


def check_same_device(op: str, argument: str, t: Tensor, like_name: str, like: Tensor) -> None:
    if t.device != like.device:
        raise RuntimeError(f"{op}: {argument} must be on the device of {like_name} ({like.device}), got {t.device}")
