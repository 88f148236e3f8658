"""Small tools for frames: texts as sorted integer codes and back, UTC columns, local times.

Texts are worked on as codes in code-point order: grouping and sorting integers is many times
faster than strings, and the order is the same on every machine, with or without pyarrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spotify_pipeline.domain.zones import check_zone

Integers = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Coded:
    """A text column: `codes[i]` is the place of row i's text in `names`, -1 where it is missing.

    `names` are the distinct texts, or all categories of a categorical column, by code point.
    """

    codes: Integers
    names: Objects

    @classmethod
    def of(cls, column: pd.Series) -> "Coded":
        """Any text column, also an empty or an untyped one."""
        if isinstance(column.dtype, pd.CategoricalDtype):
            # Ten times faster than to look at every row, of which there may be a million.
            of_names = column.cat.categories.to_numpy(dtype=object)
            places = np.append(np.argsort(np.argsort(of_names)), -1)
            return cls(places[column.cat.codes.to_numpy()].astype(np.int64), np.sort(of_names))
        codes, names = pd.factorize(column.to_numpy(dtype=object), sort=True)
        return cls(codes.astype(np.int64), np.asarray(names, dtype=object))

    def texts(self, codes: npt.ArrayLike) -> pd.Series:
        """The texts of these codes as an object column: a missing one is None, never NaN."""
        with_none = np.array([*self.names, None], dtype=object)
        return objects(with_none[np.asarray(codes, dtype=np.int64)])


def places(names: pd.Index, column: pd.Series) -> Integers:
    """Where the text of each row stands in `names`, -1 where it does not."""
    texts = pd.Index(column.to_numpy(dtype=object), dtype=object)
    return names.get_indexer(texts).astype(np.int64)


def objects(values: Sequence[object] | npt.NDArray[Any] | pd.Index) -> pd.Series:
    """A column of Python objects as they are; pandas would make text of them, and NaN of None."""
    return pd.Series(values, dtype=object)


def utc_times(column: pd.Series) -> pd.Series:
    """Instants as datetime64[us, UTC], also from an empty or untyped column."""
    return pd.to_datetime(column, utc=True).dt.as_unit("us")


def local_times(user: Coded, instants: pd.Series, zones: Mapping[str, str]) -> Integers:
    """Local wall-clock time of each instant in its user's zone, as microseconds since 1970.

    One conversion per distinct zone, however many users share it. Raises ValueError for a user
    without a zone, UnknownZone for a name that is none.
    """
    if lost := [name for name in user.names if name not in zones]:
        raise ValueError(f"{len(lost)} users have no time zone, among them {lost[0]!r}.")
    zone = Coded.of(objects([zones[name] for name in user.names]))
    utc = utc_times(instants).reset_index(drop=True)
    rows_of = utc.groupby(zone.codes[user.codes]).indices
    local = np.empty(len(utc), dtype=np.int64)
    for code, name in enumerate(zone.names):
        if (rows := rows_of.get(code)) is not None:
            there = utc.iloc[rows].dt.tz_convert(check_zone(name))
            local[rows] = there.dt.tz_localize(None).astype("int64")
    return local


MICROSECONDS_A_DAY = 86_400_000_000


def days_of(local: Integers) -> Integers:
    """Days since 1970-01-01 of local times in microseconds."""
    return local // MICROSECONDS_A_DAY


def dates(days: npt.ArrayLike) -> pd.Series:
    """Days since 1970-01-01 as an object column of datetime.date."""
    number, distinct = pd.factorize(np.asarray(days, dtype=np.int64))
    return objects(distinct.astype("datetime64[D]").astype(object)[number])


def day_numbers(column: pd.Series) -> Integers:
    """Days since 1970-01-01 of a column of datetime.date; the inverse of `dates`."""
    number, distinct = pd.factorize(column.to_numpy(dtype=object))
    return np.array([_day(day) for day in distinct], dtype=np.int64)[number]


def _day(day: date) -> int:
    return day.toordinal() - date(1970, 1, 1).toordinal()
