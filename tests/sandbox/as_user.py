"""Runs a command as an ordinary user who has nothing but what everybody may read: python as_user.py COMMAND…, as root.

The Python, the checkout and its environments may lie below a folder that only root may enter. In a mount namespace of
its own such a folder is covered by an empty one, in which what is needed, and nothing else, is mounted again.
"""

import ctypes
import os
import sys
from pathlib import Path

NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), target)

    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace")
    mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    needed = [Path(sys.base_prefix), ROOT, Path(sys.prefix), Path(sys.argv[1]).resolve().parent]
    environment = os.environ.get("THREADKEEP_SANDBOX_ENVIRONMENT")
    if environment is not None:
        needed.append(Path(environment).resolve())
    held = [(path, os.open(path, os.O_PATH)) for path in needed]
    closed = {parent for path in needed for parent in path.parents if not parent.stat().st_mode & 0o001}
    for parent in closed:
        # One of them may be below another that is covered already.
        if parent.exists():
            mount("tmpfs", str(parent), "tmpfs", 0, "mode=755")
    for path, fd in held:
        if not path.exists():
            path.mkdir(parents=True)
            mount(f"/proc/self/fd/{fd}", str(path), "none", _MS_BIND | _MS_REC)
        os.close(fd)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
