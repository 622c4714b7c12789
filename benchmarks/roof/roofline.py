"""How near an engine comes to what its machine allows (the roofline of Williams, Waterman and Patterson, 2009)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.roof.layers import Executed, Layers, layer_times
from engines import read_manifest

SLOWEST = 10
METHOD = (
    "the floor of a layer is the longer of its multiply-accumulates at the measured rate of its precision and of its "
    "bytes (inputs, weights and outputs once) at the measured bandwidth for so many bytes; that of the whole is the "
    "sum over the products alone, as if all else were fused into them"
)


def roofline(folder: Path, threads: int, ceilings: dict[str, Any]) -> dict[str, Any] | None:
    """Times the layers of an engine and holds them against the machine's ceilings.

    Args:
        folder: engine folder.
        threads: as for `open_engine`.
        ceilings: of `benchmarks.roof.ceilings`, measured with as many threads; under `gpu`, where there is one,
            those of `gpu_ceilings`, which count for the layers of TensorRT.

    Returns:
        None where the backend tells no times of layers; else JSON values: `layers`, the ten slowest and one row for
        all others, each with `name`, `op`, `mac`, `bytes`, `ms`, `share` (of the sum over layers), `gmac_s`,
        `of_ceiling` (floor / ms), `bound` (`arithmetic` or `bandwidth`), both None without a ceiling of that precision
        or where nobody tells the bytes; `by_op`: `op`, `count`, `ms`, `share`, `mac`, the slowest first; `measured_ms`
        (without the profiler),
        `profiled_ms`, `sum_ms` (of the layers), `floor_ms`, `of_ceiling` (floor / measured), `products_share` (of the
        layers' time, what goes into products), `counted_bytes` (of the graph, by `COUNT_RULE`), `method`.

    Raises:
        EngineError, EngineMismatch, BackendUnavailable: as `layer_times`.
    """
    layers = layer_times(folder, threads)
    if layers is None:
        return None
    on_gpu = read_manifest(folder).backend == "tensorrt"
    return against(layers, (ceilings.get("gpu") or {"products": [], "bandwidth": None}) if on_gpu else ceilings)


def against(layers: Layers, ceilings: dict[str, Any]) -> dict[str, Any]:
    """`roofline` of layers that are timed already."""
    machine = _Machine(ceilings)
    total = layers.sum_ms
    slowest = sorted(layers.executed, key=lambda layer: -layer.ms)
    rows = [_row(layer, total, machine) for layer in slowest[:SLOWEST]]
    if rest := slowest[SLOWEST:]:
        rows.append(_rest(rest, total, machine))
    floors = [machine.floor_ms(layer) for layer in layers.executed if layer.mac]
    floor = None if None in floors else sum(filter(None, floors))
    return {
        "layers": rows,
        "by_op": _by_op(layers.executed, total),
        "measured_ms": layers.measured_ms,
        "profiled_ms": layers.profiled_ms,
        "sum_ms": total,
        "floor_ms": floor,
        "of_ceiling": None if floor is None else floor / layers.measured_ms,
        "products_share": sum(layer.ms for layer in layers.executed if layer.mac) / total,
        "counted_bytes": layers.count.bytes,
        "method": f"{layers.how}, with which an inference took {layers.profiled_ms / layers.measured_ms:.2f} times as "
        f"long; {METHOD}",
    }


class _Machine:
    """Ceilings as rates: multiply-accumulates and bytes a millisecond."""

    def __init__(self, ceilings: dict[str, Any]) -> None:
        self._products = {p["precision"]: p["gmac_s"] * 1e6 for p in ceilings["products"]}
        bandwidth = ceilings["bandwidth"] or {"gb_s": None}
        self._sizes = [(s["mib"] * 2**20, s["gb_s"] * 1e6) for s in bandwidth.get("by_size", [])]
        self._memory = None if bandwidth["gb_s"] is None else bandwidth["gb_s"] * 1e6

    def arithmetic_ms(self, mac: int, precision: str) -> float | None:
        if not mac:
            return 0.0
        rate = self._products.get(precision)
        return None if rate is None else mac / rate

    def bandwidth_ms(self, size: int | None) -> float | None:
        """At the best rate of arrays of this size or larger: smaller ones come out of a cache."""
        if self._memory is None or size is None:
            return None
        return size / max([rate for at_least, rate in self._sizes if at_least >= size], default=self._memory)

    def floor_ms(self, layer: Executed) -> float | None:
        arithmetic, bandwidth = self.arithmetic_ms(layer.mac, layer.precision), self.bandwidth_ms(layer.bytes)
        return None if arithmetic is None or bandwidth is None else max(arithmetic, bandwidth)

    def bound(self, layer: Executed) -> str | None:
        """Which of both is longer; None where one is not known."""
        arithmetic, bandwidth = self.arithmetic_ms(layer.mac, layer.precision), self.bandwidth_ms(layer.bytes)
        if arithmetic is None or bandwidth is None:
            return None
        return "arithmetic" if layer.mac and arithmetic >= bandwidth else "bandwidth"


def _row(layer: Executed, total_ms: float, machine: _Machine) -> dict[str, Any]:
    floor = machine.floor_ms(layer)
    return {
        "name": layer.name,
        "op": layer.op,
        "precision": layer.precision,
        "mac": layer.mac,
        "bytes": layer.bytes,
        "ms": layer.ms,
        "share": layer.ms / total_ms,
        "gmac_s": layer.mac / layer.ms / 1e6 if layer.ms else None,
        "of_ceiling": floor / layer.ms if floor is not None and layer.ms else None,
        "bound": machine.bound(layer),
    }


def _rest(layers: Sequence[Executed], total_ms: float, machine: _Machine) -> dict[str, Any]:
    """One row for many layers; named are the operators that take most of their time."""
    ms, mac = sum(layer.ms for layer in layers), sum(layer.mac for layer in layers)
    floors = [machine.floor_ms(layer) for layer in layers]
    sizes = [layer.bytes for layer in layers]
    within: dict[str | None, float] = defaultdict(float)
    for layer in layers:
        within[machine.bound(layer)] += layer.ms
    ops = [f"{row['count']} {row['op']} {row['share']:.1%}" for row in _by_op(layers, total_ms)]
    return {
        "name": "everything else",
        "op": ", ".join(ops[:SLOWEST]),
        "precision": None,
        "mac": mac,
        "bytes": None if None in sizes else sum(filter(None, sizes)),
        "ms": ms,
        "share": ms / total_ms,
        "gmac_s": mac / ms / 1e6 if ms else None,
        "of_ceiling": sum(filter(None, floors)) / ms if ms and None not in floors else None,
        "bound": max(within, key=lambda bound: within[bound]),
    }


def _by_op(layers: Sequence[Executed], total_ms: float) -> list[dict[str, Any]]:
    groups: dict[str, list[Executed]] = defaultdict(list)
    for layer in layers:
        groups[layer.op or layer.name].append(layer)
    rows = [
        {
            "op": op,
            "count": len(group),
            "ms": sum(layer.ms for layer in group),
            "share": sum(layer.ms for layer in group) / total_ms,
            "mac": sum(layer.mac for layer in group),
        }
        for op, group in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["ms"])
