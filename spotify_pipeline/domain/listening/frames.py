"""Converts frame columns: texts to sorted integer codes and back, UTC and local times, dates.

Texts become codes in code-point order: grouping and sorting integers is many times faster than
strings, and the order is the same on every machine, with or without pyarrow.
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
class TextCodes:
    """A text column: `codes[i]` is the index in `names` of row i's text, -1 if it is missing.

    `names` are the distinct texts, or all categories of a categorical column, by code point.
    """

    codes: Integers
    names: Objects

    @classmethod
    def of(cls, column: pd.Series) -> "TextCodes":
        """Encodes any text column, also an empty or untyped one."""
        if isinstance(column.dtype, pd.CategoricalDtype):
            # Ten times faster than factorizing every row; there may be a million.
            of_names = column.cat.categories.to_numpy(dtype=object)
            positions = np.append(np.argsort(np.argsort(of_names)), -1)
            return cls(positions[column.cat.codes.to_numpy()].astype(np.int64), np.sort(of_names))
        codes, names = pd.factorize(column.to_numpy(dtype=object), sort=True)
        return cls(codes.astype(np.int64), np.asarray(names, dtype=object))

    def texts(self, codes: npt.ArrayLike) -> pd.Series:
        """Decodes codes to an object column of texts: a missing one is None, never NaN."""
        with_none = np.array([*self.names, None], dtype=object)
        return objects(with_none[np.asarray(codes, dtype=np.int64)])


def positions(names: pd.Index, column: pd.Series) -> Integers:
    """The index of each row's text in `names`, -1 if absent."""
    texts = pd.Index(column.to_numpy(dtype=object), dtype=object)
    return names.get_indexer(texts).astype(np.int64)


def groups(*columns: Integers) -> tuple[Integers, Integers]:
    """Groups rows that are equal in all columns; groups are in the order of the columns' values.

    Returns the group of each row, and a row of each group. For the few thousand rows of one sync
    this is many times faster than grouping a frame.
    """
    order = np.lexsort(columns[::-1])
    is_first = np.arange(len(order)) == 0
    for column in columns:
        is_first[1:] |= np.diff(column[order]) != 0
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(is_first) - 1
    return group, order[is_first]


def among(rows: Sequence[Integers], others: Sequence[Integers]) -> Bools:
    """Whether each of the rows, given by their columns, is one of the others."""
    both = [np.concatenate(columns) for columns in zip(rows, others, strict=True)]
    group, _ = groups(*both)
    size = len(rows[0])
    return np.isin(group[:size], group[size:])


def objects(values: Sequence[object] | npt.NDArray[Any] | pd.Index) -> pd.Series:
    """An object column; pandas itself would convert texts, and None to NaN."""
    return pd.Series(values, dtype=object)


def utc_times(column: pd.Series) -> pd.Series:
    """A column of instants as datetime64[us, UTC], also from an empty or untyped one."""
    return pd.to_datetime(column, utc=True).dt.as_unit("us")


def microseconds(column: pd.Series) -> Integers:
    """A column of instants as microseconds since 1970-01-01 UTC."""
    return np.asarray(utc_times(column).astype("int64"), dtype=np.int64)


def local_times(user: TextCodes, instants: pd.Series, zones: Mapping[str, str]) -> Integers:
    """Local wall-clock time of each instant in its user's zone, as microseconds since 1970-01-01.

    One conversion per distinct zone, however many users share it. Raises ValueError for a user
    without a zone, UnknownZone for an invalid name.
    """
    if missing := [name for name in user.names if name not in zones]:
        raise ValueError(f"{len(missing)} users have no time zone, among them {missing[0]!r}.")
    zone = TextCodes.of(objects([zones[name] for name in user.names]))
    utc = utc_times(instants).reset_index(drop=True)
    rows_of = utc.groupby(zone.codes[user.codes]).indices
    local = np.empty(len(utc), dtype=np.int64)
    for code, name in enumerate(zone.names):
        if (rows := rows_of.get(code)) is not None:
            in_zone = utc.iloc[rows].dt.tz_convert(check_zone(name))
            local[rows] = in_zone.dt.tz_localize(None).astype("int64")
    return local


MICROSECONDS_A_DAY = 86_400_000_000


def days_of(local: Integers) -> Integers:
    """Local times in microseconds to days since 1970-01-01."""
    return local // MICROSECONDS_A_DAY


def dates(days: npt.ArrayLike) -> pd.Series:
    """Days since 1970-01-01 to an object column of datetime.date; the inverse of `day_numbers`."""
    number, distinct = pd.factorize(np.asarray(days, dtype=np.int64))
    return objects(distinct.astype("datetime64[D]").astype(object)[number])


def day_numbers(column: pd.Series) -> Integers:
    """A column of datetime.date to days since 1970-01-01; the inverse of `dates`."""
    number, distinct = pd.factorize(column.to_numpy(dtype=object))
    return np.array([day_number(day) for day in distinct], dtype=np.int64)[number]


def day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return day.toordinal() - date(1970, 1, 1).toordinal()
