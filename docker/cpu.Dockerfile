# ONNX Runtime and OpenVINO engines on any x86-64 or Arm CPU. Not built here: the project's machine has no Docker.
#
#   docker build -f docker/cpu.Dockerfile -t ssmt-edge:cpu .
#   docker run --rm -v "$PWD/out:/data" ssmt-edge:cpu build-engine /data/model.onnx --out /data/engine \
#       --precision int8 --calib /data/calibration.json
#
# INT8 engines belong to an instruction set: build where they will run.
FROM python:3.12-slim

# what opencv-python-headless loads
RUN apt-get update && apt-get install -y --no-install-recommends libglib2.0-0 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ssmt-edge
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ssmt_edge ssmt_edge
COPY trainer trainer
COPY engines engines
COPY benchmarks benchmarks
RUN pip install --no-cache-dir -c constraints.txt '.[export,openvino]'

RUN useradd --create-home --uid 1000 ssmt
USER ssmt
WORKDIR /data
ENTRYPOINT ["ssmt-edge"]
CMD ["doctor"]
