# TensorRT 10.3 on a Jetson with JetPack 6.1 or 6.2 (L4T r36.4). Not built here: the project's machine has neither Docker nor
# a Jetson. Build it on the device:
#
#   sudo docker build -f docker/jetpack6.Dockerfile -t ssmt-edge:jetpack6 .
#   sudo docker run --rm --runtime nvidia -v "$PWD/out:/data" ssmt-edge:jetpack6 doctor
#
# The image has no GStreamer for OpenCV; take cameras on the host, or send frames in.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}

ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-dev python3-pip python3-venv g++ libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ssmt-edge
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ssmt_edge ssmt_edge
COPY trainer trainer
COPY engines engines
COPY benchmarks benchmarks
# TensorRT's Python module is the system's: no extra [tensorrt] here. cuda-bindings of JetPack 6's CUDA, 12.
ENV PATH=/opt/venv/bin:/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda
RUN python3 -m venv --system-site-packages /opt/venv \
    && pip install --no-cache-dir --upgrade pip \
    && LIBRARY_PATH=/usr/local/cuda/lib64/stubs \
       pip install --no-cache-dir -c constraints.txt '.[export]' 'pycuda>=2024.1' 'cuda-bindings>=12.6,<13'

# the device's nodes belong to these groups
RUN useradd --create-home --uid 1000 ssmt && for group in video render; do \
        getent group "$group" >/dev/null || groupadd "$group"; usermod -aG "$group" ssmt; done
USER ssmt
WORKDIR /data
ENTRYPOINT ["ssmt-edge"]
CMD ["doctor"]
