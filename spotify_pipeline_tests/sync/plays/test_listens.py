"""The view `listens` adds up to the days, in zones with odd days too."""

from sqlalchemy import text

from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

ZONES = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Pacific/Pago_Pago")
COLUMNS = (
    *("user_id", "played_at", "local_date", "track", "artist", "album", "ms_listened", "source"),
)


def test_listens_sum_to_daily_listening_per_local_date(scenario: Scenario) -> None:
    users = [zone.lower().replace("/", "-") for zone in ZONES]
    for user_id, zone in zip(users, ZONES, strict=True):
        scenario.connect(user_id, zone)
    scenario.sync_well(*users)
    with scenario.pipeline.engine.begin() as conn:
        # A play of an export, which says how long it was heard.
        conn.execute(
            text(
                "INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, source,"
                " ms_played, duration_ms) SELECT user_id, played_at - interval '400 days',"
                " track_id, 'export', 1234, duration_ms FROM spotify_pipeline.plays"
            )
        )
        conn.execute(text("UPDATE spotify_pipeline.users SET days_stale = true"))
    scenario.sync_well(*users)
    with scenario.pipeline.engine.connect() as conn:
        listens = conn.execute(text("SELECT * FROM spotify_pipeline.listens"))
        assert tuple(listens.keys()) == COLUMNS
        rows = listens.all()
        assert {row.source for row in rows} == {"api", "export"}
        assert all(row.track and row.artist and row.album for row in rows)
    summed: dict[tuple[str, object], int] = {}
    for row in rows:
        key = row.user_id, row.local_date
        summed[key] = summed.get(key, 0) + row.ms_listened
    days = [row for user_id in users for row in scenario.rows(t.daily_listening, user_id)]
    assert summed == {(row["user_id"], row["date"]): row["listened_ms"] for row in days}
    assert len(days) > 2 * len(users)
