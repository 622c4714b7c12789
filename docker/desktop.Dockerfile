# TensorRT on a desktop or server GPU, and on JetPack 7 (arm64: the image is published for both). Not built here: the
# project's machine has neither Docker nor a GPU.
#
#   docker build -f docker/desktop.Dockerfile -t ssmt-edge:tensorrt .
#   docker run --rm --gpus all -v "$PWD/out:/data" ssmt-edge:tensorrt doctor
#
# The tag decides the version of TensorRT that engines belong to; NVIDIA's support matrix names both, and the driver that
# it needs: https://docs.nvidia.com/deeplearning/frameworks/support-matrix/
ARG BASE=nvcr.io/nvidia/tensorrt:25.08-py3
FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-dev python3-venv g++ libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ssmt-edge
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ssmt_edge ssmt_edge
COPY trainer trainer
COPY engines engines
COPY benchmarks benchmarks
# the image's own tensorrt stays visible and must not be replaced by pip's: no extra [tensorrt] here
ENV PATH=/opt/venv/bin:/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda
RUN python3 -m venv --system-site-packages /opt/venv \
    && LIBRARY_PATH=/usr/local/cuda/lib64/stubs \
       pip install --no-cache-dir -c constraints.txt '.[export]' 'pycuda>=2024.1' 'cuda-bindings>=12.6'

# --non-unique: Ubuntu 24.04's images have a user of that number
RUN useradd --create-home --uid 1000 --non-unique ssmt
USER ssmt
WORKDIR /data
ENTRYPOINT ["ssmt-edge"]
CMD ["doctor"]
