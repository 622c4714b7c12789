"""TensorRT engines on a GPU against PyTorch and ONNX Runtime, as one script: python -m benchmarks.gpu --help

    __main__   the options, and the steps export, build, measure
    steps      what each step does; a step takes what an earlier run left in --out
    table      the figures as Markdown
    remote     the client's side: another interpreter's TensorRT as a backend of `engines`, on
               `benchmarks.versus.processes`
    worker     the other side, one process for TensorRT and one for PyTorch, which take turns, on
               `benchmarks.versus.worker`
    rehearsal  what stands in for TensorRT with --dry-run

TensorRT and PyTorch need not live in one Python. Three processes run, whatever is installed where:

    the script      onnx, onnxruntime and the rest of the base and of [export]; torch for the step export.
                    It calibrates, emits graphs, computes references and judges.
    torch worker    the same interpreter; [train] for the network's code, torch with CUDA
    TensorRT worker --trt-python, by default the same interpreter: tensorrt, PyCUDA, numpy and OpenCV, no more; with
                    cuda-bindings it uses CUDA graphs. It builds plans from ONNX files and runs them.
"""
