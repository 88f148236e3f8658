"""The Celery app of a worker (celery -A spotify_pipeline.defs.instance.celery_app worker).

Loaded by workers only: it needs the extra [celery] and reads the environment at once.
"""

from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task

from spotify_pipeline.defs.instance.executors import broker_of, delivery
from spotify_pipeline.defs.instance.redaction import install
from spotify_pipeline.settings import load_settings

install()
_settings = load_settings()
_broker = broker_of(_settings)

app = make_app()  # type: ignore[no-untyped-call]
app.conf.update(broker_url=_broker, result_backend=_broker, **delivery(_settings))
execute_plan = create_task(app)  # type: ignore[no-untyped-call]
