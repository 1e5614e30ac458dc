"""Reading tables, CSV or Parquet, and refusing what does not fit with file, column and row.

Rows are counted from 1, the header of a CSV file not included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.config import unknown
from fl.errors import TaskError
from fl.tasks.extras import require

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SUFFIXES = (".csv", ".parquet")

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")
"""Texts that stand for a number that nobody knows."""


def find(directory: Path, whose: str) -> Path:
    """The one table in a directory.

    Raises:
        TaskError: If there is none or more than one, or the directory is unreadable.
    """
    with _readable(directory):
        files = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise TaskError(f"{whose} has no .csv or .parquet file in {directory}")
    if len(files) > 1:
        raise TaskError(
            f"{whose} has {len(files)} tables in {directory}: {', '.join(path.name for path in files)}",
            hint="leave one there",
        )
    return files[0]


def read(path: Path, columns: Sequence[str], *, separator: str = ",") -> Any:
    """Some columns of a table, as a ``pyarrow.Table``; those of a CSV file as texts.

    Raises:
        TaskError: If the file is missing, empty, damaged or of another kind, or lacks a column.
    """
    require("pyarrow")
    import pyarrow as pa
    from pyarrow import csv, parquet

    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise TaskError(f"{path} is neither a .csv nor a .parquet file")
    with _readable(path):
        if path.stat().st_size == 0:
            raise TaskError(f"{path} is empty")
        if suffix == ".parquet":
            _check_columns(path, columns, parquet.read_schema(path).names)
            return parquet.read_table(path, columns=list(columns))
        parse = csv.ParseOptions(delimiter=separator)
        with csv.open_csv(path, parse_options=parse) as reader:
            _check_columns(path, columns, reader.schema.names)
        convert = csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        )
        return csv.read_csv(path, parse_options=parse, convert_options=convert)


def numbers(table: Any, column: str, path: Path) -> F64:
    """A column as numbers, shape ``(N,)``; NaN where the value is missing.

    Raises:
        TaskError: If a value is no finite number; with its row.
    """
    import pyarrow as pa
    from pyarrow import compute

    values = _plain(table.column(column))
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = compute.utf8_trim_whitespace(values)
        is_missing = compute.is_in(values, value_set=pa.array(MISSING, values.type))
        values = compute.if_else(is_missing, pa.scalar(None, values.type), values)
    try:
        floats = values.cast(pa.float64())
    except pa.ArrowNotImplementedError as err:
        raise TaskError(f"{path}: column {column} holds values of type {values.type}, not numbers") from err
    except pa.ArrowInvalid as err:
        row, value = next(_not_numbers(values))
        raise TaskError(f"{path}: column {column} holds {value!r} in row {row}, which is no number") from err
    array = np.asarray(floats.to_numpy(zero_copy_only=False), np.float64)
    if np.isinf(array).any():
        row = int(np.argmax(np.isinf(array)))
        raise TaskError(f"{path}: column {column} holds {array[row]} in row {row + 1}, which is not finite")
    return array


def codes(table: Any, column: str, classes: Sequence[str], path: Path) -> I64:
    """A column of class names as their places in ``classes``, shape ``(N,)``.

    Raises:
        TaskError: If a value is missing or none of the classes; with its row.
    """
    texts = [as_text(value) for value in _plain(table.column(column)).to_pylist()]
    places = {name: place for place, name in enumerate(classes)}
    for row, text in enumerate(texts, start=1):
        if text is None:
            raise TaskError(f"{path}: column {column} is empty in row {row}")
        if text not in places:
            raise TaskError(
                f"{path}: column {column} holds {text!r} in row {row}, which is none of the classes",
                hint=f"task.classes names {', '.join(classes)}",
            )
    return np.array([places[text] for text in texts if text is not None], np.int64)


def as_text(value: Any) -> str | None:
    """How a class is written: ``1`` for the numbers 1 and 1.0, ``true`` for true, texts without space around."""
    if value is None or value != value:  # NaN differs from itself
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _plain(values: Any) -> Any:
    """A column without the dictionary that pandas' categories become."""
    import pyarrow as pa

    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _not_numbers(values: Any) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa

    for row, value in enumerate(values, start=1):
        try:
            value.cast(pa.float64())
        except pa.ArrowInvalid:
            yield row, value.as_py()


def _check_columns(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    for column in wanted:
        if column not in there:
            raise TaskError(f"{path} has no column {column}", hint=unknown("column", column, there).hint)
        if there.count(column) > 1:
            raise TaskError(f"{path} has {there.count(column)} columns {column}")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    require("pyarrow")
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as err:
        raise TaskError(f"there is no {path}") from err
    except (OSError, UnicodeDecodeError, pa.ArrowException) as err:
        reason = (err.strerror if isinstance(err, OSError) else None) or str(err).split("\n", 1)[0]
        raise TaskError(f"cannot read {path}: {reason}") from err
