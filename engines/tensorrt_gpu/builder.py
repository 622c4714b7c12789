"""ONNX file to plan, read top to bottom: parse, configure, build, inspect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.options import Say, TensorRtOptions
from engines.tensorrt_gpu import bindings as b
from engines.tensorrt_gpu import timings
from engines.tensorrt_gpu.progress import Progress, watch
from engines.tensorrt_gpu.typing85 import constrain
from ssmt_edge.errors import BackendUnavailable, EngineError, UsageError
from ssmt_edge.spec import Device, Precision

_LISTED = 10
"""parser errors that a message spells out"""


@dataclass(frozen=True)
class Order:
    """What is to be built."""

    model: Path
    """ONNX file whose tensors are typed as the engine shall compute"""
    nodes: tuple[str, ...]
    """names of its nodes, for messages"""
    precision: Precision
    size: int
    """S of the input `frame`, uint8 [N, 1, S, S]"""
    batch: tuple[int, int, int]
    """smallest, usual and largest N"""
    options: TensorRtOptions
    device: Device


def build_plan(order: Order, say: Say, progress: Progress) -> tuple[bytes, str, dict[str, Any]]:
    """Builds a plan on this machine's GPU; takes minutes unless the timing cache knows the layers.

    Returns:
        The plan, the inspector's JSON, and remarks for `engine.json`.

    Raises:
        UsageError: an option that this version or device does not have.
        EngineError: TensorRT refuses the graph, or fails.
    """
    trt = b.bindings()
    # a DLA takes strongly typed networks from 11 on, where the flags are gone
    typed = b.is_typed(trt) and not (order.options.dla is not None and hasattr(trt.BuilderFlag, "FP16"))
    b.said()
    b.warned()
    with b.told("building"):
        builder = trt.Builder(b.logger())
        network = builder.create_network(b.network_flags(trt, typed))
        parser = trt.OnnxParser(network, b.logger())
        if not parser.parse_from_file(str(order.model)):
            raise EngineError(_parser_errors(trt, parser, order.nodes))
        config = builder.create_builder_config()
        _configure(trt, config, order)
        if not typed:
            constrain(trt, network, config, order.precision)
        _add_profile(builder, config, order)
        fell_back = _use_dla(trt, builder, network, config, order, say)
        file = timings.cache_file(order.options.timing_cache, order.device, trt.__version__)
        cached = timings.load(config, file, say)
        say(f"TensorRT {trt.__version__} builds for {order.device.name}{'' if cached else ': this takes minutes'}")
        watching = watch(trt, config, progress)
        plan = builder.build_serialized_network(network, config)
        del watching  # it had to live until here
        if plan is None:
            raise EngineError(f"TensorRT {trt.__version__} cannot build this network{b.said()}")
        timings.save(config, file, say)
        content = bytes(plan)
        layers, found = _inspect(trt, content, order)
    return content, layers, {
        "tensorrt": trt.__version__,
        "device": asdict(order.device),
        "strongly_typed": typed,
        "batch": list(order.batch),
        "timing_cache": "used" if cached else "new",
        "version_compatible": order.options.version_compatible,
        "hardware_compatible": order.options.hardware_compatible,
        "optimisation_level": order.options.optimisation_level,
        "workspace_mib": order.options.workspace_mib,
        "tactic_sources": order.options.tactic_sources,
        "dla": order.options.dla,
        "dla_fell_back": fell_back,
        "plan_bytes": len(content),
        "warnings": b.warned(),
        **found,
    }  # fmt: skip


def _parser_errors(trt: Any, parser: Any, nodes: tuple[str, ...]) -> str:
    """All that the parser has against the graph, in one line."""
    flaws = [parser.get_error(i) for i in range(parser.num_errors)]
    lines = [f"{b.where(flaw, nodes)}: {flaw.desc()} ({flaw.code()})" for flaw in flaws]
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return (
        f"TensorRT {trt.__version__} does not take this graph, {len(lines)} errors: "
        f"{'; '.join(lines[:_LISTED])}{more}" + ("" if lines else b.said())
    )


def _configure(trt: Any, config: Any, order: Order) -> None:
    options = order.options
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names and tactics for layers.json
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, with 10 bits of mantissa: what is FP32 has its reason
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimisation_level is not None:
        b.set_level(trt, config, options.optimisation_level)
    if options.version_compatible:
        b.set_version_compatible(trt, config)
    if options.hardware_compatible:
        b.set_hardware_compatible(trt, config)
    if options.tactic_sources is not None:
        config.set_tactic_sources(b.tactic_mask(trt, options.tactic_sources))


def _add_profile(builder: Any, config: Any, order: Order) -> None:
    shapes = [(n, 1, order.size, order.size) for n in order.batch]
    profile = builder.create_optimization_profile()
    profile.set_shape("frame", shapes[0], shapes[1], shapes[2])
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT does not take batches of {order.batch}{b.said()}")


def _use_dla(trt: Any, builder: Any, network: Any, config: Any, order: Order, say: Say) -> list[str]:
    """Hands the network to the accelerator if that was asked for; names of the layers that stay on the GPU."""
    core = order.options.dla
    if core is None:
        return []
    if core >= builder.num_DLA_cores:
        raise BackendUnavailable(
            f"DLA core {core} was asked for, {order.device.name} has {builder.num_DLA_cores} of them, counted from 0; "
            "leave the option out"
        )
    if order.precision != "fp16" or order.batch[0] != order.batch[2]:
        raise UsageError(
            f"{order.precision} with batches of {order.batch[0]} to {order.batch[2]} was asked for, but the DLA takes "
            "fp16 and a single size of batch"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    names = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    say(f"DLA core {core} runs {len(layers) - len(names)} of {len(layers)} layers, the GPU the rest (engine.json)")
    return names


def _inspect(trt: Any, plan: bytes, order: Order) -> tuple[str, dict[str, Any]]:
    """The inspector's JSON of every layer, and what the plan takes and needs."""
    runtime = trt.Runtime(b.logger())
    if order.options.version_compatible:
        b.allow_host_code(runtime)
    if order.options.dla is not None:
        runtime.DLA_core = order.options.dla
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT {trt.__version__} cannot load what it has just built{b.said()}")
    layers = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    tensors = {}
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        tensors[name] = {
            "mode": "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output",
            "type": b.numpy_type(trt, engine.get_tensor_dtype(name)).name,
            "shape": [int(n) for n in engine.get_tensor_shape(name)],
            "format": str(engine.get_tensor_format_desc(name)),
        }
    return layers, {
        "tensors": tensors, "layers": int(engine.num_layers), "device_memory_bytes": b.device_memory(engine)
    }  # fmt: skip
