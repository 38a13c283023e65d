"""A CSV file of stations -> stations, with all that is wrong with it. Performs no I/O.

id,api_store_code,zone,name,connectors,param.store_code
SZ-0017,store-17,Asia/Shanghai,福田充电站,31000101 31000102,T2
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from consumer.core.coupons import is_free_parameter
from consumer.core.errors import Problem
from consumer.core.fields import Zone
from consumer.core.slices import ITEMS, check_utf8
from consumer.core.sources import Station
from consumer.rulebook.bundle import did_you_mean

COLUMNS = ("id", "api_store_code", "zone", "name", "connectors")
PARAMETER = "param."
MOST_PROBLEMS = 50
"""Told of one file; a column that is wrong is wrong in all of its lines."""

MOST_CHARACTERS = 10_000
"""In a cell, as in any text of the rules."""

_HEADER = f"start the file with a header such as `{','.join(COLUMNS)}`"


class StationTable:
    """What a CSV file says.

    Attributes:
        place: the file's name, as problems show it.
        stations: by id.
        connectors: each with its station's id, as they stand in the file; perhaps twice.
        problems: all that is wrong.

    """

    def __init__(
        self, content: bytes, place: str, find_zone: Callable[[str], Zone | None], breathe: Callable[[], None]
    ) -> None:
        """`find_zone` gives None for what is no zone; `breathe` is called now and then."""
        self.place = place
        self.stations: dict[str, Station] = {}
        self.connectors: list[tuple[str, str]] = []
        self.problems: list[Problem] = []
        self._lines: dict[str, int] = {}
        self._find_zone = find_zone
        self._zones: dict[str, Zone | None] = {}
        self._parameters: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
        self._breathe = breathe
        self._left_out = 0
        if self._is_text(content):
            self._read(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))
        if self._left_out:
            message = f"{self._left_out} more mistakes like these"
            self.problems.append(Problem(place, message, "correct those above first"))

    def parts(self) -> list[object]:
        """What is long in it, for whoever wants to empty it little by little."""
        return [self.stations, self.connectors, self._lines]

    def line(self, station: str) -> str:
        """Where this station stands."""
        return f"{self.place}:{self._lines[station]}"

    def _problem(self, line: int, message: str, remedy: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(f"{self.place}:{line}", message, remedy))
        else:
            self._left_out += 1

    def _is_text(self, content: bytes) -> bool:
        remedy = "save it as UTF-8 (in Excel: “CSV UTF-8”)"
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            self._problem(1, "UTF-16, and not UTF-8", remedy)
            return False
        try:
            check_utf8(content, self._breathe)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            try:
                content.decode("gb18030")
            except UnicodeDecodeError:
                self._problem(line, "not UTF-8", remedy)
            else:
                remedy += ", or `iconv -f GB18030 -t UTF-8`"
                self._problem(line, "not UTF-8; it looks like GBK or GB18030", remedy)
            return False
        return True

    def _read(self, text: Iterable[str]) -> None:
        rows = self._rows(text)
        first = next(rows, None)
        if first is None:
            self._problem(1, "an empty file", _HEADER)
            return
        columns = self._header(*first)
        if columns is None:
            return
        of_station = [columns.index(name) if name in columns else None for name in COLUMNS]
        parameters = [
            (number, name.removeprefix(PARAMETER))
            for number, name in enumerate(columns)
            if name.startswith(PARAMETER)
        ]
        for number, (line, row) in enumerate(rows):
            if number % ITEMS == 0:
                self._breathe()
            while len(row) > len(columns) and not row[-1]:
                row.pop()  # spreadsheets write cells that were once used
            if len(row) != len(columns):
                message = f"{_cells(len(row))}, where the header has {len(columns)}"
                remedy = "put what holds a comma in double quotes"
                if len(row) < len(columns):
                    remedy = "write a comma for each cell that is empty"
                self._problem(line, message, remedy)
            elif self._is_new(line, columns, row):
                self._take(row, of_station, parameters)

    def _rows(self, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """Each with the line on which it begins; without those that are empty."""
        reader = csv.reader(text, strict=True)
        line = 1
        while True:
            try:
                row = [cell.strip() for cell in next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                if "limit" in str(error) or "end of data" in str(error):
                    message, remedy = "a double quote is opened here and never closed", "close it"
                else:
                    message, remedy = f"not CSV: {error}", "write a double quote within a cell twice"
                self._problem(line, message, remedy)
                return
            if any(row):
                yield line, row
            line = reader.line_num + 1

    def _header(self, line: int, row: list[str]) -> Sequence[str] | None:
        while row and not row[-1]:
            row.pop()
        before = len(self.problems)
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if len(row) == 1 and separator in row[0]:
                self._problem(line, f"cells are separated by {name}", "separate them by commas")
                return None
        for number, name in enumerate(row):
            if name in row[:number]:
                self._problem(line, f"a second column `{name}`", "keep one of them")
            elif name.startswith(PARAMETER):
                if not is_free_parameter(name.removeprefix(PARAMETER)):
                    self._problem(line, f"column {name}: no free parameter", "leave it out")
            elif name not in COLUMNS:
                self._problem(line, f"unknown column `{name}`", did_you_mean(name, [*COLUMNS, "param.NAME"]))
        if "id" not in row:
            self._problem(line, "no column `id`", _HEADER)
        return row if len(self.problems) == before else None

    def _is_new(self, line: int, columns: Sequence[str], row: list[str]) -> bool:
        """Whether it is a station, and none that stands further up."""
        id_ = row[columns.index("id")]
        if not id_:
            self._problem(line, "column id: empty", "give the charging platform's station number")
            return False
        if id_ in self._lines:
            message = f"column id: `{id_}` stands in line {self._lines[id_]} too"
            self._problem(line, message, "keep one of the lines")
            return False
        for name, cell in zip(columns, row, strict=True):
            if len(cell) > MOST_CHARACTERS:
                message = f"column {name}: {len(cell)} characters"
                self._problem(line, message, f"use {MOST_CHARACTERS} at most")
                return False
        self._lines[id_] = line
        return True

    def _take(
        self, row: list[str], of_station: Sequence[int | None], parameters: Sequence[tuple[int, str]]
    ) -> None:
        id_, api_store_code, zone, name, connectors = [
            "" if number is None else row[number] for number in of_station
        ]
        self.stations[id_] = Station(
            id_,
            api_store_code or None,
            self._zone(self._lines[id_], zone) if zone else None,
            name or None,
            self._shared({key: row[number] for number, key in parameters if row[number]}),
        )
        for connector in connectors.replace(";", " ").split():
            self.connectors.append((connector, id_))

    def _shared(self, parameters: dict[str, str]) -> Mapping[str, str]:
        """Of all stations that have the same."""
        return self._parameters.setdefault((*parameters.items(),), parameters)

    def _zone(self, line: int, name: str) -> Zone | None:
        if name not in self._zones:
            self._zones[name] = self._find_zone(name)
        if self._zones[name] is None:
            message = f"column zone: `{name}` is no time zone"
            self._problem(line, message, "write it like `Asia/Shanghai` or `+08:00`")
        return self._zones[name]


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
