"""The cache of published weights: each file is fetched once, verified, and from then on read without the network.

The folder is $PADDLE_CVT_HOME, else $XDG_CACHE_HOME/paddle_cvt, else ~/.cache/paddle_cvt; `weights/` below it holds
beside each file

    NAME.json    address, size, sha256, validator, date and time stamp of the file as it was verified
    NAME.part    what has arrived of a file, NAME.part.json the server's name of that version
    NAME.lock    held (flock) by the one process that fetches; the kernel releases it with the process, so it stays

On each use a file's size and time stamp are compared with the record; only where they differ, or there is no record (a
file put there by hand), all of it is hashed. Hashing it every time would cost each process of a job seconds a gigabyte
and guard against nothing more than a disk that rots: whoever can write the file can write the record.
"""

import codecs
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from util.errors import MissingInputError, UntrustedFileError, UsageError, WeightsError
from util.log import NAME
from util.weights.connection import PassingError, check_address
from util.weights.formats import detect_format
from util.weights.sources import HUB, Source, find_source, require_source
from util.weights.transfer import (
    DownloadError,
    Limits,
    Partial,
    read_note,
    transfer,
    writing,
)

MAX_BYTES = 3_000_000_000  # where not even a rounded size is published
ROUNDED = 1.05  # a published size of three digits is within half a percent; the rest is headroom for other tools' units
PLACE_HINT = "set PADDLE_CVT_HOME to a folder for downloaded weights that can be written"
SUFFIXES = (".safetensors", ".pdparams", ".pd", ".pth", ".pt", ".bin", ".ckpt", ".npz", ".tar")
log = logging.getLogger(f"{NAME}.weights")  # as quiet as the run's log is on this process


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download is waited for."""

    timeout: float = 30.0  # seconds to connect, to answer, and without data worth the name
    tries: int = 3
    pause: float = 1.0  # seconds before the second try; each further pause is twice the one before


def cache_folder() -> Path:
    """Returns the folder of downloaded weights, which need not exist."""
    home = os.environ.get("PADDLE_CVT_HOME")
    if home:
        try:
            return Path(home).expanduser() / "weights"
        except RuntimeError:
            raise UsageError(f"PADDLE_CVT_HOME must be a folder; got {home!r}, a home that does not exist") from None
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    except RuntimeError:
        raise UsageError(f"there is no home folder for a cache; {PLACE_HINT}") from None
    return base / "paddle_cvt" / "weights"


def find_weights(
    text: str, *, canonical_name: Callable[[str], str], cache_dir: Path | None = None
) -> tuple[Path, Source | None]:
    """Returns the file that `--pretrained TEXT` means, and its source if it was published.

    A file that exists is meant before a name is. A name is fetched if it is not in the cache. Anything else is a
    MissingInputError if it looks like a path, and a UsageError with the nearest names if not.

    canonical_name: the registry's; a published name may have its model in any spelling.
    """
    path = Path(text)
    if os.path.exists(text):
        return path, None
    model, dot, tag = text.partition(".")
    text = canonical_name(model) + dot + tag
    if find_source(text) is None and (path.suffix in SUFFIXES or len(path.parts) != 1):
        raise MissingInputError(f"{path}: no such file")
    source = require_source(text)
    return cached(source, cache_dir=cache_dir), source


def cached(source: Source, *, cache_dir: Path | None = None, patience: Patience | None = None) -> Path:
    """Returns the verified file of a source, fetched when it is not in the cache; then nothing is asked of the network.

    cache_dir: folder instead of `cache_folder()`. Several processes may ask at once: one fetches, the others wait.
    Raises DownloadError (may pass: no network, server down), MissingInputError (no such file there), UntrustedFileError
    (not the bytes that were published, or not over https), OutputError or SaveError (the cache).
    """
    folder = cache_folder() if cache_dir is None else cache_dir
    path = folder / source.file
    if not os.path.isfile(path):
        with writing(folder, hint=PLACE_HINT):
            folder.mkdir(parents=True, exist_ok=True)
        with _locked(path) as is_alone:
            if not os.path.isfile(path):  # nor is it there now
                _fetch(source, path, patience or Patience(), is_alone=is_alone)
                return path
    try:
        _check_cached(path, source)
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return path


def _check_cached(path: Path, source: Source) -> None:
    """Refuses a file that is not what was verified; one without a record is verified now."""
    stat, record = path.stat(), read_note(_record(path))
    if (record.get("size"), record.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns) and _is_published(
        str(record.get("sha256")), source
    ):
        return
    digest, known = _sha256(path), record.get("sha256")
    if not _is_published(digest, source):
        raise UntrustedFileError(
            f"{path}: not the published file: sha256 {digest} instead of {source.sha256}; delete it, and it is fetched "
            "again"
        )
    if isinstance(known, str) and known != digest:
        raise UntrustedFileError(
            f"{path}: changed since it was fetched: sha256 {digest} instead of {known}; delete it, and it is fetched "
            f"again; if you put it there yourself, delete {_record(path).name}"
        )
    with contextlib.suppress(OSError):  # the file is good, and a cache that others keep may be read-only
        _write_record(path, path, source.url, digest, validator=None)


def _is_published(digest: str, source: Source) -> bool:
    return source.sha256 is None or digest.startswith(source.sha256)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_record(path: Path, file: Path, url: str, digest: str, *, validator: str | None) -> None:
    """Notes what `file`, which is or becomes `path`, is; whole or not at all."""
    stat = file.stat()
    note = {
        "url": url,
        "size": stat.st_size,
        "sha256": digest,
        "validator": validator,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "mtime_ns": stat.st_mtime_ns,
    }
    beside = path.with_name(f".tmp-{path.name}.json-{os.getpid()}")
    beside.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, _record(path))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Waits until no other process fetches `path`; yields whether that is certain: some file systems cannot lock."""
    lock = path.with_name(f"{path.name}.lock")
    with writing(lock, hint=PLACE_HINT):
        file = open(lock, "ab")  # noqa: SIM115  closed below
    with file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info(f"another process is fetching {path.name}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            is_alone = True
        except OSError:
            is_alone = False
        yield is_alone


def address(source: Source) -> str:
    """Returns where a source is fetched from: its address, or that at the mirror of Hugging Face in $HF_ENDPOINT."""
    mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if not mirror or not source.url.startswith(f"{HUB}/"):
        return source.url
    try:
        check_address(mirror)
    except UntrustedFileError:
        raise UsageError(f"HF_ENDPOINT must be an https address, such as {HUB}; got {mirror!r}") from None
    return mirror + source.url.removeprefix(HUB)


def _limits(source: Source, timeout: float) -> Limits:
    most = MAX_BYTES if source.megabytes is None else round(source.megabytes * 1e6 * ROUNDED)
    return Limits(timeout=timeout, most=most)


def _fetch(source: Source, path: Path, patience: Patience, *, is_alone: bool) -> None:
    """Fetches, verifies and renames. If that fails, what arrived is kept for the next time, unless it is wrong.

    is_alone: whether no other process writes the same partial file; otherwise this one has its own, and keeps nothing.
    """
    url = address(source)
    partial = Partial(path.with_name(f"{path.name}.part" if is_alone else f"{path.name}.part-{os.getpid()}"))
    log.info(f"fetching {source.name} from {url} to {path}; licence: {source.licence}")
    try:
        _transfer_patiently(url, partial, _limits(source, patience.timeout), patience, _progress(source.name))
        size, digest = _take(source, url, partial, path)
    except PassingError as error:
        raise DownloadError(
            f"{source.name}: {url} cannot be fetched: {error}; try again later, which goes on where this stopped, or "
            f"put the file at {path} by hand"
        ) from None
    finally:
        if not is_alone:
            partial.remove()
    known = "as published" if source.sha256 else "noted, because none is published"
    log.info(f"{source.name}: {size / 1e6:.1f} MB, sha256 {digest}, {known}")


def _take(source: Source, url: str, partial: Partial, path: Path) -> tuple[int, str]:
    """Verifies what arrived and moves it to its place, or deletes it; returns its size and digest."""
    with writing(partial.path, hint=PLACE_HINT):
        size, digest = partial.path.stat().st_size, _sha256(partial.path)
        if not _is_published(digest, source):
            partial.remove()
            raise UntrustedFileError(
                f"{url}: not the published file: {size} bytes with sha256 {digest} instead of "
                f"{source.sha256}; it is damaged or was changed, and was deleted"
            )
        _check_format(url, partial)
        _write_record(path, partial.path, url, digest, validator=read_note(partial.note).get("validator"))
        os.replace(partial.path, path)
        partial.remove()
    return size, digest


def _check_format(url: str, partial: Partial) -> None:
    """Deletes and refuses what is no weights file at all, so that no such thing gets a source's name in the cache.

    A page or an empty answer is not the publisher's doing: a network that asks to log in or a broken proxy gives it in
    the file's place, and that passes (75). Anything else is simply not what was published (77).
    """
    with open(partial.path, "rb") as file:
        start = file.read(512)
    try:
        detect_format(partial.path)
        return
    except WeightsError as error:
        reason = str(error).removeprefix(f"{partial.path}: ")
    partial.remove()
    if not start or start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        what = "a page" if start else "nothing"
        raise DownloadError(
            f"{url}: the server sent {what} instead of the file, as networks do that ask to log in; try again later"
        )
    raise UntrustedFileError(f"{url}: what arrived is not the published file: {reason}; it was deleted")


def _transfer_patiently(
    url: str, partial: Partial, limits: Limits, patience: Patience, progress: Callable[[int, int | None], None]
) -> None:
    """Transfers, and tries again after failures that may pass; the last one is a PassingError."""
    for attempt in range(1, patience.tries + 1):
        try:
            transfer(url, partial, limits, progress)
            return
        except PassingError as error:
            if attempt == patience.tries:
                raise
            pause = patience.pause * 2 ** (attempt - 1)
            log.warning(f"{url}: {error}; try {attempt + 1} of {patience.tries} in {pause:g} s")
            time.sleep(pause)


def _progress(name: str) -> Callable[[int, int | None], None]:
    """Returns a callable that logs how far a download is, once a second."""
    last = started = time.monotonic()
    first: int | None = None

    def report(received: int, total: int | None) -> None:
        nonlocal last, first
        first = received if first is None else first
        now = time.monotonic()
        if now - last >= 1.0:
            last = now
            rate = (received - first) / 1e6 / (now - started)
            of = "" if total is None else f" of {total / 1e6:.1f}"
            log.info(f"{name}: {received / 1e6:.1f}{of} MB, {rate:.1f} MB/s")

    return report
