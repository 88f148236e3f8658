"""Tells again what stands in the tables, where whoever stored it may have died before it told."""

from collections.abc import Sequence

from spotify_pipeline.domain import steps as s
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.days import count_days
from spotify_pipeline.storage.listening.plays import count_plays
from spotify_pipeline.storage.listening.top_lists import count_ranks
from spotify_pipeline.sync.outcome import StepRows, UserOutcome, still_possible
from spotify_pipeline.sync.pipeline import Pipeline

REMARK = "Stored by an earlier sync, which told what was new unless it died before."


def replay(
    pipeline: Pipeline, outcomes: Sequence[UserOutcome], steps: Sequence[str] = s.STEPS
) -> None:
    """Make all that was done for these users news, also steps that an earlier sync left nothing of.

    Those, neither done nor failed now, are told as they are stored: how much of it is new nobody
    knows any more.
    """
    there = [outcome for outcome in outcomes if not outcome.gone]
    user_ids = [outcome.user_id for outcome in there]
    with pipeline.engine.connect() as conn:
        plays, days = count_plays(conn, user_ids), count_days(conn, user_ids)
        artists = count_ranks(conn, t.user_top_artists, user_ids)
        tracks = count_ranks(conn, t.user_top_tracks, user_ids)
    for outcome in there:
        user_id = outcome.user_id
        stored = {
            s.RECENTLY_PLAYED: plays.get(user_id, 0),
            **{step: artists.get((user_id, of), 0) for step, of in s.TOP_ARTISTS.items()},
            **{step: tracks.get((user_id, of), 0) for step, of in s.TOP_TRACKS.items()},
            s.DAILY_LISTENING: days.get(user_id, 0),
            s.MUSIC_PERSONALITY: 1,
        }
        possible = still_possible(outcome.failures, steps)
        outcome.retried = True
        outcome.done |= {
            step: StepRows(total, remark=REMARK)
            for step, total in stored.items()
            if step in possible and step not in outcome.done
        }
