"""The figures of the view `metrics`, and those of the API budget."""

from sqlalchemy import Connection, text

from spotify_pipeline.settings import Settings
from spotify_pipeline.storage.work.api_budget import budget_state

Figure = tuple[str, str, float]


def read_metrics(conn: Connection, settings: Settings) -> list[Figure]:
    """(name, label, value) of each figure; a label is a connection or an error code, or empty.

    Without a limit per day calls are not counted, so there is no figure of them.
    """
    rows = conn.execute(text("SELECT name, label, value FROM spotify_pipeline.metrics"))
    figures = [(name, label, value) for name, label, value in rows if value is not None]
    budget = budget_state(conn, settings)
    figures.append(("blocked", "", float(bool(budget.blocked_until or budget.outage_until))))
    if budget.calls_left is not None:
        figures.append(("calls_used", "", budget.calls_of_day))
        figures.append(("calls_left", "", budget.calls_left))
    return figures
