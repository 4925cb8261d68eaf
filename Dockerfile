# The engine as an image: docker build -t ingest-engine . (for Graviton: --platform linux/arm64)
# A tag means another image tomorrow: make image pins the base by its digest (--build-arg BASE=python:3.13-slim@sha256:…).
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY lambdas lambdas
RUN python -m venv /opt/ingest-engine && /opt/ingest-engine/bin/pip install --no-cache-dir '.[otlp]'

FROM ${BASE}
# Numbers, not names: Kubernetes checks runAsNonRoot by them.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/ingest-engine
COPY --from=build /opt/ingest-engine /opt/ingest-engine
ENV PATH=/opt/ingest-engine/bin:$PATH PYTHONDONTWRITEBYTECODE=1 XDG_STATE_HOME=/var/lib
USER 10001:10001
# Checkpoint, backlog and dead letters must outlive the container: a volume a slice.
WORKDIR /var/lib/ingest-engine
VOLUME /var/lib/ingest-engine
# The supervisor is process 1: it forks the others, reaps every child and orphan, and drains on SIGTERM.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s CMD ["engine", "status", "--config", "/etc/ingest-engine/engine.toml"]
ENTRYPOINT ["engine"]
CMD ["start", "--config", "/etc/ingest-engine/engine.toml"]
