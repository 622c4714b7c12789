"""Plan to engine: `TensorRtEngine.infer` shows the way of a batch through the device."""

from __future__ import annotations

import atexit
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from engines import rebuild_command
from engines.base import BaseEngine
from engines.tensorrt_gpu import bindings as b
from engines.tensorrt_gpu import cuda
from ssmt_edge.errors import EngineError, EngineMismatch
from ssmt_edge.spec import EngineManifest

PLAN_FILE = "model.plan"
INPUT = "frame"


class TensorRtEngine(BaseEngine):
    """A plan with one execution context and one stream; see `ssmt_edge.spec.Engine`.

    The kernels of a batch size are enqueued one by one the first time and captured as a CUDA graph the second time.
    Only the last size has a graph, because TensorRT forbids to change a context from which a graph was captured. `note`
    says why there are no graphs, if there are none: then every batch is enqueued one by one.

    Raises:
        EngineMismatch: TensorRT refuses the plan.
        EngineError: the plan is not one of ours, or CUDA fails; nothing stays allocated.
    """

    def __init__(self, folder: Path, manifest: EngineManifest) -> None:
        super().__init__(manifest.spec, manifest.max_batch)
        self._manifest, self._folder = manifest, folder
        self.note: str | None = None
        self.last_times_ms: dict[str, float] = {}
        """of the last batch, by the device's clock: `h2d` (to the device), `compute`, `d2h` (back); there is nothing to
        copy where device and host share memory"""
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._clock: Any = None
        self._buffers: dict[str, cuda.Buffer] = {}
        self._graph: cuda.CudaGraph | None = None
        self._batch = 0  # that the context is set to
        self._enqueued = False  # whether that batch ran once, which a capture needs
        self._resources = ExitStack()
        again = rebuild_command(folder, manifest)
        with b.told(f"opening {folder}", again), cuda.current(), ExitStack() as failing:
            failing.callback(self._resources.close)
            self._open()
            failing.pop_all()
        _OPEN.add(self)

    def _open(self) -> None:
        trt = b.bindings()
        b.said()
        engine = self._deserialise(trt)
        self._keep("_engine", engine)
        inputs, outputs = self._tensors(trt, engine)
        size = self._manifest.spec.input_size
        if list(inputs) != [INPUT] or inputs[INPUT] != ((1, size, size), np.uint8):
            raise self._foreign(f"takes {inputs or 'nothing'}, expected {INPUT} uint8 [N, 1, {size}, {size}]")
        if set(outputs) != set(self._manifest.outputs):
            raise self._foreign(f"gives {', '.join(outputs)}, expected {', '.join(self._manifest.outputs)}")
        smallest, _, largest = (int(shape[0]) for shape in engine.get_tensor_profile_shape(INPUT, 0))
        self.min_batch, self.max_batch = smallest, largest
        mapped = cuda.shares_memory()
        for name, (shape, dtype) in {**inputs, **outputs}.items():
            self._buffers[name] = buffer = cuda.Buffer((largest, *shape), dtype, mapped)
            self._resources.callback(buffer.free)
        context = engine.create_execution_context()
        if context is None:
            raise self._foreign(f"does not run{b.said()}; free memory on the GPU, or build for smaller batches")
        self._keep("_context", context)
        self._keep("_stream", cuda.driver().Stream(cuda.NON_BLOCKING))
        self._keep("_clock", cuda.Clock(self._stream, 4))
        self._resources.callback(self._drop_graph)
        self._resources.callback(self._settle)

    def _keep(self, name: str, resource: Any) -> None:
        """Holds what is freed with its last reference, until `close` lets go of it."""
        setattr(self, name, resource)
        self._resources.callback(setattr, self, name, None)

    def _deserialise(self, trt: Any) -> Any:
        remarks = self._manifest.remarks
        runtime = trt.Runtime(b.logger())
        if remarks.get("version_compatible"):
            b.allow_host_code(runtime)
        if remarks.get("dla") is not None:
            runtime.DLA_core = int(remarks["dla"])
        engine = runtime.deserialize_cuda_engine((self._folder / PLAN_FILE).read_bytes())
        if engine is None:
            built = self._manifest.device
            raise EngineMismatch(
                f"{self._folder / PLAN_FILE}, built with TensorRT {self._manifest.backend_version} for {built.name} "
                f"(compute capability {built.compute_capability}), is refused by TensorRT {trt.__version__} on this "
                f"machine{b.said()}; {rebuild_command(self._folder, self._manifest)}"
            )
        return engine

    def _tensors(self, trt: Any, engine: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and outputs: name to ([...] without the batch, dtype)."""
        inputs: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
            shape = tuple(int(n) for n in engine.get_tensor_shape(name))[1:]
            if min(shape, default=1) < 1:
                raise self._foreign(f"leaves the shape of {name} open: {list(shape)}")
            side[name] = (shape, b.numpy_type(trt, engine.get_tensor_dtype(name)))
        return inputs, outputs

    def _foreign(self, what: str) -> EngineError:
        return EngineError(f"{self._folder / PLAN_FILE} {what}; {rebuild_command(self._folder, self._manifest)}")

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if self._context is None:
            raise EngineError("the engine is closed; open it again")
        self.check(frames)
        count, stream = len(frames), self._stream
        with b.told("computing"), cuda.current():
            if count != self._batch:
                self._set_batch(count)
            np.copyto(self._buffers[INPUT].host[:count], frames)
            self._clock.mark(0)
            self._buffers[INPUT].upload(count, stream)
            self._clock.mark(1)
            self._compute()
            self._clock.mark(2)
            for name in self._manifest.outputs:
                self._buffers[name].download(count, stream)
            self._clock.mark(3)
            stream.synchronize()
            self._enqueued = True
            self.last_times_ms = dict(zip(("h2d", "compute", "d2h"), self._clock.between_ms(), strict=True))
            return {name: self._buffers[name].host[:count].copy() for name in self._manifest.outputs}

    def _set_batch(self, count: int) -> None:
        self._drop_graph()
        self._batch, self._enqueued = 0, False
        size = self.spec.input_size
        done = self._context.set_input_shape(INPUT, (count, 1, size, size))
        for name, buffer in self._buffers.items():
            done = done and self._context.set_tensor_address(name, buffer.address)
        if not done:
            raise EngineError(f"TensorRT does not take a batch of {count}{b.said()}")
        self._batch = count

    def _compute(self) -> None:
        if self._graph is None and self._enqueued and self.note is None:
            try:
                self._graph = cuda.CudaGraph(self._stream.handle, self._enqueue)
            except Exception as error:  # of cuda.bindings, its absence, or TensorRT: there is another way
                self.note = " ".join(f"no CUDA graph: {error}{b.said()}".split())
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError(f"TensorRT does not start{b.said()}")

    def profile(self, profiler: Any) -> None:
        """Gives every layer's time to a `tensorrt.IProfiler`, from now on; a graph of kernels would tell it nothing."""
        self._drop_graph()
        self.note = "no CUDA graph: layers are profiled"
        self._context.profiler = profiler

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.free()

    def _settle(self) -> None:
        """Waits for what an interrupted `infer` left running, before its memory goes."""
        with suppress(Exception):  # of PyCUDA: a device that failed said so when it failed
            self._stream.synchronize()

    def close(self) -> None:
        if self._context is None:
            return
        with b.told("closing"), cuda.current():
            self._resources.close()

    def __del__(self) -> None:
        # in a thread that did not open the engine PyCUDA frees nothing by itself
        with suppress(Exception):
            self.close()


_OPEN: WeakSet[TensorRtEngine] = WeakSet()


@atexit.register
def _leave() -> None:
    """Frees what was not closed while there still is a context to free it in."""
    for left in list(_OPEN):
        left.close()
    cuda.leave()
