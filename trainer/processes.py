"""One training process, or several that share every batch: on one node started here, on many by torchrun or SLURM."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import StrategyRegistry

from ssmt_edge.errors import SsmtError, UsageError
from trainer.config import TrainConfig

Say = Callable[[str], None]
DDP = "ddp_find_unused_parameters_true"  # a batch may lack the labels of a task, whose decoder is then unused


def to_start(config: TrainConfig) -> int:
    """How many processes this one has to start on its node; 1: it trains itself.

    Also 1 where torchrun, SLURM or `in_processes` started it.
    """
    if "LOCAL_RANK" in os.environ or SLURMEnvironment.detect():
        return 1
    count = max(1, torch.cuda.device_count()) if config.devices == "auto" else config.devices
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if config.nodes > 1 and missing:
        raise UsageError(
            f"{config.nodes} nodes, but {missing[0]} is not set; start the command on every node with torchrun or "
            "SLURM, or set MASTER_ADDR, MASTER_PORT and NODE_RANK"
        )
    return count


def hardware(config: TrainConfig) -> dict[str, Any]:
    """Options of Lightning's Trainer for devices, nodes, strategy and precision.

    Raises:
        UsageError: an unknown strategy, fp16 without a GPU, or devices that this machine or its scheduler has not.
    """
    known = [n for n in StrategyRegistry.available_strategies() if not n.endswith(("spawn", "fork", "notebook"))]
    if config.strategy not in ("auto", *known):
        raise UsageError(f"strategy {config.strategy!r}, expected auto or one of {', '.join(sorted(known))}")
    gpu = torch.cuda.is_available()
    if config.precision == "fp16" and not gpu:
        raise UsageError("precision fp16 needs a GPU, and PyTorch finds none here; use bf16 or 32")
    several = config.nodes > 1 or "LOCAL_RANK" in os.environ or SLURMEnvironment.detect()
    strategy = config.strategy
    if strategy in ("auto", "ddp"):
        strategy = DDP if several else "auto"
    devices = config.devices if gpu or config.devices != "auto" else 1
    return {
        "accelerator": "gpu" if gpu else "cpu",
        "devices": devices,
        "num_nodes": config.nodes,
        "strategy": strategy,
        "precision": _precision(config.precision, gpu),
    }


def _precision(asked: str, gpu: bool) -> str:
    if asked == "auto":
        if gpu:
            has = torch.cuda.is_bf16_supported()
        else:
            has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        asked = "bf16" if has else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[asked]


def place(options: dict[str, Any]) -> tuple[int, int]:
    """Number of this process among all, and how many there are; UsageError where the hardware cannot be had."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        trainer = L.Trainer(**options, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UsageError(f"devices {options['devices']}, nodes {options['num_nodes']}: {error}") from None
    return trainer.global_rank, trainer.world_size


def in_processes(count: int, work: Callable[..., Any], *arguments: Any, say: Say) -> Any:
    """Calls `work(*arguments, say)` in `count` new processes, as ranks 0..count - 1 of this node.

    Returns what the first one returned. Lines that it says arrive at `say` here. When one fails, all end.

    Raises:
        SsmtError: what a process raised first, or the signal that ended it.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    settings = {"MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1")}
    settings["MASTER_PORT"] = os.environ.get("MASTER_PORT", str(port))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns where every task had its labels
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    processes = [
        context.Process(target=_process, args=(rank, settings, messages, work, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    result = None
    try:
        while True:
            running = any(process.is_alive() for process in processes)
            try:
                kind, value = messages.get(timeout=0.2)
            except queue.Empty:
                _check(processes)
                if not running:
                    return result
                continue
            if kind == "say":
                say(value)
            elif kind == "result":
                result = value
            else:
                _check(processes)  # one that was killed makes the others fail
                raise value
    finally:
        for process in processes:
            process.kill()  # what waits for a lost process in a collective hears no gentler signal
            process.join()


def _check(processes: Sequence[Any]) -> None:
    for rank, process in enumerate(processes):
        if process.exitcode:
            code = process.exitcode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise SsmtError(
                f"training process {rank} ended with {how}; the others were stopped. SIGKILL can mean that the "
                "memory ran out: lower --batch-size or --workers, then go on with --resume"
            )


def _process(rank: int, settings: dict[str, str], messages: Any, work: Any, arguments: Any) -> None:
    os.environ.update(settings, LOCAL_RANK=str(rank))
    end_with_parent()
    try:
        result = work(*arguments, lambda line: messages.put(("say", line)))
        if rank == 0:
            messages.put(("result", result))
    except KeyboardInterrupt:
        pass  # the process that waits got it, too
    except (SsmtError, OSError) as error:
        messages.put(("error", error))
    except BaseException:
        messages.put(("error", RuntimeError(f"in training process {rank}:\n{traceback.format_exc()}")))
    messages.close()
    messages.join_thread()


def end_with_parent() -> None:
    """From now on this process ends as soon as the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
