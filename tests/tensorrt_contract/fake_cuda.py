"""PyCUDA and `cuda.bindings.driver` without a GPU: memory that holds bytes, contexts that must be current, and a list
of what has not been freed. Only what ssmt-edge uses, under PyCUDA's own names."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Cuda:
    """One device. `fail` makes the n-th use of a function raise."""

    def __init__(self, integrated: bool = False) -> None:
        self.integrated = integrated
        self.stack: list[Any] = []
        self.memory: dict[int, memoryview] = {}
        self.live: dict[str, int] = {}
        self.fail: dict[str, int] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.captures = self.launches = self.detached = 0
        self._next = 0x1000

    # -- bookkeeping

    def use(self, name: str, needs_context: bool = True) -> None:
        if needs_context and not self.stack:
            raise LogicError(f"{name}: no currently active context?")
        if name in self.fail:
            self.fail[name] -= 1
            if self.fail[name] == 0:
                raise LogicError(f"{name} failed: injected")

    def made(self, kind: str) -> None:
        self.live[kind] = self.live.get(kind, 0) + 1

    def gone(self, kind: str) -> None:
        self.live[kind] -= 1

    def held(self) -> dict[str, int]:
        return {kind: count for kind, count in self.live.items() if count}

    def address(self, size: int) -> int:
        self._next += size + 256
        return self._next - size

    # -- pycuda.driver

    def pycuda(self) -> ModuleType:
        cuda, module = self, ModuleType("pycuda.driver")

        class Context:
            def push(self) -> None:
                cuda.stack.append(self)

            @staticmethod
            def pop() -> None:
                cuda.stack.pop()

            def detach(self) -> None:
                cuda.detached += 1

        class Device:
            def __init__(self, ordinal: int) -> None:
                assert ordinal == 0

            def retain_primary_context(self) -> Context:
                cuda.use("retain_primary_context", False)
                return Context()

            def get_attribute(self, which: str) -> int:
                return int(cuda.integrated)

        class DeviceAllocation:
            def __init__(self, size: int) -> None:
                cuda.use("mem_alloc")
                self._address: int | None = cuda.address(size)
                cuda.memory[self._address] = memoryview(bytearray(size))
                cuda.made("device memory")

            def __int__(self) -> int:
                assert self._address is not None
                return self._address

            def free(self) -> None:
                cuda.use("free")
                assert self._address is not None, "freed twice"
                del cuda.memory[self._address]
                self._address = None
                cuda.gone("device memory")

        class Pinned:
            """Base of the array that pagelocked_empty returns."""

            def __init__(self, shape: tuple[int, ...], dtype: Any, mem_flags: int) -> None:
                cuda.use("pagelocked_empty")
                self.backing = np.full(shape, 7, dtype)  # not zeros: what is not written must not look right
                self.__array_interface__ = self.backing.__array_interface__
                self.mapped, self.freed, self._address = mem_flags == 2, False, 0
                cuda.made("pinned memory")

            def get_device_pointer(self) -> int:
                cuda.use("get_device_pointer")
                assert self.mapped
                self._address = cuda.address(self.backing.nbytes)
                cuda.memory[self._address] = memoryview(self.backing.reshape(-1).view(np.uint8))
                return self._address

            def free(self) -> None:
                cuda.use("free")
                assert not self.freed, "freed twice"
                self.freed = True
                cuda.memory.pop(self._address, None)
                cuda.gone("pinned memory")

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                cuda.use("Stream")
                assert flags == 1, "a stream that waits for the default one"
                self.handle = 4242
                cuda.made("stream")
                weakref.finalize(self, cuda.gone, "stream")

            def synchronize(self) -> None:
                cuda.use("synchronize")
                assert cuda.capturing is None, "synchronised while capturing"

        class Event:
            def __init__(self, flags: int = 0) -> None:
                cuda.use("Event")
                cuda.made("event")
                weakref.finalize(self, cuda.gone, "event")

            def record(self, stream: Stream) -> Event:
                cuda.use("record")
                return self

            def time_till(self, event: Event) -> float:
                return 0.25

        def htod(destination: DeviceAllocation, source: Any, stream: Stream) -> None:
            cuda.use("memcpy_htod_async")
            data = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
            cuda.memory[int(destination)][: data.nbytes] = memoryview(data)

        def dtoh(destination: Any, source: DeviceAllocation, stream: Stream) -> None:
            cuda.use("memcpy_dtoh_async")
            flat = destination.reshape(-1).view(np.uint8)
            flat[:] = np.frombuffer(cuda.memory[int(source)], np.uint8)[: flat.nbytes]

        def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
            return np.asarray(Pinned(shape, dtype, mem_flags))

        module.__dict__.update(
            init=lambda flags=0: None, Device=Device, Context=Context, Stream=Stream, Event=Event,
            mem_alloc=DeviceAllocation, memcpy_htod_async=htod, memcpy_dtoh_async=dtoh,
            pagelocked_empty=pagelocked_empty, host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
            device_attribute=SimpleNamespace(INTEGRATED="integrated", CAN_MAP_HOST_MEMORY="map"),
        )  # fmt: skip
        return module

    # -- cuda.bindings.driver

    def bindings(self) -> ModuleType:
        cuda, module = self, ModuleType("cuda.bindings.driver")

        class CUresult(IntEnum):
            CUDA_SUCCESS = 0
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900

        class CUstreamCaptureMode(IntEnum):
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

        def answer(name: str) -> CUresult:
            try:
                cuda.use(name)
            except LogicError:
                return CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            return CUresult.CUDA_SUCCESS

        def cuStreamBeginCapture(hStream: int, mode: CUstreamCaptureMode) -> tuple[Any]:
            assert hStream == 4242 and mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            result = answer("cuStreamBeginCapture")
            if not result:
                cuda.capturing = []
            return (result,)

        def cuStreamEndCapture(hStream: int) -> tuple[Any, Any]:
            captured, cuda.capturing = cuda.capturing, None
            result = answer("cuStreamEndCapture")
            if result:
                return result, None
            cuda.made("graph")
            return result, captured

        def cuGraphInstantiate(hGraph: Any, flags: int) -> tuple[Any, Any]:
            result = answer("cuGraphInstantiate")
            if result:
                return result, None
            cuda.made("executable graph")
            cuda.captures += 1
            return result, hGraph

        def cuGraphDestroy(hGraph: Any) -> tuple[Any]:
            cuda.gone("graph")
            return (answer("cuGraphDestroy"),)

        def cuGraphExecDestroy(hGraphExec: Any) -> tuple[Any]:
            cuda.gone("executable graph")
            return (answer("cuGraphExecDestroy"),)

        def cuGraphLaunch(hGraphExec: Any, hStream: int) -> tuple[Any]:
            cuda.launches += 1
            for work in hGraphExec:
                work()
            return (answer("cuGraphLaunch"),)

        for item in (CUresult, CUstreamCaptureMode, cuStreamBeginCapture, cuStreamEndCapture, cuGraphInstantiate,
                     cuGraphDestroy, cuGraphExecDestroy, cuGraphLaunch):  # fmt: skip
            setattr(module, item.__name__, item)
        return module


class LogicError(Exception):
    """Stands for pycuda.driver.LogicError."""
