"""The steps of a sync and their dependencies: the graph as data.

A step has the name of its Dagster asset ("top_artists/short_term" is the asset key
["top_artists", "short_term"]). Steps run in the order of STEPS.
"""

from spotify_pipeline.domain.model import TIME_RANGES, TimeRange

RECENTLY_PLAYED = "recently_played"
DAILY_LISTENING = "daily_listening"
MUSIC_PERSONALITY = "music_personality"
PROFILE_REVALIDATION = "profile_revalidation"

TOP_ARTISTS: dict[str, TimeRange] = {f"top_artists/{r}": r for r in TIME_RANGES}
TOP_TRACKS: dict[str, TimeRange] = {f"top_tracks/{r}": r for r in TIME_RANGES}

# The inputs of each step. Also the edges of the asset graph.
NEEDS: dict[str, tuple[str, ...]] = {
    RECENTLY_PLAYED: (),
    **{step: () for step in (*TOP_ARTISTS, *TOP_TRACKS)},
    DAILY_LISTENING: (RECENTLY_PLAYED,),
    MUSIC_PERSONALITY: (DAILY_LISTENING, *TOP_ARTISTS, *TOP_TRACKS),
    PROFILE_REVALIDATION: (MUSIC_PERSONALITY,),
}

STEPS: tuple[str, ...] = tuple(NEEDS)
FETCHED: tuple[str, ...] = (RECENTLY_PLAYED, *TOP_ARTISTS, *TOP_TRACKS)
REBUILT: tuple[str, ...] = (DAILY_LISTENING, MUSIC_PERSONALITY)

# The steps that a failed step stops. A failed top list keeps its old rows and stops nothing; the
# app is notified of the steps that succeeded.
STOPPED_BY: dict[str, tuple[str, ...]] = {
    RECENTLY_PLAYED: (DAILY_LISTENING, MUSIC_PERSONALITY),
    DAILY_LISTENING: (MUSIC_PERSONALITY,),
}
