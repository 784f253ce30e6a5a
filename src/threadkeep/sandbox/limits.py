"""Every bound of a box and of its sessions, in one place."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are seconds, sizes bytes. What is counted for a box counts all of its processes together."""

    # --- one call
    # Wall time; then the code is interrupted, and `interrupt_s` later all processes are killed.
    call_s: float = 120.0
    # Time on processors, of all processes of the box together.
    cpu_s: float = 240.0
    interrupt_s: float = 2.0
    # For that killing; then the box itself goes.
    reset_s: float = 5.0
    code_bytes: int = 1 * MIB
    # Text; what comes after is read, counted and dropped.
    output_bytes: int = 1 * MIB
    images: int = 20
    image_bytes: int = 10 * MIB
    # Files that are collected after a call.
    files_out: int = 50

    # --- one box
    # Memory of all processes and of the files, which are in memory too. One process is refused more than three
    # quarters of it, so that most programs that want too much see a MemoryError and not a kill.
    memory_bytes: int = 2048 * MIB
    # With threads.
    processes: int = 64
    open_files: int = 256
    # One file, in and out: the contract's limit of an upload.
    file_bytes: int = 512 * MIB
    # The size of /mnt/data.
    disk_bytes: int = 1024 * MIB
    # The size of each of /tmp, /dev/shm and the home folder.
    scratch_bytes: int = 64 * MIB
    # Files and folders on all of these together: each costs memory that no size counts.
    inodes: int = 50_000
    # What `Box.files` looks at: more are not seen.
    listed_files: int = 2_000
    depth: int = 16
    # From the command to the box that is ready; a busy machine imports slowly.
    start_s: float = 60.0
    # Any answer but that of running code.
    reply_s: float = 30.0

    # --- one session
    idle_s: float = 20 * 60.0
    life_s: float = 60 * 60.0
