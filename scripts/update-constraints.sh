#!/usr/bin/env bash
# Rewrites constraints.txt: one set of pins for Python 3.10 and newer. Needs uv on the PATH (pip install uv).
# A version that is pinned already stays where it still fits: delete its line first to move it.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp constraints.txt "$work/pins.txt"
echo "torch==2.13.0" > "$work/torch.txt"
uv pip compile pyproject.toml --universal --python-version 3.10 --extra train --extra export --extra openvino --extra plots --extra tensorboard --extra dicom --extra igtl --extra view --extra seg --extra dev \
    --overrides "$work/torch.txt" --no-header --no-annotate --no-emit-index-url --quiet -o "$work/pins.txt" > /dev/null

# Torch chooses its CUDA packages itself, and TensorRT follows the driver: neither is pinned. Markers of a platform go:
# a constraint on a package that nobody asks for does nothing. Those of the Python version stay.
{
    echo "# Tested versions, for pip install -c constraints.txt. Written by scripts/update-constraints.sh."
    sed -E -e "/^(nvidia-|cuda-|triton=)/d" -e "/== '(emscripten|win32)'/d" \
        -e "s/ (and|;) sys_platform != 'emscripten'$//" -e "s/ ; platform_.*$//" "$work/pins.txt"
} > "$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
