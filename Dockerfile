# One image for every process of a production set: code server, webserver, daemon, page, Celery
# worker, and the pods of runs on Kubernetes. No ENTRYPOINT, because Dagster's chart gives whole commands.
# It runs without root and with a read-only root file system; what it writes is in the volume.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /build
RUN python3 -m venv /opt/spotify_pipeline/venv
ENV PATH=/opt/spotify_pipeline/venv/bin:$PATH
# The lock has the hash of every file; with Celery and Kubernetes, so that neither needs its own image.
COPY requirements-image.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY spotify_pipeline spotify_pipeline
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin pipeline \
    && install -d -o pipeline -g pipeline -m 0700 /var/lib/spotify_pipeline
COPY --from=build /opt/spotify_pipeline/venv /opt/spotify_pipeline/venv
COPY dagster.yaml /opt/spotify_pipeline/
ENV PATH=/opt/spotify_pipeline/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SPOTIFY_PIPELINE_HOME=/var/lib/spotify_pipeline
WORKDIR /opt/spotify_pipeline
USER 10001:10001
VOLUME /var/lib/spotify_pipeline
HEALTHCHECK --interval=30s --timeout=45s --start-period=2m --retries=2 CMD ["spotify-pipeline", "healthy"]
CMD ["spotify-pipeline", "--help"]
