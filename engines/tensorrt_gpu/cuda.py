"""CUDA through PyCUDA: the process's own context, pinned memory, one stream with its clock, captured graphs.

The device is CUDA's first one; the environment variable CUDA_VISIBLE_DEVICES chooses another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA does not name: the stream does not wait for the default one, torch's say"""


@cache
def driver() -> Any:
    """The module `pycuda.driver`, initialised."""
    module = importlib.import_module("pycuda.driver")
    module.init()
    return module


@cache
def _primary_context() -> Any:
    """The context that TensorRT, torch and everything else built on the CUDA runtime share.

    Retained once and kept for the life of the process, as the CUDA runtime inside TensorRT keeps it in any case:
    releasing it frees nothing, and PyCUDA would leave it on the thread's stack of contexts.
    """
    return driver().Device(0).retain_primary_context()


def leave() -> None:
    """At the end of the process. PyCUDA's own destructor would treat the context as one that it has created."""
    if _primary_context.cache_info().currsize:
        _primary_context().detach()
        _primary_context.cache_clear()


@contextmanager
def current() -> Iterator[None]:
    """Makes the primary context this thread's current one for the block, and leaves no trace after it."""
    primary = _primary_context()
    primary.push()
    try:
        yield
    finally:
        primary.pop()


def shares_memory() -> bool:
    """Whether GPU and CPU have the same memory, as on a Jetson: then copies are in vain."""
    attribute = driver().device_attribute
    device = driver().Device(0)
    return all(device.get_attribute(which) for which in (attribute.INTEGRATED, attribute.CAN_MAP_HOST_MEMORY))


class Buffer:
    """Pinned memory of the host and its counterpart on the device: the same bytes where they share memory.

    Args:
        shape, dtype: of the largest batch, [N, ...].
        mapped: no memory of the device's own.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], mapped: bool) -> None:
        cuda = driver()
        flags = cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        self.host: NDArray[Any] = cuda.pagelocked_empty(shape, dtype, mem_flags=flags)
        self._mapped = mapped
        self._device: Any = None
        try:
            self._device = self.host.base.get_device_pointer() if mapped else cuda.mem_alloc(self.host.nbytes)
        except BaseException:
            self.free()
            raise

    @property
    def address(self) -> int:
        """Of the first byte, as the device sees it."""
        return int(self._device)

    def upload(self, count: int, stream: Any) -> None:
        """Queues the copy of the first `count` entries to the device."""
        if not self._mapped:
            driver().memcpy_htod_async(self._device, self.host[:count], stream)

    def download(self, count: int, stream: Any) -> None:
        """Queues the copy of the first `count` entries to the host."""
        if not self._mapped:
            driver().memcpy_dtoh_async(self.host[:count], self._device, stream)

    def free(self) -> None:
        """Gives both back; the array must not be touched after it."""
        if self._device is not None and not self._mapped:
            self._device.free()
        pinned: Any = self.host.base
        self.host, self._device = np.empty(0), None
        if pinned is not None:
            pinned.free()


class Clock:
    """Times between marks on a stream, taken by the device itself."""

    def __init__(self, stream: Any, marks: int) -> None:
        self._stream = stream
        self._events = [driver().Event() for _ in range(marks)]

    def mark(self, i: int) -> None:
        self._events[i].record(self._stream)

    def between_ms(self) -> list[float]:
        """From every mark to the next one, after the stream was synchronised."""
        return [float(a.time_till(b)) for a, b in zip(self._events, self._events[1:], strict=False)]


class CudaGraph:
    """What `enqueue` puts on a stream, captured once and launched as one.

    PyCUDA has no graphs, so they come from `cuda.bindings`, on the handle of PyCUDA's stream. Any exception of the
    constructor means that the work has to be enqueued as before; the stream is as it was then.

    Args:
        handle: of a stream that is not the default one, with nothing running on it.
        enqueue: has run once on this stream before, with the same shapes and addresses.
    """

    def __init__(self, handle: int, enqueue: Callable[[], None]) -> None:
        self._cuda = cuda = importlib.import_module("cuda.bindings.driver")
        self._handle = handle
        # of this thread alone: others, torch's say, may allocate while we capture
        self._call(cuda.cuStreamBeginCapture, handle, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            result, graph = cuda.cuStreamEndCapture(handle)  # takes the stream out of capturing, even where it fails
            if result == cuda.CUresult.CUDA_SUCCESS:
                cuda.cuGraphDestroy(graph)
            raise
        graph = self._call(cuda.cuStreamEndCapture, handle)
        try:
            self._executable = self._call(cuda.cuGraphInstantiate, graph, 0)
        finally:
            cuda.cuGraphDestroy(graph)

    def launch(self) -> None:
        self._call(self._cuda.cuGraphLaunch, self._executable, self._handle)

    def free(self) -> None:
        self._cuda.cuGraphExecDestroy(self._executable)

    def _call(self, function: Any, *arguments: Any) -> Any:
        """The value of a function of the driver; RuntimeError for any result but success."""
        result, *values = function(*arguments)
        if result != self._cuda.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{function.__name__} gives {getattr(result, 'name', result)}")
        return values[0] if values else None
