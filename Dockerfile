# One image for each kind of device: cpu, cuda (CUDA 13), cuda12 (older NVIDIA drivers), tpu.
#
#     docker build --build-arg DEVICE=cuda -t REGISTRY/moco_jax:cuda .
#
# Holds the repository as it is, configs included. docker run --gpus=all IMAGE --config=... runs it.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG DEVICE=cpu
ENV PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /moco_jax
COPY . .
RUN case "$DEVICE" in \
      cpu) extras=all ;; \
      cuda | cuda12 | tpu) extras="all,$DEVICE" ;; \
      *) echo "DEVICE=$DEVICE: expected cpu, cuda, cuda12 or tpu" && exit 1 ;; \
    esac \
    && python -m pip install --no-cache-dir -c constraints.txt -e ".[$extras]"
ENTRYPOINT ["python", "-m", "moco_jax.main"]
