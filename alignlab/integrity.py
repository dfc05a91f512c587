"""Files that are written whole or not at all, and their checksums.

Checksums are verified when a file is read, and a damaged file is renamed.

The place of the checksum depends on the format:

- a zip archive (torch.save) has a CRC for every member;
- a JSON record ends with a line that holds the SHA-256 of the text before it;
- a folder has a file `SHA256SUMS`, which `sha256sum -c` can check.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError

log = logging.getLogger(__name__)

# Ending that is appended to the name of a damaged file.
DAMAGED = ".damaged"

# Checksums of a folder's files, in the format of `sha256sum`.
MANIFEST = "SHA256SUMS"

# The `extra` of a log message about damage. The record of the run keeps such messages.
DAMAGE_EXTRA = {"damage": True}

# Files that a warning has named as changed by hand. There is one warning per file.
_edited: set[Path] = set()

# Beginnings of the versions of alignlab whose files may have no checksum.
_WITHOUT_CHECKSUMS = ("0.0.", "0.1.")

# What this process denies to its files. It can be read only by changing it, which is safe while there is one thread.
_UMASK = os.umask(0)
os.umask(_UMASK)

_SEAL = ',\n  "sha256": "'
_BLOCK = 1 << 20
_MOST_BYTES = 1 << 28  # of a JSON record


def is_device(path: str | Path) -> bool:
    """Whether there is a device, a pipe or a socket of this name, which may have no end."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def refuse_device(path: str | Path) -> None:
    """Raise OSError if there is a device, a pipe or a socket of this name. Reading it could take forever."""
    if is_device(path):
        raise OSError(errno.EINVAL, "is a device or a pipe, not a file", str(path))


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Write a file whole or not at all, and make its folder. The `with` block writes the path that it gets.

    When the block ends, that path replaces `file`. If the block fails, that path is removed and `file` is unchanged.
    Raises OSError if `file` is a folder, or a device or a pipe, such as /dev/null, which a file would replace for
    everybody.
    """
    refuse_device(file)
    if not file.name:  # / and . have no name that a file beside them could begin with
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield scratch
        replace_file(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


def readable_as_usual(file: Path) -> None:
    """Give a file the permissions of files that `open` makes. Those of safetensors can be read by their owner only."""
    file.chmod(0o666 & ~_UMASK)


def replace_file(scratch: Path, file: Path) -> None:
    """Rename `scratch` to `file`, after its content is on the disk: a power cut leaves the old file or the new one."""
    with scratch.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(scratch, file)


def replace_and_keep(scratch: Path, file: Path, earlier: Path) -> None:
    """Rename `scratch` to `file` (`replace_file`), and keep the file that it replaces as `earlier`.

    `file` exists at every moment: `earlier` is a second name of it, or a copy where a file can't have two names.
    """
    if file.exists():
        second = earlier.with_suffix(".tmp")
        second.unlink(missing_ok=True)
        try:
            os.link(file, second)
        except OSError:
            shutil.copyfile(file, second)
        os.replace(second, earlier)
    replace_file(scratch, file)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Write a folder whole or not at all. The `with` block writes the folder `<name>.tmp` that it gets.

    When the block ends, that folder replaces `folder`. If the block fails, that folder is removed and `folder` is
    unchanged. The caller holds a lock: only one process may write the folder.
    """
    scratch = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed while it wrote
    try:
        yield scratch
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all. Raises OSError if that fails."""
    with new_file(file) as scratch:
        scratch.write_text(text, encoding="utf-8")


def sha256_of(file: Path, size: int | None = None) -> str:
    """SHA-256 of a file's bytes, or of the first `size` bytes, as 64 hex digits. Raises OSError if it can't be read."""
    refuse_device(file)
    state, left = hashlib.sha256(), size
    with file.open("rb") as handle:
        while block := handle.read(_BLOCK if left is None else min(_BLOCK, left)):
            state.update(block)
            left = None if left is None else left - len(block)
    return state.hexdigest()


def set_aside(error: DamagedError, then: str, suffix: str = DAMAGED) -> str:
    """Rename a damaged file to `<name>.damaged`, so that it is not read again. Returns a sentence for the log.

    then:   what happens next. It follows "and" in the sentence.
    suffix: appended to the file's name. A number follows it if that name is taken.
    """
    names = (f"{error.file.name}{suffix}{number or ''}" for number in itertools.count())
    kept = next(path for path in map(error.file.with_name, names) if not os.path.lexists(path))
    try:
        os.replace(error.file, kept)
    except OSError as problem:
        return f"{error}, and {then}; it can't be renamed to {kept.name}: {problem}"
    return f"{error}, and {then}; it is kept as {kept.name}"


def verify_zip(file: Path) -> None:
    """Raise DamagedError if a zip archive is incomplete or damaged, and OSError if it can't be read at all."""
    if file.is_dir() or is_device(file):
        raise DamagedError(file, "is a folder" if file.is_dir() else "is a device or a pipe, not a file")
    with file.open("rb") as handle:
        begin = handle.read(2)
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
    except zipfile.BadZipFile as error:
        why = "was cut off, or is damaged" if begin == b"PK" else "is damaged" if begin else "is empty"
        raise DamagedError(file, f"{why} ({error})") from error
    except OSError as error:
        if error.errno not in (errno.EINVAL, None):  # a damaged offset points before the beginning of the file
            raise
        raise DamagedError(file, f"is damaged ({error})") from error
    except Exception as error:  # zipfile raises many types of errors for damaged archives
        raise DamagedError(file, f"is damaged ({type(error).__name__}: {error})") from error
    if wrong:
        raise DamagedError(file, f"is damaged (the checksum of {wrong} is wrong)")


def sealed(value: Mapping[str, Any]) -> str:
    """A JSON object as text. Its last key is `sha256`: the digest of the text before that line."""
    text = json.dumps({key: part for key, part in value.items() if key != "sha256"}, indent=2, default=str)
    body = text.removesuffix("\n}")
    return f'{body}{_SEAL}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n' if body != text else f"{text}\n"


def write_sealed(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum. The file is never left half-written, and missing folders are created.

    Raises OSError if writing fails.
    """
    write_text(file, sealed(value))


def read_sealed(file: Path) -> dict[str, Any]:
    """Read a JSON object and return it without its checksum.

    Files of older versions have no checksum and are not verified.
    Raises DamagedError if the checksum is wrong or the file is not a JSON object, and OSError if it can't be read.
    """
    found, whole = _read_json(file)
    if whole is False:
        raise DamagedError(file, "is damaged, or was changed by hand (its checksum is wrong)")
    return found


def read_record(file: Path) -> dict[str, Any]:
    """Like `read_sealed`, for a file that people may edit: a wrong checksum is logged as a warning, not raised.

    So is a lack of one, if the file names a version of alignlab whose files all have one.
    """
    found, whole = _read_json(file)
    lacks_one = whole is None and _should_have_checksum(found)
    if (lacks_one or whole is False) and file not in _edited:
        _edited.add(file)
        why = "it has no checksum" if lacks_one else "its checksum is wrong"
        log.warning("%s was changed by hand, or is damaged (%s); it is used as it is", file, why)
    return found


def _should_have_checksum(record: Mapping[str, Any]) -> bool:
    versions = record.get("versions")
    made_with = versions.get("alignlab") if isinstance(versions, Mapping) else None
    return isinstance(made_with, str) and not made_with.startswith(_WITHOUT_CHECKSUMS)


def _read_json(file: Path) -> tuple[dict[str, Any], bool | None]:
    """(JSON object without its checksum, whether the checksum is right). None: it has no checksum.

    Raises DamagedError if the file is not a JSON object, and OSError if it can't be read.
    """
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise DamagedError(file, "is a folder" if file.is_dir() else "is a device or a pipe, not a file")
    if about.st_size > _MOST_BYTES:
        raise DamagedError(file, f"is larger than any record ({about.st_size / 1e9:.1f} GB)")
    try:
        text = file.read_bytes().decode()
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(file, f"is damaged (not JSON: {error})") from error
    if not isinstance(found, dict):
        raise DamagedError(file, f"is damaged (not a JSON object but a {type(found).__name__})")
    if "sha256" not in found:
        return found, None
    body, seal, _ = text.rpartition(_SEAL)
    return found, found.pop("sha256") == hashlib.sha256(body.encode()).hexdigest() and bool(seal)


def json_digest(value: object, digits: int = 64) -> str:
    """First hex digits of the SHA-256 of a JSON value. The order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:digits]


def seal_folder(folder: Path) -> None:
    """Write the checksums of all files below a folder to `SHA256SUMS` in that folder. All get the usual permissions."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    for file in files:
        readable_as_usual(file)
    lines = [f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def is_sealed(folder: Path) -> bool:
    """Whether a folder has checksums. Folders that other software or older versions wrote have none."""
    return (folder / MANIFEST).exists()


def verify_folder(folder: Path) -> None:
    """Raise DamagedError for the first file that is missing or whose content has changed.

    A folder without checksums is not verified.
    """
    if not is_sealed(folder):
        return
    manifest = folder / MANIFEST
    try:
        refuse_device(manifest)
        lines = manifest.read_bytes().decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(manifest, f"is damaged ({error})") from error
    if not lines:
        raise DamagedError(manifest, "is empty")
    for line in lines:
        expected, gap, name = line.partition("  ")
        if len(expected) != 64 or not gap or not name:
            raise DamagedError(manifest, "is damaged (one of its lines is not a checksum)")
        try:
            found = sha256_of(folder / name)
        except (OSError, ValueError) as error:
            raise DamagedError(folder / name, f"can't be read, though {MANIFEST} names it ({error})") from error
        if found != expected:
            raise DamagedError(folder / name, f"is damaged (its checksum is not the one in {MANIFEST})")


def is_whole(folder: Path, then: str) -> bool:
    """Whether a folder has checksums and its files match them. A damaged folder is renamed, with a warning.

    then: what happens to a damaged folder next, as in `set_aside`.
    """
    try:
        verify_folder(folder)
    except DamagedError as error:
        found = DamagedError(folder, f"is damaged ({error.file.name} {error.why})")
        log.warning("%s", set_aside(found, then), extra=DAMAGE_EXTRA)
    return is_sealed(folder)
