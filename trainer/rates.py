"""How fast this GPU multiplies and copies in PyTorch: the ceilings that engines are held against.

Without a GPU the same runs on the CPU, small: to rehearse, its rates say nothing.
"""

from __future__ import annotations

import time
from typing import Any

import torch

_SIDE, _PRODUCTS, _TRIES = 8192, 20, 3


def matrix_rate() -> dict[str, Any]:
    """The half-precision matrix rate of this device: `tflops`, the best of some tries, and how it was taken, `how`."""
    gpu = torch.cuda.is_available()
    side, products = (_SIDE, _PRODUCTS) if gpu else (256, 1)
    a, b = (torch.randn(side, side, device="cuda" if gpu else "cpu").half() for _ in range(2))
    seconds = []
    for _ in range(_TRIES + 1):
        if gpu:
            torch.cuda.synchronize()
        before = time.perf_counter()
        for _ in range(products):
            a @ b
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - before)
    rate = 2 * side**3 * products / min(seconds[1:])
    how = f"PyTorch, FP16 product of {side} x {side} matrices, best of {_TRIES} times {products}"
    return {"tflops": rate / 1e12, "how": how}


def memory_rate() -> dict[str, Any]:
    """Bandwidth of this device's memory: `gb_s`, 1e9 bytes read and written a second, and how it was taken, `how`."""
    gpu = torch.cuda.is_available()
    # far beyond any cache of a GPU
    source = torch.zeros(2**26 if gpu else 2**20, device="cuda" if gpu else "cpu")
    copy = torch.empty_like(source)
    seconds = []
    for _ in range(_TRIES + 1):
        if gpu:
            torch.cuda.synchronize()
        before = time.perf_counter()
        for _ in range(_PRODUCTS):
            copy.copy_(source)
        if gpu:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - before) / _PRODUCTS)
    size = source.numel() * source.element_size()
    how = f"PyTorch, copies of {size // 2**20} MiB, best of {_TRIES} times {_PRODUCTS}"
    return {"gb_s": 2 * size / min(seconds[1:]) / 1e9, "how": how}


def gpu_rates() -> dict[str, Any] | None:
    """`matrix` and `memory`, of `matrix_rate` and `memory_rate`; None without a GPU."""
    return {"matrix": matrix_rate(), "memory": memory_rate()} if torch.cuda.is_available() else None
