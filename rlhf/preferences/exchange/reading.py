"""A file of rankings in any known format, told by its content, that is walked row by row as often as one likes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.data import readers
from rlhf.data.readers import Meter, Rows
from rlhf.data.records import Ranking
from rlhf.errors import DataError
from rlhf.preferences import intake
from rlhf.preferences.exchange import argilla, hh_rlhf, label_studio, oasst, rankings, trl
from rlhf.preferences.exchange.base import Format, Tally, few, listed, parsed_meta

FORMATS = {
    found.name: found
    for found in (rankings.FORMAT, trl.FORMAT, hh_rlhf.FORMAT, argilla.FORMAT, label_studio.FORMAT, oasst.FORMAT)
}
TELLING = (oasst.FORMAT, label_studio.FORMAT, argilla.FORMAT, hh_rlhf.FORMAT, trl.FORMAT, rankings.FORMAT)
AUTO = "auto"
WATCHED = 250  # rows between two calls of `watch`
MOST_NESTED = 100  # levels of a ranking's meta: what Python reads here it may refuse where more calls are under way
META = "meta_json"  # the column of a table with a ranking's meta


class RanksMissing(DataError):
    """A file of tasks where rankings were expected; `found` says so without saying what to do about it."""

    def __init__(self, where: str) -> None:
        self.found = f"{where}: these are tasks without ranks, and no rankings"
        super().__init__(f"{self.found}; queue them for people to rank with `rlhf store tasks FILE`")


class RankingFile(intake.Checked):
    """The rankings of a file, of a folder that `datasets` saved, or of a `datasets` name, checked one by one.

    Its format is told by its first row, or given. Walking it raises DataError with the place of the first bad row.
    After a walk `count` and `tally` say what was found and what was no ranking; `meter` says how far a walk is.
    """

    def __init__(self, source: str | Path, format: str = AUTO, *, name: str = "") -> None:
        """`name`: what to call it in messages, where the path would say nothing (an upload)."""
        self.source = str(source)
        self._name = name or self.source
        if not self.source.strip():
            raise DataError(f"file: expected a file's name, found {self.source!r}")
        if format not in (AUTO, *FORMATS):
            raise DataError(f"format: unknown format {format!r}; expected one of {', '.join((AUTO, *FORMATS))}")
        self.meter = Meter()
        self.tally = Tally()
        self.count = 0
        self.watch: Callable[[RankingFile], None] | None = None  # called now and then on a walk
        self.format = self._told() if format == AUTO else FORMATS[format]

    def __iter__(self) -> Iterator[Ranking]:
        self.meter, self.tally, self.count = Meter(), Tally(), 0
        for where, ranking in self.format.read(self._rows(), self.tally):
            if _deeper(ranking.meta, MOST_NESTED):
                raise DataError(f"{where}, field 'meta': is nested more than {MOST_NESTED} deep; make it flatter")
            self.count += 1
            if self.watch is not None and not self.count % WATCHED:
                self.watch(self)
            yield intake.accepted(ranking, where)
        if not self.count:
            found = listed(self.tally.left_out)
            raise DataError(f"{self._name}: holds no rankings{f' but {found}' if found else ''}; give it at least one")
        self.whole = True

    def first(self, count: int) -> list[Ranking]:
        """Its first rankings, for a look."""
        return list(islice(self, count))

    def _told(self) -> Format:
        rows = self._rows()
        try:
            where, row = next(rows, ("", {}))
        finally:
            rows.close()  # type: ignore[attr-defined]  # a generator: lets go of the file
        if not row:
            raise DataError(f"{self._name}: holds no rows; give it at least one")
        found = next((f for f in TELLING if f.known(row)), None)
        if found is None and "prompt" in row and "completions" in row:
            raise RanksMissing(where)
        if found is None:
            raise DataError(
                f"{where}: no format is known that has {few(row)}; "
                f"known: {', '.join(FORMATS)}; rename its fields, or name the format"
            )
        return found

    def _rows(self) -> Rows:
        try:
            for where, row in _reader(self.source)(self.meter):
                yield (where if self._name == self.source else where.replace(self.source, self._name, 1)), row
        except OSError as error:
            short = self._name if len(self._name) <= 200 else f"{self._name[:200]}…"
            reason = error.strerror or str(error)
            raise DataError(f"{short}: cannot be read ({reason}); check the path") from None
        except DataError as error:
            raise DataError(str(error).replace(self.source, self._name)) from error.__cause__


def _deeper(value: object, most: int) -> bool:
    """Whether lists and objects stand in each other more than `most` deep."""
    level: list[Any] = [value]
    for _ in range(most + 1):
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return False
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return True


def _reader(source: str) -> Callable[[Meter], Rows]:
    path = readers.path_of(source)
    suffix = readers.suffix_of(path)
    kinds = ", ".join(readers.READERS)
    if path.is_dir():
        if not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file():
            raise DataError(f"{source}: is a folder, not one of `save_to_disk`; name a file in it ({kinds})")
        return lambda meter: _unpacked(readers.read_folder(path, meter))
    if not path.is_file():
        named = suffix in readers.READERS or source.startswith((".", "/", "~")) or source.count("/") > 1
        if named or path.exists():
            raise readers.no_file(source)
        return lambda _: readers.read_hub(source)
    if suffix not in readers.READERS:
        raise DataError(f"{source}: unknown kind of file {suffix!r}; expected one of {kinds}")
    if suffix in (".parquet", ".csv"):
        return lambda meter: _unpacked(readers.READERS[suffix](path, meter))
    return lambda meter: readers.read_json(path, meter)


def _unpacked(rows: Rows) -> Rows:
    """Rows of a table, whose column for meta holds JSON."""
    for where, row in rows:
        yield where, parsed_meta(row.pop(META), where) | row if META in row else row


def as_json(value: object) -> str:
    """One line of JSON; DataError for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"rankings: cannot be written as JSON ({error}); keep text, numbers, lists in meta") from None
