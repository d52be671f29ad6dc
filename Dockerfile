# One image for every process type; compose.yaml and the Procfile name the commands.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ingest/ ingest/
COPY handlers/ handlers/
COPY workers/ workers/
# What PUSH=fcm and ALERT_URLS need. The container is read-only, so nothing can be installed later; empty: neither.
ARG EXTRAS=fcm,alerts,mcp,otel,sentry
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin webhooks \
    && install --directory --owner=webhooks --group=webhooks /data
COPY --from=build /venv /venv
# A container is reached from outside, so its servers listen on every address; on a machine the default stays the loopback.
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOST=0.0.0.0 DATA_DIR=/data LOG_FORMAT=json
USER webhooks
WORKDIR /data
# The inbox lives here until an event is settled: mount something that survives the container.
VOLUME /data
EXPOSE 8000 8001
CMD ["webhooks", "serve"]
