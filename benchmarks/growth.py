"""The cost of one incremental sync as data grows.

    python -m benchmarks.growth [--repeat 15] [--out FILE]

A sync of one user with five new plays, their days and the personality: with 0, 10 thousand, 100
thousand and 1 million stored plays of the user, and with 10, 1,000 and 50,000 users in the
database. Everything is real but Spotify, which answers from memory. All sides take turns in one
process on one server, so that noise hits all alike. CPU is ours and that of Postgres.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import click
from sqlalchemy import Engine, event, text

from benchmarks.histories import World, fill_crowd, fill_history, world
from benchmarks.machine import RESULTS, cpu_seconds, save
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    REBUILT,
    RECENTLY_PLAYED,
)
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.sync.users import sync_users

STEPS = (RECENTLY_PLAYED, DAILY_LISTENING, MUSIC_PERSONALITY)
NEW_PLAYS = 5
HISTORIES = (0, 10_000, 100_000, 1_000_000)
FLEETS = (10, 1_000, 50_000)
FLEET_PLAYS = 10_000
FLAT = 1.2


@dataclass(frozen=True)
class Cost:
    """Cost of one sync."""

    wall_ms: float
    own_ms: float
    postgres_ms: float
    statements: int


@dataclass
class Side:
    """One size of data: its database and its users."""

    kind: str
    size: int
    world: World
    costs: list[Cost]

    def user_of(self, turn: int) -> str:
        """With history always the same user; otherwise a new one each turn."""
        return f"measured{self.size}" if self.kind == "users" or self.size else f"new{turn}"


class Meter:
    """Measures syncs on one Postgres server."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid

    def sync(self, side: Side, turn: int) -> Cost:
        """One sync with five new plays, an hour after the last."""
        here = side.world
        user_id = side.user_of(turn)
        if user_id.startswith("new"):
            here.connect(user_id)
        here.page(user_id, NEW_PLAYS)
        with counted(here.pipeline.engine) as statements:
            postgres, own, wall = cpu_seconds(self._server_pid), time.process_time(), time.time()
            (outcome,) = sync_users(here.pipeline, [user_id], STEPS)
            wall, own = time.time() - wall, time.process_time() - own
            postgres = cpu_seconds(self._server_pid) - postgres
        assert (outcome.result, outcome.new_plays) == ("synced", NEW_PLAYS), outcome
        return Cost(wall * 1000, own * 1000, postgres * 1000, len(statements))


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """Collects the statements we send."""
    statements: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def prepare(side: Side, plays: int, crowd: int) -> None:
    """Fills the side's part of its database and computes the derived rows."""
    user_id, engine = side.user_of(0), side.world.pipeline.engine
    with engine.begin() as conn:
        if crowd:
            fill_crowd(conn, crowd)
    if plays:
        side.world.connect(user_id)
        with engine.begin() as conn:
            fill_history(conn, user_id, plays)
        sync_users(side.world.pipeline, [user_id], REBUILT)


def settle(worlds: Sequence[World]) -> None:
    """Runs VACUUM and ANALYZE, as autovacuum would later, before anything is measured."""
    for each in worlds:
        with each.pipeline.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("VACUUM ANALYZE"))


def cpu_ms(side: Side) -> float:
    """CPU of a sync. Postgres's share is a mean, because the kernel counts it in steps of 10 ms."""
    own = median(cost.own_ms for cost in side.costs)
    return own + fmean(cost.postgres_ms for cost in side.costs)


def table(sides: Sequence[Side]) -> tuple[list[str], list[dict[str, Any]]]:
    """The cost per side, compared with the smallest side of its kind."""
    lines = [
        "                    wall, ms   CPU, ms:  ours  Postgres       all   ratio  statements"
    ]
    rows = []
    for side in sides:
        first = next(other for other in sides if other.kind == side.kind)
        row = {
            "kind": side.kind,
            "size": side.size,
            "wall_ms": median(cost.wall_ms for cost in side.costs),
            "own_ms": median(cost.own_ms for cost in side.costs),
            "postgres_ms": fmean(cost.postgres_ms for cost in side.costs),
            "cpu_ms": cpu_ms(side),
            "ratio": cpu_ms(side) / cpu_ms(first),
            "statements": median(cost.statements for cost in side.costs),
        }
        rows.append(row)
        lines.append(
            f"{side.size:>9,} {side.kind:<6}{row['wall_ms']:>12.1f}{row['own_ms']:>16.1f}"
            f"{row['postgres_ms']:>10.1f}{row['cpu_ms']:>10.1f}{row['ratio']:>8.2f}"
            f"{row['statements']:>12.0f}"
        )
    return lines, rows


def measure(repeat: int) -> list[Side]:
    """Measures all sides, in a new random order each turn."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="growth_")))
        server = stack.enter_context(embedded.start(home))
        one = stack.enter_context(world(server.url("histories")))
        sides = [Side("plays", size, one, []) for size in HISTORIES]
        for size in FLEETS:
            there = stack.enter_context(world(server.url(f"fleet_{size}")))
            sides.append(Side("users", size, there, []))
        for side in sides:
            click.echo(f"Filling {side.size:,} {side.kind} ...", err=True)
            prepare(side, *((side.size, 0) if side.kind == "plays" else (FLEET_PLAYS, side.size)))
        settle(list({id(side.world): side.world for side in sides}.values()))
        running = embedded.running_server(home)
        assert running is not None
        meter, random = Meter(running.pid), Random(1)  # noqa: S311 - an order, no secret
        for turn in range(-3, repeat):
            for there in {id(side.world): side.world for side in sides}.values():
                there.now += timedelta(hours=1)
            for side in random.sample(sides, len(sides)):
                cost = meter.sync(side, turn)
                if turn >= 0:
                    side.costs.append(cost)
    return sides


@click.command()
@click.option("--repeat", default=15, help="Syncs per side.")
@click.option("--out", type=Path, default=RESULTS / "growth.json", help="Where the figures go.")
def main(repeat: int, out: Path) -> None:
    """Prints a table and writes the figures."""
    sides = measure(repeat)
    lines, rows = table(sides)
    click.echo("\n".join(lines))
    ratios = [row["ratio"] for row in rows]
    flat = max(ratios) <= FLAT
    click.echo(f"{'Flat' if flat else 'NOT flat'} within {FLAT - 1:.0%}.")
    save(
        out,
        {"rows": rows, "flat": flat, "syncs": [asdict(c) for side in sides for c in side.costs]},
    )


if __name__ == "__main__":
    main()
