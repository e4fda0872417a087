# Never built: there was no container engine where it was written. To build it: `docker build --tag repro .`, without a GPU
# with `--build-arg TORCH_PIP_ARGS='--index-url ADDRESS'` (README.md, Installation).
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /repro
COPY . .
ARG TORCH_PIP_ARGS=
RUN .binder/postBuild
CMD ["python", "-m", "repro", "summary"]
