# padis_lightning in a container: docker build --tag padis .
#   docker run --rm --volume "$PWD:/work" padis predict --config ct20.yaml
# For NVIDIA GPUs: docker build --build-arg TORCH_INDEX=https://pypi.org/simple --tag padis .
#   docker run --rm --gpus all --volume "$PWD:/work" padis predict --config ct20.yaml
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=dicom,nifti,hub

RUN useradd --uid 1000 --create-home padis && install --directory --owner padis /work
WORKDIR /source
RUN --mount=type=bind,target=/source,rw \
    pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch && \
    pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]"

USER 1000
WORKDIR /work
ENTRYPOINT ["padis-lightning"]
CMD ["--help"]
