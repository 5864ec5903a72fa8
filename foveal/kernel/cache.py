"""Machine code on disk, one file per kernel, shared by all processes of a user.

File: 8 bytes magic, 8 bytes that stand for the target and Foveal's sources, 32 bytes SHA-256 of the key and of the
object, then the object file. The name is the kernel's key, which covers its source, shapes, target CPU, LLVM version
and Foveal's sources. Written under a temporary name and
renamed, so a reader sees a whole file or none; a file that does not match its checksum, because it is damaged or was
written for another kernel, counts as absent and is written again.

Place: $FOVEAL_CACHE, else foveal/ in the user's cache folder. ~ is the home folder, and a relative path counts from
where the process was when it first asked. FOVEAL_CACHE=/dev/null keeps nothing. New folders get mode 0700.

Threat model. What lies here runs as the user who finds it, so nobody else may have a hand in it.

- Attacker: another user of the machine, who may write wherever the modes let them, such as in /tmp, and may have been
  there first. Nothing of theirs is used: the folder and each file have to belong to the effective user, and nobody else
  may write to them; files are opened without following a link, without waiting for a pipe, and looked at once they are
  open, so that nothing can be exchanged in between; their size is bounded. On the way to the folder nobody but root
  and this user may be able to rename anything (a folder such as /tmp is safe as its sticky bit keeps names in place).
- The same holds for root: files of other users are not used by root, and files of root are not used by others. Whoever
  hands out a cache that was filled in advance has to let it belong to its user.
- A folder that does not pass is neither read nor written nor cleared. That is said once per process, and by `foveal
  doctor`. Results are the same, only each process compiles its kernels again.
- What comes from another machine comes as one file that is signed (bundle.py), and is refused unless the signature is
  by a key of this user's. Nothing else is taken over: whoever can write a file can also compute its checksum.
- Not covered: root, this user's own processes, and whoever may write to the folder as this user; the checksum finds
  damage and not intent, as whoever can write a file can also compute it. Access lists beyond the mode bits are seen
  where the system shows them in the mode (Linux does, macOS does not). Where there are no user numbers (Windows),
  owners are not compared: there the user's own folder is private by the system's rules, and another is as safe as
  whoever made it left it.
"""

import errno
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache as memoise
from pathlib import Path

from foveal import debug
from foveal.kernel.sources import imported_digest
from foveal.kernel.target import current

MAGIC = b"foveal03"
STAMP_BYTES = 8
HEADER_BYTES = len(MAGIC) + STAMP_BYTES + 32
# an object file takes 1 to 20 KB, so this is room for 50,000 kernels and more; a model has some hundred
LIMIT_BYTES = 1 << 30
# a process may write so much before it looks through the folder again, which may hold some ten thousand files
SLACK_BYTES = 32 << 20
# no file of the cache comes near this size; a larger one is not read
MAX_FILE_BYTES = 64 << 20
# a temporary file this old was left behind by a process that was killed
STALE_SECONDS = 3600.0
# the file that says that a kernel is being compiled; it is believed for so long
CLAIM = ".{}.o.claim.tmp"
CLAIM_SECONDS = 60.0
# the names of kernels, and of what is about to become one
OWN_NAME = re.compile(r"[0-9a-f]{40}\.o|\.[0-9a-f]{40}\.o\..{1,16}\.tmp")
OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
ROOT = 0
NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# the value of FOVEAL_CACHE with which nothing is kept
OFF = Path(os.devnull)

# folders of which this process has said that they are not used
_reported: set[Path] = set()
# (folder, user): folders that nobody but this user can exchange, nor anything above them
_reached_safely: set[tuple[Path, int | None]] = set()
# bytes that this process has written, by folder, since it last looked through it
_written: dict[Path, int] = {}


def directory() -> Path:
    """The folder of the cache: $FOVEAL_CACHE, else foveal/ in the user's cache folder."""
    if chosen := os.environ.get("FOVEAL_CACHE"):
        return absolute(chosen)
    user = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG base directory specification says to ignore a relative one
    return absolute(os.path.join(user if os.path.isabs(user) else "~/.cache", "foveal"))


def absolute(path: str) -> Path:
    """The path with ~ expanded, seen from the root; it stays relative where there is no home folder to expand it to."""
    expanded = os.path.expanduser(path)
    return Path(expanded) if expanded.startswith("~") else from_root(expanded)


@memoise
def from_root(path: str) -> Path:
    """The path from the root; a relative one counts from where the process is when it first asks."""
    return Path(os.path.abspath(path))


def user() -> int | None:
    """The number of the user whose rights this process has; None where there are no such numbers."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def problem() -> str | None:
    """Why the folder is not used, as a clause; None if it is, or is still to be made at a place that is safe."""
    folder = directory()
    if not folder.is_absolute():
        return f"there is no home folder that {folder} could lie in"
    try:
        # once it is safe, only root and this user can change that
        if (folder, user()) not in _reached_safely and (reason := exposure(folder)):
            return reason
        status = folder.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    _reached_safely.add((folder, user()))
    if user() not in (None, status.st_uid):
        return f"{folder} belongs to another user ({status.st_uid})"
    return open_to_others(folder, status) if status.st_mode & WRITABLE_BY_OTHERS else None


def exposure(path: Path) -> str | None:
    """How another user could exchange what lies at an absolute path; None if nobody but root and this user could.

    What does not exist yet cannot be reached by others once all above it is safe.
    """
    for place in (*reversed(path.parents), path):
        try:
            status = place.lstat()
        except FileNotFoundError:
            return None
        if user() is not None and status.st_uid not in (ROOT, user()):
            return f"{place} belongs to another user ({status.st_uid})"
        if stat.S_ISLNK(status.st_mode):
            # links that lead back to themselves are an OSError; what a link leads to may be still to be made
            with suppress(FileNotFoundError):
                place.stat()
            # `..` in a link counts from where the link really is
            target = Path(os.path.realpath(place.parent), os.readlink(place))
            return exposure(target / path.relative_to(place))
        if not stat.S_ISDIR(status.st_mode):
            return f"{place} is not a folder"
        safe = status.st_mode & stat.S_ISVTX or shared_with_nobody(status)
        if status.st_mode & WRITABLE_BY_OTHERS and not safe:
            return open_to_others(place, status)
    return None


def open_to_others(place: Path, status: os.stat_result) -> str | None:
    """The clause that others may write to a folder; None where modes do not say who may."""
    mode = f"mode {stat.S_IMODE(status.st_mode):o}"
    return None if user() is None else f"others may write to {place} ({mode}; chmod go-w would change that)"


def shared_with_nobody(status: os.stat_result) -> bool:
    """True if of all others only the user's private group may write: systems that give each user one let it write."""
    try:
        import grp
        import pwd
    except ImportError:
        return True
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    private = (owner.pw_gid, owner.pw_name) == (group.gr_gid, group.gr_name) and set(group.gr_mem) <= {owner.pw_name}
    return private and not status.st_mode & stat.S_IWOTH


def usable() -> Path | None:
    """The folder; None if nothing may be read or written there, which is said once."""
    folder = directory()
    if folder == OFF:
        return None
    reason = problem()
    if reason is not None and folder not in _reported:
        _reported.add(folder)
        debug.show(f"the kernel cache {folder} is not used, so kernels are compiled again: {reason}; {WAY_OUT}")
    return folder if reason is None else None


WAY_OUT = "set FOVEAL_CACHE to a folder of your own that nobody else can write to"


def is_own_file(status: os.stat_result) -> bool:
    """True for a regular file that belongs to this user and that nobody else can write to."""
    safe = user() is None or (status.st_uid == user() and not status.st_mode & WRITABLE_BY_OTHERS)
    return stat.S_ISREG(status.st_mode) and safe


def load(name: str) -> bytes | None:
    """The content of a file of the folder; None if there is none that may be used."""
    folder = usable()
    if folder is None:
        return None
    try:
        handle = os.open(folder / name, OPEN_FLAGS)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        if not is_own_file(status) or status.st_size > MAX_FILE_BYTES:
            return None
        # the time of last use, by which `trim` chooses; a cache may be one that can only be read
        with suppress(OSError, NotImplementedError):
            os.utime(handle if os.utime in os.supports_fd else folder / name)
        # a read may give less than there is
        return b"".join(iter(lambda: os.read(handle, status.st_size + 1), b""))
    except OSError:
        return None
    finally:
        os.close(handle)


def store(name: str, content: bytes) -> bool:
    """Write a file of the folder, which others see as a whole or not at all; gives whether it is there.

    Where the folder cannot be written, nothing is kept and nothing fails; `foveal doctor` reports such a folder. That
    there is no room is said once.
    """
    folder = usable()
    if folder is None:
        return False
    try:
        make(folder)
        # somebody else may have made the folder since it was looked at
        if usable() is None:
            return False
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, folder / name)
            _written[folder] = _written.get(folder, SLACK_BYTES) + len(content)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno in NO_ROOM and folder not in _reported:
            _reported.add(folder)
            debug.show(f"kernels are not kept in {folder}: {error.strerror}; make room, or set FOVEAL_CACHE")
        return False
    return True


def make(folder: Path) -> None:
    """Make the folder, and those above it that are missing, for this user alone."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def read(key: str) -> bytes | None:
    """The object stored under `key`, or None if there is none that is whole."""
    content = load(f"{key}.o")
    return None if content is None else checked(key, content)


def checked(key: str, content: bytes) -> bytes | None:
    """The object in a file that was stored under `key`; None unless the file is whole."""
    body, start = content[HEADER_BYTES:], content[: len(MAGIC) + STAMP_BYTES]
    return body if content[:HEADER_BYTES] == start + checksum(key, body) and start.startswith(MAGIC) else None


def write(key: str, body: bytes) -> bool:
    """Store an object that was compiled for the current target under `key`, as `store` does."""
    return store(f"{key}.o", MAGIC + stamp() + checksum(key, body) + body)


def claim(key: str) -> bool:
    """Say that this process compiles a kernel now; False if another one has said so and is still at it, it seems."""
    folder = usable()
    if folder is None:
        return True
    path = folder / CLAIM.format(key)
    try:
        make(folder)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > CLAIM_SECONDS
    except OSError:
        pass
    return True


def release(key: str) -> None:
    """Take a claim back, whether or not the kernel was compiled."""
    if (folder := usable()) is not None:
        remove(folder / CLAIM.format(key))


def checksum(key: str, body: bytes) -> bytes:
    """The checksum covers the key, so that an object is found under no other."""
    return hashlib.sha256(key.encode() + b"\0" + body).digest()


def stamp() -> bytes:
    """What files of the current target and of these sources have in common; nobody has to believe it."""
    return hashlib.sha256(f"{current().identity} {imported_digest()}".encode()).digest()[:STAMP_BYTES]


def own_objects() -> Iterator[tuple[str, bytes]]:
    """The kernels in the folder that are for the current target and of these sources, each after its key."""
    for path, _ in entries():
        content = load(path.name) if path.suffix == ".o" else None
        if content is not None and content[len(MAGIC) :].startswith(stamp()):
            body = checked(path.stem, content)
            if body is not None:
                yield path.stem, body


def entries() -> list[tuple[Path, os.stat_result]]:
    """The kernels in the cache, and temporary files of such, each with its status. Files of others are none of them."""
    found: list[tuple[Path, os.stat_result]] = []
    folder = usable()
    if folder is None:
        return found
    with suppress(OSError), os.scandir(folder) as items:
        for item in items:
            if not OWN_NAME.fullmatch(item.name):
                continue
            # another process may have removed it
            with suppress(FileNotFoundError):
                status = item.stat(follow_symlinks=False)
                if is_own_file(status):
                    found.append((Path(item.path), status))
    return found


def size() -> tuple[int, int]:
    """The number of kernels in the cache, and the sum of their bytes."""
    sizes = [status.st_size for _, status in entries()]
    return len(sizes), sum(sizes)


def writable() -> bool:
    """True if kernels that are compiled now will be kept."""
    folder = usable()
    if folder is None:
        return False
    while not os.path.exists(folder):
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def clear() -> int:
    """Remove every kernel; gives their number. Files that are not the cache's own stay."""
    return sum(remove(path) for path, _ in entries())


def remove(path: Path) -> bool:
    """Remove a file; False if it could not be."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def trim(limit: int = LIMIT_BYTES) -> None:
    """Remove the kernels used least recently until at most `limit` bytes are left, and what killed processes left."""
    files = sorted(entries(), key=lambda entry: entry[1].st_mtime)
    total = sum(status.st_size for _, status in files)
    for path, status in files:
        stale = path.suffix == ".tmp" and time.time() - status.st_mtime > STALE_SECONDS
        if total > limit or stale:
            remove(path)
            total -= status.st_size


def stay_small() -> None:
    """Call `trim` after this process has first written, then whenever it has written another SLACK_BYTES."""
    if _written.get(directory(), 0) >= SLACK_BYTES:
        trim()
        _written[directory()] = 0
