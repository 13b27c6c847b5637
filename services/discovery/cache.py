"""The last good documents of remote sources, on the disk: for a start while a config centre is down.

Knows files; knows nothing of settings, and nothing of which document is good.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from .catalogue import MAX_BYTES, Snapshot

FORMAT: Final = 1  #: of a file; another one's is not read
MAX_FILE: Final = 8 * MAX_BYTES  #: JSON writes one byte as six at most, and little stands around the document


class Cache:
    """One file for each function and document, for this user alone. Nothing that happens to them is an error."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """The folder is made when it is needed, for this user alone; one that exists stays as it is."""
        self._folder = Path(folder).absolute()

    def save(self, function: str, snapshot: Snapshot) -> str | None:
        """Keep a document instead of the one before. Returns why it could not be kept, or None.

        A reader sees one or the other whole, also after a power cut.
        """
        if snapshot.content is None or snapshot.problem is not None:
            return "there is no document to keep"
        try:
            text = snapshot.content.decode()
            kept = {
                "format": FORMAT,
                "function": function,
                "origin": snapshot.origin,
                "version": snapshot.version,
                "saved_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                "digest": snapshot.digest,
                "content": text,
            }
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._path(function, snapshot.origin), json.dumps(kept, indent=1).encode())
        except OSError as error:
            return f"cannot be kept in {self._folder}: {error.strerror or error}"
        except ValueError:  # of the text, or a path with a zero in it
            return f"cannot be kept in {self._folder}: it is no text in UTF-8, or the folder's name is impossible"
        return None

    def load(self, function: str, origin: str) -> Snapshot | None:
        """The document that was kept last. None where there is none, or where another may have written the file."""
        try:
            kept = json.loads(_content_of(self._path(function, origin)))
        except (OSError, ValueError, RecursionError):
            return None
        return _snapshot_of(kept, function, origin)

    def _path(self, function: str, origin: str) -> Path:
        name = hashlib.sha256(f"{function}\0{origin}".encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{name[:32]}.json"


def _snapshot_of(kept: Any, function: str, origin: str) -> Snapshot | None:
    match kept:
        case {
            "format": int(known),
            "function": str(whose),
            "origin": str(source),
            "version": str(version),
            "saved_at": str(saved_at),
            "digest": str(digest),
            "content": str(text),
        } if (known, whose, source) == (FORMAT, function, origin):
            content = text.encode("utf-8", "replace")
            snapshot = Snapshot(origin=origin, content=content, version=f"{version}, kept at {saved_at}")
            return snapshot if snapshot.digest == digest else None
    return None


def _content_of(path: Path) -> bytes:
    """What is in a file that this user alone can have written. Raises OSError where it is another."""
    # Neither through a symlink nor waiting at a pipe: somebody else may have put it there.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        facts = os.fstat(handle)
        is_ours = facts.st_uid == os.geteuid() and not facts.st_mode & stat.S_IWOTH
        if not (stat.S_ISREG(facts.st_mode) and is_ours and facts.st_size <= MAX_FILE):
            raise PermissionError(f"{path} is not what was saved")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(MAX_FILE)
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".new")  # of mode 0600
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves the new name with nothing in it
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
