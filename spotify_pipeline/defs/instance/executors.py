"""The executor of `sync_users`: processes on this machine, or Celery workers on many machines.

The environment chooses between them when a run starts, so the job has one definition for both.
"""

from importlib.util import find_spec
from typing import Any

import dagster as dg

from spotify_pipeline.settings import ConfigurationError, Settings, load_settings

# Imported once by the forkserver instead of by every step: without Dagster's storage and its lazy
# imports each step needs 0.45 s of CPU more. frozen.py must be last.
PRELOADED = [
    "spotify_pipeline.definitions",
    "spotify_pipeline.sync.runs",
    "spotify_pipeline.defs.instance.storage",
    "psycopg",
    "psycopg2.extras",
    "upath.core",
    "spotify_pipeline.defs.instance.frozen",
]


@dg.executor(
    name="chunks",
    config_schema={
        "workers": dg.Field(
            int,
            is_required=False,
            description="How many processes run in parallel; default: SPOTIFY_PIPELINE_WORKERS.",
        )
    },
    requirements=dg.multiple_process_executor_requirements(),
)
def chunk_executor(context: dg.InitExecutorContext) -> dg.Executor:
    """Dagster's multiprocess executor, or dagster-celery's with SPOTIFY_PIPELINE_EXECUTOR=celery.

    Raises ConfigurationError when that lacks its extra or its broker.
    """
    settings = load_settings()
    check_executor(settings)
    # Needed for the retry policy of sync_chunk.
    config: dict[str, Any] = {"retries": {"enabled": {}}}
    if settings.executor == "celery":
        from dagster_celery import celery_executor

        broker = broker_of(settings)
        return _create(
            celery_executor,
            context,
            config | {"broker": broker, "backend": broker, "config_source": delivery(settings)},
        )
    workers = context.executor_config.get("workers") or settings.workers
    start = {"start_method": {"forkserver": {"preload_modules": PRELOADED}}}
    return _create(dg.multiprocess_executor, context, config | start | {"max_concurrent": workers})


def check_executor(settings: Settings) -> None:
    """Raises ConfigurationError when the executor lacks its extra or its broker."""
    if settings.executor != "celery":
        return
    broker_of(settings)
    if find_spec("dagster_celery") is None:
        raise ConfigurationError(
            "SPOTIFY_PIPELINE_EXECUTOR=celery needs the extra [celery]: install "
            "spotify_pipeline[celery], or unset SPOTIFY_PIPELINE_EXECUTOR."
        )


def _create(
    definition: dg.ExecutorDefinition, context: dg.InitExecutorContext, config: dict[str, Any]
) -> dg.Executor:
    # Not through the run configuration, which Dagster stores: the broker URL may hold a password.
    create = definition.executor_creation_fn
    assert create is not None
    return create(
        dg.InitExecutorContext(
            job=context.job,
            executor_def=definition,
            executor_config=config,
            instance=context.instance,
        )
    )


def broker_of(settings: Settings) -> str:
    """The URL of the Redis broker. Raises ConfigurationError when it is not set."""
    if settings.broker_url is None:
        raise ConfigurationError(
            "SPOTIFY_PIPELINE_BROKER_URL is not set: Celery workers take chunks from that Redis."
        )
    return settings.broker_url.get_secret_value()


def delivery(settings: Settings) -> dict[str, Any]:
    """Celery settings that redeliver a chunk to another worker when its worker is killed.

    By default a worker acknowledges a task before running it: the run would wait for ever.
    """
    redelivery = {"visibility_timeout": settings.redeliver_seconds}
    return {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "broker_transport_options": redelivery,
        "result_backend_transport_options": redelivery,
        "broker_connection_retry_on_startup": True,
    }
