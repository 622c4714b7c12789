"""Scripts for the recorders: a TensorRT that parses, builds and runs a small network, and one that echoes its input."""

from __future__ import annotations

import numpy as np
from fake_cuda import Cuda
from recorder import Recorder, Script, Tape

SIZE = 32
# type, dtype of inputs' names and of the output
LAYERS = (
    ("CONSTANT", (), "weights", "FLOAT"),
    ("QUANTIZE", ("frame",), "q", "INT8"),
    ("DEQUANTIZE", ("q",), "dq", "FLOAT"),
    ("CONVOLUTION", ("dq", "weights"), "conv", "FLOAT"),
    ("ELEMENTWISE", ("conv",), "norm", "FLOAT"),
    ("IDENTITY", ("norm",), "half", "HALF"),
    ("MATRIX_MULTIPLY", ("half",), "product", "HALF"),
    ("SHAPE", ("product",), "shape", "INT32"),
    ("CONCATENATION", ("product", "product"), "both", "HALF"),
)


def building(tape: Tape, changes: Script | None = None) -> Script:
    """A build that succeeds, but for `changes` (`Class.member` to an answer)."""

    def tensor(name: str, dtype: str) -> Recorder:
        made = tape.make("ITensor")
        made.state.update(name=name, dtype=tape.enum("DataType", dtype), is_execution_tensor=dtype != "INT32")
        return made

    def layer(_: Recorder, index: int) -> Recorder:
        kind, inputs, output, dtype = LAYERS[index]
        made = tape.make("ILayer")
        made.state.update(
            name=f"layer {output}", type=tape.enum("LayerType", kind), num_inputs=len(inputs), num_outputs=1,
            inputs=[tensor(name, "FLOAT") for name in inputs], output=tensor(output, dtype)
        )  # fmt: skip
        return made

    script: Script = {
        "OnnxParser.num_errors": 0,
        "INetworkDefinition.num_layers": len(LAYERS),
        "INetworkDefinition.get_layer": layer,
        "ILayer.get_input": lambda self, index: self.state["inputs"][index],
        "ILayer.get_output": lambda self, index: self.state["output"],
        "Builder.num_DLA_cores": 2,
        "IBuilderConfig.can_run_on_DLA": lambda self, asked: asked.state["name"] != "layer norm",
        "EngineInspector.get_engine_information": '{"Layers": []}',
        **engine(tape),
    }
    return script | (changes or {})


PROFILED = (("convolution + relu", 0.25), ("head", 0.5), ("head", 0.25))
"""what a profiled inference reports, in ms; a layer may come twice"""


def engine(
    tape: Tape, cuda: Cuda | None = None, batch: tuple[int, int, int] = (1, 1, 4), changes: Script | None = None
) -> Script:
    """A plan with the outputs `nodule`, which is its input, and `size`, the share of bright pixels."""
    tensors = {
        "frame": ("INPUT", "UINT8", (-1, 1, SIZE, SIZE)),
        "nodule": ("OUTPUT", "UINT8", (-1, 1, SIZE, SIZE)),
        "size": ("OUTPUT", "FLOAT", (-1,)),
    }

    def execute(self: Recorder, stream_handle: int) -> bool:
        assert cuda is not None and stream_handle == 4242
        (count, _, _, _), addresses = self.state["shape"], self.state["addresses"]

        def work() -> None:
            pixels = count * SIZE * SIZE
            frames = bytes(cuda.memory[addresses["frame"]][:pixels])
            cuda.memory[addresses["nodule"]][:pixels] = frames
            bright = (np.frombuffer(frames, np.uint8).reshape(count, -1) > 127).mean(1, dtype=np.float32)
            cuda.memory[addresses["size"]][: 4 * count] = bright.tobytes()

        if cuda.capturing is None:
            work()
        else:
            assert self.state["warm"] == self.state["shape"], "captured before it ran once"
            cuda.capturing.append(work)
        self.state["warm"] = self.state["shape"]
        if profiler := self.state.get("profiler"):
            for name, ms in PROFILED:
                profiler.report_layer_time(name, ms)
        return True

    def set_shape(self: Recorder, name: str, shape: tuple[int, ...]) -> bool:
        self.state["shape"] = shape
        return name == "frame"

    def set_address(self: Recorder, name: str, memory: int) -> bool:
        self.state.setdefault("addresses", {})[name] = memory
        return name in tensors and memory > 0

    script: Script = {
        "ICudaEngine.num_io_tensors": len(tensors),
        "ICudaEngine.num_layers": 5,
        "ICudaEngine.device_memory_size": 1000,
        "ICudaEngine.device_memory_size_v2": 2000,
        "ICudaEngine.get_tensor_name": lambda self, index: list(tensors)[index],
        "ICudaEngine.get_tensor_mode": lambda self, name: tape.enum("TensorIOMode", tensors[name][0]),
        "ICudaEngine.get_tensor_dtype": lambda self, name: tape.enum("DataType", tensors[name][1]),
        "ICudaEngine.get_tensor_shape": lambda self, name: tensors[name][2],
        "ICudaEngine.get_tensor_format_desc": "row major",
        "ICudaEngine.get_tensor_profile_shape": [(n, 1, SIZE, SIZE) for n in batch],
        "IExecutionContext.set_input_shape": set_shape,
        "IExecutionContext.set_tensor_address": set_address,
        "IExecutionContext.execute_async_v3": execute,
    }
    return script | (changes or {})
