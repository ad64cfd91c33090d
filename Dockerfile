# The server with its pinned dependencies and nothing else. Any base with Python
# 3.11 or later and glibc will do: --build-arg BASE=...
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/voucher-grpc
# Dependencies first: they change less often than the code, and the layer is kept.
COPY requirements/server.txt requirements/server.txt
RUN /opt/voucher-grpc/bin/python -m pip install -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY voucher_grpc voucher_grpc
RUN /opt/voucher-grpc/bin/python -m pip install --no-deps . \
    && /opt/voucher-grpc/bin/python -m pip check \
    && /opt/voucher-grpc/bin/python -m pip uninstall --yes pip

FROM ${BASE}
COPY --from=build /opt/voucher-grpc /opt/voucher-grpc
ENV PATH=/opt/voucher-grpc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VOUCHER_LISTEN=0.0.0.0:50051 \
    VOUCHER_METRICS_LISTEN=0.0.0.0:9464
# A number, so that an orchestrator can tell that it is not root.
USER 65532:65532
EXPOSE 50051 9464
# It serves all addresses, so it starts only with tokens or certificates configured
# (docs/security.md). SIGTERM drains (VOUCHER_DRAIN_TIMEOUT_S). Docker looks at this; Kubernetes has
# probes of its own (deploy/kubernetes.yaml).
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["voucher-grpc", "health"]
ENTRYPOINT ["voucher-grpc"]
CMD ["serve"]
