"""Chooses the numbered version in a folder that is served: the highest complete one, not one still being copied.

A version is complete where saved_model.pb can be read, every file that it names exists, and no file of variables is
shorter than its index says.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from serving.core import files
from serving.core.errors import LoadError
from serving.savedmodel import mistaken, saved_model
from serving.savedmodel.folder import twin
from serving.savedmodel.protobuf import each_field, last_field, message_field, number_field, read_varint, text_of
from serving.savedmodel.roots import asset_definitions

INDEX = "variables/variables.index"
SHARD = r"variables/variables\.data-(\d{5})-of-(\d{5})"
MAGIC = bytes.fromhex("57fb808b247547db")  # of a table, LevelDB's format: the last 8 bytes of a file of 48 and more
FOOTER = 48


class Chosen(NamedTuple):
    """The folder that is served."""

    directory: Path
    passed_over: tuple[str, ...] = ()  # higher versions, and what each lacks


def chosen(directory: Path) -> Chosen:
    """Return the folder itself, or the highest complete version in it; raise LoadError where no version is complete."""
    if holds(directory) or not directory.is_dir():
        return Chosen(directory)
    numbered = sorted((path for path in directory.iterdir() if path.name.isdecimal()), key=_number_of, reverse=True)
    passed_over: list[str] = []
    for path in numbered:
        if (problem := lacking(path)) is None:
            return Chosen(path, tuple(passed_over))
        passed_over.append(f"version {path.name}: {problem}")
    if passed_over:
        raise LoadError(f"no version is complete: {'; '.join(passed_over[:5])}")
    return Chosen(directory)


def _number_of(path: Path) -> int:
    return int(path.name)


def holds(directory: Path) -> bool:
    """Return whether the folder itself holds a model, complete or not."""
    return (directory / saved_model.NAME).exists() or twin.holds(directory)


def lacking(directory: Path) -> str | None:
    """Return what a model lacks to be complete, or None."""
    if twin.holds(directory):
        return None
    try:
        message = saved_model.message(directory)
        graphs = list(each_field(message, 2))
        for graph in graphs:
            if problem := missing(directory, graph):
                return problem
        return _short(directory) if any(restores(graph) for graph in graphs) else None
    except (LoadError, ValueError, OSError) as error:
        return str(error)


def restores(graph: memoryview) -> bool:
    """Return whether a graph reads its variables from files."""
    return bool(last_field(message_field(graph, 3), 3))


def missing(directory: Path, graph: memoryview) -> str | None:
    """Return which file is missing that a graph reads when it is loaded, or None."""
    for asset in asset_definitions(graph):
        name = f"assets/{text_of(last_field(asset, 2))}"
        if not (directory / name).exists():
            return f"{name} is missing"
        if problem := _pointer(directory, name):
            return problem
    if not restores(graph):
        return None
    if not (directory / INDEX).is_file():
        return f"{INDEX} is missing"
    return missing_shard(files.names(directory, "variables"))


def without_content(directory: Path, graph: memoryview) -> str | None:
    """Return which asset is empty or a folder, or None: TensorFlow's message about it names no file."""
    for asset in asset_definitions(graph):
        path = directory / f"assets/{text_of(last_field(asset, 2))}"
        if not path.is_file() or not path.stat().st_size:
            return f"assets/{path.name} is {'empty' if path.is_file() else 'not a file'}"
    return None


def _pointer(directory: Path, name: str) -> str | None:
    """Say that a file is a pointer of Git LFS, which a table would take for its words, or None."""
    try:
        with files.opened(directory, name, files.ANY) as file:
            beginning = file.read(64)
    except (LoadError, OSError):
        return None  # TensorFlow, or `files.problem`, says why
    return f"{name} is {mistaken.content(beginning)}" if beginning.startswith(mistaken.POINTER) else None


def missing_shard(names: Iterable[str]) -> str | None:
    """Return which file of variables is missing among the names of a model's files, or None."""
    shards = [match for name in names if (match := re.fullmatch(SHARD, name))]
    if not shards:
        return "variables/variables.data-00000-of-00001 is missing"
    count = int(shards[0][2])
    present = {int(match[1]) for match in shards if int(match[2]) == count}
    absent = next((number for number in range(count) if number not in present), None)
    return None if absent is None else f"variables/variables.data-{absent:05}-of-{count:05} is missing"


def _short(directory: Path) -> str | None:
    """Return which file of variables is shorter than its index says, or None; raise ValueError for a cut-off index."""
    index = files.content(directory, INDEX) or b""
    ends: dict[int, int] = {}
    count = 1
    for key, value in _entries(index):
        if not key:
            count = number_field(memoryview(value), 1)
            continue
        shard, offset, size = (number_field(memoryview(value), field) for field in (3, 4, 5))
        ends[shard] = max(ends.get(shard, 0), offset + size)
    for shard, end in ends.items():
        name = f"variables/variables.data-{shard:05}-of-{count:05}"
        if (size := files.size(directory, name)) < end:
            with files.opened(directory, name, files.ANY) as file:
                kind = mistaken.content(file.read(64))
            return f"{name} is {kind}" if kind else f"{name} has {size} bytes of {end}"
    return None


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a table <https://github.com/google/leveldb/blob/main/doc/table_format.md>."""
    if len(table) < FOOTER or table[-8:] != MAGIC:
        raise ValueError(f"{INDEX} is {mistaken.content(table[:64]) or 'cut off'}")
    footer = memoryview(table)[-FOOTER:]
    position = 0
    handle = []
    for _ in range(4):  # of the meta index, and of the index
        number, position = read_varint(footer, position)
        handle.append(number)
    for _, value in _block(table, handle[2], handle[3]):
        start, position = read_varint(memoryview(value), 0)
        size, _ = read_varint(memoryview(value), position)
        yield from _block(table, start, size)


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block; each key is stored without the prefix that it shares with the one before."""
    block = memoryview(table)[start : start + size]
    if len(block) < size or len(table) < start + size + 5 or table[start + size]:
        raise ValueError(f"{INDEX} is cut off, or compressed")
    restarts = int.from_bytes(block[-4:], "little")
    end, position, key = size - 4 * (restarts + 1), 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        own, position = read_varint(block, position)
        length, position = read_varint(block, position)
        key = key[:shared] + bytes(block[position : position + own])
        position += own
        yield key, bytes(block[position : position + length])
        position += length
