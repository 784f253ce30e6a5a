"""Writes the filters of system calls for boxes, src/threadkeep/sandbox/seccomp/*.bpf: python scripts/seccomp.py

Classic BPF put together here, by the numbers of the kernel's tables: no library, and the same bytes everywhere.
"""

import struct
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "src/threadkeep/sandbox/seccomp"

# linux/audit.h
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

ALLOW = 0x7FFF0000
KILL = 0x80000000
EPERM, EACCES, ENOSYS = (0x00050000 | number for number in (1, 13, 38))

# What a process that computes does not do: looks into other processes, mounts, makes namespaces, talks to the kernel
# about itself, or holds memory that no limit counts. x86_64, aarch64; None: this architecture has no such call.
NEVER: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # All programs of a machine share what there is of it (fs.aio-max-nr).
    "io_setup": (206, 0),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "personality": (135, 92),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "vmsplice": (278, 75),
    "memfd_secret": (447, 447),
}
# As on a kernel without them: programs then take the older way, which can be looked at (the flags of clone3 are in
# memory), or whose memory is counted (a memfd's is not, while nobody maps it).
UNKNOWN: dict[str, tuple[int, int]] = {"clone3": (435, 435), "memfd_create": (319, 279)}
# Calls with a higher number came after this was written: nobody has looked at what they do. (mseal)
NEWEST = 462

SOCKET = {"socket": (41, 198), "socketpair": (53, 199)}
CLONE = (56, 220)
IOCTL = (16, 29)
MMAP = (9, 222)
SETSOCKOPT = (54, 208)
AF_UNIX = 1
# CLONE_NEWTIME is no flag of clone.
CLONE_NEW = 0x02000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# TIOCSTI and TIOCLINUX type into a terminal.
TYPING = (0x5412, 0x541C)

# Shared memory without a file stays when it is no longer mapped, and then no limit and no look from outside counts it.
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20
# With larger buffers than the usual ones sockets hold more than is counted for each.
SOL_SOCKET, SO_SNDBUF = 1, 7

# struct seccomp_data
NUMBER, ARCHITECTURE, ARGUMENT_0, ARGUMENT_1, ARGUMENT_2, ARGUMENT_3 = 0, 4, 16, 24, 32, 40

# linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, and BPF_JMP|BPF_K with JEQ, JGT, JGE, JSET; BPF_RET|BPF_K
LOAD, EQUAL, GREATER, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def when(code: int, value: int, outcome: int) -> list[bytes]:
    return [instruction(code, value, 0, 1), instruction(RETURN, outcome)]


def program(architecture: str) -> bytes:
    column = list(ARCHITECTURES).index(architecture)
    lines = [
        instruction(LOAD, ARCHITECTURE),
        instruction(EQUAL, ARCHITECTURES[architecture], 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
    ]
    if architecture == "x86_64":
        # The x32 calls have the same architecture and this bit.
        lines += when(AT_LEAST, 0x40000000, KILL)
    lines += when(GREATER, NEWEST, ENOSYS)
    for numbers in UNKNOWN.values():
        lines += when(EQUAL, numbers[column], ENOSYS)
    for numbers in NEVER.values():
        number = numbers[column]
        if number is not None:
            lines += when(EQUAL, number, EPERM)
    for numbers in SOCKET.values():
        lines += [
            instruction(EQUAL, numbers[column], 0, 4),
            instruction(LOAD, ARGUMENT_0),
            instruction(EQUAL, AF_UNIX, 1, 0),
            instruction(RETURN, EACCES),
            instruction(RETURN, ALLOW),
        ]
    lines += [
        instruction(EQUAL, CLONE[column], 0, 4),
        instruction(LOAD, ARGUMENT_0),
        instruction(ANY_BIT, CLONE_NEW, 0, 1),
        instruction(RETURN, EPERM),
        instruction(RETURN, ALLOW),
        instruction(EQUAL, IOCTL[column], 0, 5),
        instruction(LOAD, ARGUMENT_1),
        instruction(EQUAL, TYPING[0], 1, 0),
        instruction(EQUAL, TYPING[1], 0, 1),
        instruction(RETURN, EPERM),
        instruction(RETURN, ALLOW),
        instruction(EQUAL, MMAP[column], 0, 5),
        instruction(LOAD, ARGUMENT_3),
        instruction(ANY_BIT, MAP_ANONYMOUS, 0, 2),
        instruction(ANY_BIT, MAP_SHARED, 0, 1),
        instruction(RETURN, EPERM),
        instruction(RETURN, ALLOW),
        instruction(EQUAL, SETSOCKOPT[column], 0, 5),
        instruction(LOAD, ARGUMENT_1),
        instruction(EQUAL, SOL_SOCKET, 0, 3),
        instruction(LOAD, ARGUMENT_2),
        instruction(EQUAL, SO_SNDBUF, 0, 1),
        instruction(RETURN, EPERM),
        instruction(RETURN, ALLOW),
    ]
    return b"".join(lines)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for architecture in ARCHITECTURES:
        (FOLDER / f"{architecture}.bpf").write_bytes(program(architecture))


if __name__ == "__main__":
    main()
