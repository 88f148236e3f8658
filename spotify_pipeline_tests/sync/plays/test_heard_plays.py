"""The functions of the web page count as the pipeline does."""

from sqlalchemy import text

from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

DAYS = """
    SELECT d.user_id, d.date, d.listened_ms, d.plays, d.top_artist_id,
        sum(h.listened_ms) AS heard, count(*) FILTER (WHERE h.counted) AS counted,
        (
            SELECT t.spotify_id
            FROM spotify_pipeline.listening_top(d.user_id, 'artists', d.date, d.date, 1) AS t
        ) AS top
    FROM spotify_pipeline.daily_listening AS d
    JOIN spotify_pipeline.users AS u ON u.user_id = d.user_id,
    spotify_pipeline.heard_plays(
        d.user_id,
        spotify_pipeline.day_begins(u.timezone, d.date),
        spotify_pipeline.day_begins(u.timezone, d.date + 1)
    ) AS h
    GROUP BY d.user_id, d.date
"""


def test_the_page_counts_every_day_as_daily_listening_does(scenario: Scenario) -> None:
    zones = {"anna": "Asia/Kathmandu", "ben": "America/St_Johns", "cleo": "Pacific/Kiritimati"}
    for user_id, zone in zones.items():
        scenario.connect(user_id, zone)
    scenario.sync_well(*zones)
    with scenario.pipeline.engine.connect() as conn:
        days = conn.execute(text(DAYS)).all()
        total = conn.scalar(text("SELECT count(*) FROM spotify_pipeline.daily_listening"))
    assert len(days) == total > len(zones)
    for day in days:
        assert (day.heard, day.counted, day.top) == (day.listened_ms, day.plays, day.top_artist_id)
