"""The files below a folder, as they were when they were looked at."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from session_lock.errors import SettingsError


def standard_library() -> Path:
    folder = Path(sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        raise SettingsError(
            f"this Python's standard library is no folder ({folder}): name another one with --dir"
        )
    return folder


@dataclass(frozen=True, slots=True)
class File:
    path: str
    size: int
    changed: int
    """Nanoseconds."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files as they were at the beginning."""

    root: Path
    files: tuple[File, ...]

    def __len__(self) -> int:
        return len(self.files)


def list_files(root: Path, *, most: int | None) -> Listing:
    """The readable regular files below a folder, in order, without what is made of others or installed by others."""
    if not root.is_dir():
        raise SettingsError(f"{root} is no folder: name one with --dir")
    files: list[File] = []
    for file in _walk(root.absolute()):
        files.append(file)
        if len(files) == most:
            break
    if not files:
        raise SettingsError(f"there are no readable files in {root}: name another folder with --dir")
    return Listing(root, tuple(files))


def _walk(root: Path) -> Iterator[File]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - {"__pycache__", "site-packages", "dist-packages"})
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118 (thousands of them)
            if (file := look_at(path)) and os.access(path, os.R_OK) and _is_text(path):
                yield file


def look_at(path: str) -> File | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return File(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _is_text(path: str) -> bool:
    """Whether the name can be kept in a column of type text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def digest(path: str) -> str | None:
    """SHA-256 in hex; None if the file is gone."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (a plain string is what we have)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
