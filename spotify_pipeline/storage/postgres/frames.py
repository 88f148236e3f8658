"""From frames to rows, and back."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame as Python values; every kind of missing (NaN, NA, NaT) is None."""
    plain = frame.astype(object)
    return plain.where(plain.notna(), None).to_dict("records")  # type: ignore[return-value]


def frame(rows: Iterable[Sequence[Any]], columns: Iterable[str]) -> pd.DataFrame:
    """Rows of a query as a frame. pandas reads tuples ten times faster than SQLAlchemy's rows."""
    return pd.DataFrame([tuple(row) for row in rows], columns=list(columns))
