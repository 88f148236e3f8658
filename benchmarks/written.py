"""What a night writes: bytes of WAL per user by table, and how much tables and events grow.

Full-page images are counted apart, because they depend on when the last checkpoint was.
"""

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import click
from sqlalchemy import Connection, text

from benchmarks.world import Fleet, fleet
from spotify_pipeline.defs.in_process import sync_many
from spotify_pipeline.storage.work.sync_runs import enlist
from spotify_pipeline.sync.runs import ENLISTED

# A record that touches several relations counts for the first.
BY_TABLE = """
    SELECT
        CASE WHEN b.reldatabase = d.oid THEN coalesce(p.relname, c.relname, 'catalogs')
            WHEN b.reldatabase > 0 THEN 'Dagster' ELSE r.resource_manager END AS name,
        sum(r.record_length - r.fpi_length)::bigint AS bytes,
        sum(r.fpi_length)::bigint AS images
    FROM pg_get_wal_records_info(:since, :until) AS r
    LEFT JOIN (
        SELECT DISTINCT ON (start_lsn) start_lsn, reldatabase, relfilenode
        FROM pg_get_wal_block_info(:since, :until) ORDER BY start_lsn, block_id
    ) AS b ON b.start_lsn = r.start_lsn
    LEFT JOIN pg_class AS c ON c.relfilenode = b.relfilenode
    LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
    LEFT JOIN pg_class AS p ON p.oid = i.indrelid
    CROSS JOIN pg_database AS d
    WHERE d.datname = current_database()
    GROUP BY 1 ORDER BY 2 DESC
"""
SIZES = "SELECT datname, pg_database_size(oid) FROM pg_database"


def measure(world: Fleet, conn: Connection, name: str, work: Callable[[], None], most: int) -> None:
    """Print what the work writes, per user."""
    users = len(world.listeners)
    since = conn.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))
    sizes = dict(conn.execute(text(SIZES)).all())
    work()
    until = conn.scalar(text("SELECT pg_current_wal_flush_lsn()::text"))
    rows = conn.execute(text(BY_TABLE), {"since": since, "until": until}).all()
    grown = {db: size - sizes[db] for db, size in conn.execute(text(SIZES)) if db in sizes}
    total = sum(row.bytes for row in rows)
    click.echo(f"\n{name}: {total / users / 1000:.1f} kB of WAL per user, full-page images apart")
    click.echo(
        "grown per user, kB: "
        + str({db: round(n / users / 1e3, 1) for db, n in grown.items() if n})
    )
    for row in rows[:most]:
        click.echo(f"  {row.name:<28}{row.bytes / users / 1000:>8.2f}")


@click.command()
@click.option("--users", default=100, help="Connected users.")
@click.option("--tables", default=14, help="Lines per night.")
def main(users: int, tables: int) -> None:
    """Print what a first sync, a night after a day of listening, and an unchanged night write."""
    with fleet(users, 8) as world:
        engine = world.pipeline.engine
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("CREATE EXTENSION IF NOT EXISTS pg_walinspect"))

            def night() -> None:
                run_id = str(uuid4())
                with engine.begin() as ours:
                    enlist(ours, run_id, [listener.user_id for listener in world.listeners])
                if not sync_many(world.instance, run_id, ENLISTED).success:
                    raise click.ClickException("The run failed.")

            measure(world, conn, "first sync", night, tables)
            world.simulator.advance(timedelta(days=1))
            measure(world, conn, "a night after a day of listening", night, tables)
            measure(world, conn, "an unchanged night", night, tables)


if __name__ == "__main__":
    main()
