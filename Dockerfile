# Images for compose.yaml. They were not built by us yet (README, "What was verified where").
#
# What is copied is named: a key or a checkpoint that lies here is not to end up in an image.

FROM lmsysorg/sglang:v0.5.23 AS engine
WORKDIR /opt/torpor
COPY pyproject.toml README.md ./
COPY agent_runtime agent_runtime
COPY engine engine
COPY state_store state_store
COPY tools tools
# The extra is the SGLang that is there: with it, pip keeps the versions that SGLang is pinned to.
RUN pip install --no-cache-dir ".[gpu]"

FROM python:3.11-slim AS runtime
WORKDIR /opt/torpor
COPY pyproject.toml README.md ./
COPY requirements requirements
COPY scripts scripts
COPY agent_runtime agent_runtime
COPY engine engine
COPY state_store state_store
COPY tools tools
RUN scripts/setup.sh
ENV PATH=/opt/torpor/.venv/bin:$PATH
