"""The Dice gate: may this engine be trusted to mark what FP32 marks?"""

from __future__ import annotations

from typing import Any

from engines import onnxruntime_cpu
from engines.calibrate import HELD_BACK, Samples
from engines.graph import Graph
from engines.options import Say
from engines.parity import agreement, infer_all, phantom_frames
from ssmt_edge.dataset import Sample
from ssmt_edge.errors import VerdictNo
from ssmt_edge.evaluate import evaluate
from ssmt_edge.spec import Engine, Precision


def compare(
    engine: Engine,
    graph: Graph,
    held: Samples | None,
    labelled: list[Sample] | None,
    allowed: float,
    say: Say,
) -> dict[str, Any]:
    """Content of `parity.json`: agreement with the FP32 reference, and Dice against truth where labels are given.

    Args:
        held: frames to compare on that calibration has not seen; None for phantoms.
        allowed: largest accepted loss, for the record.

    Returns:
        What `parity.agreement` returns; `frames_from`; `phantoms`, the agreement on phantoms, which `verify` can
        measure again anywhere; and `labelled`: Dice of both, per image, worst first.
    """
    phantoms = phantom_frames(graph.spec, HELD_BACK, seed=1)
    names = [f"phantom {i}" for i in range(HELD_BACK)]
    with onnxruntime_cpu.open_graph(graph) as reference:
        parity = agreement(infer_all(engine, phantoms), infer_all(reference, phantoms), graph.spec, names)
        on_phantoms = parity["agreement"]
        if held is None:
            say("no unseen frames to compare on (--calib with more ultrasound gives some): the gate runs on phantoms")
        else:
            found, expected = infer_all(engine, held.frames), infer_all(reference, held.frames)
            parity = agreement(found, expected, graph.spec, held.names)
        parity["frames_from"] = "phantoms" if held is None else "frames"
        parity["phantoms"] = on_phantoms
        parity["max_dice_drop"] = allowed
        say(
            f"agreement with FP32 on {parity['images']} frames: Dice {parity['agreement']:.4f}, largest probability "
            f"difference {parity['max_probability_difference']:.3f}"
        )
        if labelled:
            ours, theirs = evaluate(engine, labelled), evaluate(reference, labelled)
            rows = [
                {"image": a["image"], "dice": a["dice"], "reference_dice": b["dice"]}
                for a, b in zip(ours["per_image"], theirs["per_image"], strict=True)
            ]
            rows.sort(key=lambda row: row["dice"] - row["reference_dice"])
            parity["labelled"] = {
                "dice": ours["dice"], "reference_dice": theirs["dice"], "n": len(rows), "per_image": rows
            }  # fmt: skip
            say(f"Dice on {len(rows)} labelled frames: {ours['dice']:.4f}, FP32 {theirs['dice']:.4f}")
    return parity


def judge(parity: dict[str, Any], precision: Precision, required: float) -> None:
    """VerdictNo, naming the worst images, where a comparison says no.

    Args:
        parity: of `compare`.
        required: agreement that is asked for, 0..1.
    """
    if not parity["agreement"] >= required:
        worst = ", ".join(f"{row['image']} ({row['agreement']:.3f})" for row in parity["per_image"][:3])
        raise VerdictNo(
            f"the {precision} engine's masks agree with FP32 to a Dice of {parity['agreement']:.4f}, required "
            f"{required:.4f}; worst: {worst}; calibrate on more frames, search for layers to keep with "
            "--sensitivity, or raise --max-dice-drop"
        )
    allowed = parity["max_dice_drop"]
    labelled = parity.get("labelled")
    if labelled and labelled["reference_dice"] - labelled["dice"] > allowed:
        worst = ", ".join(
            f"{r['image']} ({r['dice']:.3f} from {r['reference_dice']:.3f})" for r in labelled["per_image"][:3]
        )
        raise VerdictNo(
            f"the {precision} engine's Dice against truth is {labelled['dice']:.4f}, FP32 has "
            f"{labelled['reference_dice']:.4f}, allowed drop {allowed}; worst: {worst}"
        )
