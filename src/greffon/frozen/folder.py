"""The folder that the activation store lies in: where it is, who uses it, how it is emptied."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_NETWORK = frozenset(
    (
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "glusterfs"),
        *("lustre", "gpfs", "beegfs", "pvfs2", "orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph"),
        *("fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs"),
    )
)


def network_filesystem(path: Path, *, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The kind of network file system that `path` lies on, or None (macOS: not recognised)."""
    if sys.platform == "win32":
        import ctypes

        drive = os.path.splitdrive(os.path.realpath(path))[0]
        remote = drive.startswith("\\\\") or ctypes.windll.kernel32.GetDriveTypeW(drive + "\\") == 4
        return "network drive" if remote else None
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        place = fields[1].replace("\\040", " ") if len(fields) > 2 else ""
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if place and inside and len(place) >= len(best):
            best, kind = place, fields[2]
    return kind if kind in _NETWORK else None


def mark_in_use(path: Path, mark: int | None) -> int | None:
    """Take the store's own lock, shared, beside those of LMDB: `erase` then knows that the files are in use.

    Args:
        path: the store's folder.
        mark: what an earlier call returned, to take the lock again.

    Returns:
        A file descriptor to close when the store is closed; None where there is no such lock.
    """
    if sys.platform == "win32":
        return None  # open files cannot be deleted there, which says the same
    import fcntl

    try:
        if mark is None:
            mark = os.open(path / "in-use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(mark, fcntl.LOCK_SH)
    except OSError:
        return mark
    return mark


def erase(path: Path, mark: int | None) -> bool:
    """Delete the store's files; False, and nothing deleted, if another process uses them.

    Args:
        path: the store's folder, whose environment is closed in this process.
        mark: from `mark_in_use`; take it again afterwards.
    """
    if sys.platform != "win32":
        import fcntl

        if mark is None:
            return False
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    for name in ("data.mdb", "lock.mdb"):
        try:
            (path / name).unlink(missing_ok=True)
        except PermissionError:
            return False
    return True
