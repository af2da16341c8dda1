"""Files by path: texts written as a whole, and files named in the errors of reading them."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path


def write(texts: Mapping[Path, str]) -> None:
    """Write text files that belong together, as csrc/io/file.cpp writes one.

    New files next to them are completed and flushed to disk; then all are moved over them. If one cannot be completed,
    nothing has changed.

    Raises:
        OSError: if a file cannot be written; nothing is left behind.
    """
    with contextlib.ExitStack() as stack:
        drafts = {path: stack.enter_context(_draft(path, text)) for path, text in texts.items()}
        for path, draft in drafts.items():
            os.replace(draft, os.path.realpath(path))


def write_report(path: Path, text: str) -> None:
    """Write a text file as `write` does; a device or a pipe, which no file can replace, receives the text as it is.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_text(text, encoding="utf-8")
    else:
        write({path: text})


@contextlib.contextmanager
def _draft(path: Path, text: str) -> Iterator[str]:
    """The name of a file beside `path`, complete and with its permissions; removed in the end unless it was moved."""
    draft = os.path.join(os.path.dirname(os.path.realpath(path)), f".gradcore-{secrets.token_hex(8)}")
    try:
        try:
            _complete(draft, path, text)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        yield draft
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def _complete(draft: str, path: Path, text: str) -> None:
    exists = path.exists()
    if exists and not path.is_file():
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, "Not a regular file")
    if exists and not os.access(path, os.W_OK, effective_ids=True):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    with open(draft, "x", encoding="utf-8") as file:
        if exists:
            there = path.stat()
            with contextlib.suppress(OSError):  # root must not take the file from its owner
                os.fchown(file.fileno(), there.st_uid, there.st_gid)
            os.fchmod(file.fileno(), there.st_mode & 0o777)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def named(path: str | bytes) -> Iterator[None]:
    """Errors of the library about `path` begin with the file's name instead."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if not text.startswith("path: "):
            raise
        raise ValueError(f"{os.fsdecode(path)}: {text.removeprefix('path: ')}") from None
