"""A code location downstream of spotify_pipeline: its asset runs for users whose days changed.

It imports nothing of the pipeline. SPOTIFY_ANALYST_URL is a login that is a member of
spotify_analyst, such as postgresql+psycopg://ana:…@db.example.com/app.
"""

import os

import dagster as dg
import sqlalchemy as sa

# The same name is the same partitions: one per user, kept by the pipeline.
users = dg.DynamicPartitionsDefinition(name="spotify_users")
daily_listening = dg.AssetSpec("daily_listening", partitions_def=users)

BEST_WEEKDAY = sa.text(
    "SELECT to_char(date, 'FMDay') AS weekday, sum(minutes) AS minutes"
    " FROM spotify_pipeline.daily_listening WHERE user_id = :user_id"
    " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"
)


@dg.asset(
    deps=[daily_listening],
    partitions_def=users,
    automation_condition=dg.AutomationCondition.eager(),
)
def favourite_weekday(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """The weekday with most minutes of listening."""
    engine = sa.create_engine(os.environ["SPOTIFY_ANALYST_URL"])
    with engine.connect() as conn:
        best = conn.execute(BEST_WEEKDAY, {"user_id": context.partition_key}).one_or_none()
    engine.dispose()
    return dg.MaterializeResult(
        metadata={"weekday": best.weekday, "minutes": best.minutes} if best else {}
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The asset, and the sensor that evaluates its condition; on from the start."""
    return dg.Definitions(
        assets=[daily_listening, favourite_weekday],
        sensors=[
            dg.AutomationConditionSensorDefinition(
                "automation", target="*", default_status=dg.DefaultSensorStatus.RUNNING
            )
        ],
    )
