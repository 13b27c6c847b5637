"""A file of settings on this machine. Knows a path and what the file system says of it; knows nothing of settings."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..errors import DiscoveryError
from .catalogue import MAX_BYTES, Snapshot

EVERY_S: Final = 0.5  #: a look takes microseconds, and a change is to be seen within two seconds
TRIES: Final = 5  #: a file that is still being written after so many is not replaced as it should be
REST_S: Final = 0.05  #: between two of them
YOUNG_NS: Final = 100_000_000  #: file systems stamp in ticks of up to 10 ms: a second change in one tick does not show


class FileCatalogue:
    """A file in TOML or JSON. What is written beside it and renamed over it is read whole; so is a swapped symlink."""

    is_remote: Final = False
    is_whole: Final = True

    def __init__(self, path: str | os.PathLike[str], *, every_s: float = EVERY_S) -> None:
        """A relative path is relative to the working directory of this moment.

        Args:
            every_s: the rest between two looks at the file, in seconds.
        """
        self._path = Path(path).absolute()
        self._every_s = every_s
        self.name = self._path.as_uri()

    async def fetch(self) -> Snapshot:
        """What is in the file now. Raises DiscoveryError where it cannot be read."""
        for _ in range(TRIES):
            seen = self._look()
            content = self._read()
            if self._look() == seen:
                version = "no file" if content is None else _written(seen)
                index = 0 if seen.is_young else hash(seen)
                return Snapshot(origin=self.name, content=content, version=version, index=index)
            await asyncio.sleep(REST_S)
        raise self._error("changed each time it was read", "Write a new file beside it and rename that over it.")

    async def watch(self, since: Snapshot) -> None:
        """Return when the file is another than it was, or was too young to tell."""
        await asyncio.sleep(self._every_s)
        while hash(self._look()) == since.index:
            await asyncio.sleep(self._every_s)

    async def aclose(self) -> None:
        """Nothing is held between two looks."""

    def _look(self) -> _Seen:
        real = os.path.realpath(self._path)
        try:
            facts = Path(real).stat()
        except OSError as error:  # what it means is for reading to say
            return _Seen(real=real, error=error.errno)
        return _Seen(
            real=real,
            device=facts.st_dev,
            inode=facts.st_ino,
            size=facts.st_size,
            modified_ns=facts.st_mtime_ns,
            changed_ns=facts.st_ctime_ns,
        )

    def _read(self) -> bytes | None:
        """The content; None where there is no file. Raises DiscoveryError."""
        try:
            return _content_of(self._path)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise self._error("may not be read by this process", "Let its user read the file.") from error
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}", "Name a file that can be read.") from error

    def _error(self, problem: str, remedy: str) -> DiscoveryError:
        return DiscoveryError(problem, source=self.name, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What tells one file from another, and from itself when it is written in place."""

    real: str
    error: int | None = None
    device: int = 0
    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    changed_ns: int = 0

    @property
    def is_young(self) -> bool:
        return abs(time.time_ns() - self.changed_ns) < YOUNG_NS


def _content_of(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait until somebody writes into it
        raise OSError(None, "it is no plain file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)  # with that byte more it is refused when it is parsed


def _written(seen: _Seen) -> str:
    try:
        return f"written {datetime.fromtimestamp(seen.modified_ns / 1e9, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError):  # a file may have any time that fits into its inode
        return "written at an unlikely time"
