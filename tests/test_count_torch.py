"""The count of every network as it was trained, against PyTorch's own counter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from benchmarks import counts
from engines.count import count
from engines.export import export_plain
from trainer.counted import NETWORKS, random_checkpoint, torch_mac

QUICK = ("ssmt-lite",)
LONG = ("ssmt-net-cnn", "ssmt-net-tiny", "transunet")
"""built of the same parts as the others"""
SIZE = 64


def _marked(name: str) -> Any:
    if name in LONG:
        why = "takes up to half a minute; python -m benchmarks.counts compares it, and so does SSMT_EDGE_LONG=1"
        return pytest.param(
            name, marks=[pytest.mark.slow, pytest.mark.skipif("SSMT_EDGE_LONG" not in os.environ, reason=why)]
        )
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", map(_marked, NETWORKS))
def test_the_count_is_pytorchs(name: str, tmp_path: Path) -> None:
    random_checkpoint(name, SIZE, tmp_path / "random.safetensors")
    graph = export_plain(tmp_path / "random.safetensors")
    found, expected = count(graph.model), torch_mac(name, SIZE)
    assert sum(layer.mac for layer in found.layers) == pytest.approx(expected, rel=0.01)
    if name == "ssmt-net":
        # nothing is folded or pruned: three channels into a 7 x 7 stem, and every task's output
        assert 3 * 7 * 7 * 64 * (SIZE // 2) ** 2 in [layer.mac for layer in found.layers]
        assert graph.outputs == ("nodule", "gland", "size", "reconstruction")


def test_the_command_compares_and_says_no(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [counts.Counts("one", 2.0, 2.01, 1.5), counts.Counts("two", 2.0, 2.03, 1.5)]

    def counted(names: Any, size: int) -> Any:
        yield from rows[: len(names)]

    monkeypatch.setattr(counts, "counts", counted)
    counts.main(["one"], SIZE)
    assert "| one | 2.000 | 2.010 | +0.500% | 1.500 |" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        counts.main(["one", "two"], SIZE)
    assert ended.value.code == 3 and "+1.500%" in capsys.readouterr().out
