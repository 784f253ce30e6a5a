"""The filter of system calls, worked through by hand: also the one for the processor that this machine has not."""

import struct

import pytest
import seccomp

ALLOW, KILL, EPERM, EACCES, ENOSYS = (
    seccomp.ALLOW,
    seccomp.KILL,
    seccomp.EPERM,
    seccomp.EACCES,
    seccomp.ENOSYS,
)
ARCHITECTURES = list(seccomp.ARCHITECTURES)


def verdict(architecture: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the kernel would do: the shipped filter, run as the kernel runs it."""
    program = (seccomp.FOLDER / f"{architecture}.bpf").read_bytes()
    lines = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    told = seccomp.ARCHITECTURES[architecture] if audit is None else audit
    call = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, told, 0, *(*arguments, *[0] * (6 - len(arguments))))
    at = held = 0
    while True:
        code, if_true, if_false, value = lines[at]
        at += 1
        if code == seccomp.RETURN:
            return value
        if code == seccomp.LOAD:
            (held,) = struct.unpack_from("<I", call, value)
            continue
        holds = {
            seccomp.EQUAL: held == value,
            seccomp.GREATER: held > value,
            seccomp.AT_LEAST: held >= value,
            seccomp.ANY_BIT: held & value != 0,
        }[code]
        at += if_true if holds else if_false


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_shipped_filter_is_what_the_script_makes(architecture: str) -> None:
    shipped = (seccomp.FOLDER / f"{architecture}.bpf").read_bytes()
    assert shipped == seccomp.program(architecture), "run: python scripts/seccomp.py"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_calls_that_no_computation_makes_are_refused(architecture: str) -> None:
    column = ARCHITECTURES.index(architecture)
    for name, numbers in seccomp.NEVER.items():
        number = numbers[column]
        if number is not None:
            assert verdict(architecture, number) == EPERM, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_calls_with_an_older_way_around_are_as_if_the_kernel_had_none(architecture: str) -> None:
    column = ARCHITECTURES.index(architecture)
    assert {verdict(architecture, numbers[column]) for numbers in seccomp.UNKNOWN.values()} == {ENOSYS}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_call_that_nobody_has_looked_at_is_unknown(architecture: str) -> None:
    assert verdict(architecture, seccomp.NEWEST + 1) == ENOSYS
    assert verdict(architecture, 1000) == ENOSYS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sockets_are_of_this_machine_only(architecture: str) -> None:
    column = ARCHITECTURES.index(architecture)
    for numbers in seccomp.SOCKET.values():
        assert verdict(architecture, numbers[column], 1) == ALLOW
        others = {verdict(architecture, numbers[column], family) for family in (0, *range(2, 64))}
        assert others == {EACCES}
        # The kernel looks at the lower half only, so nothing may hide in the upper.
        assert verdict(architecture, numbers[column], 1 << 32 | 2) == EACCES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clone_makes_processes_and_threads_and_no_namespace(architecture: str) -> None:
    clone = seccomp.CLONE[ARCHITECTURES.index(architecture)]
    fork, thread = 0x01200011, 0x003D0F00
    assert verdict(architecture, clone, fork) == ALLOW
    assert verdict(architecture, clone, thread) == ALLOW
    for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(architecture, clone, fork | bit) == EPERM


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_typed_into_a_terminal(architecture: str) -> None:
    ioctl = seccomp.IOCTL[ARCHITECTURES.index(architecture)]
    assert verdict(architecture, ioctl, 0, 0x5412) == EPERM
    assert verdict(architecture, ioctl, 0, 0x541C) == EPERM
    assert verdict(architecture, ioctl, 0, 0x5413) == ALLOW


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_call_by_another_architectures_table_ends_the_process(architecture: str) -> None:
    i386 = 0x40000003
    assert verdict(architecture, 0, audit=i386) == KILL


def test_the_x32_calls_end_the_process() -> None:
    assert verdict("x86_64", 0x40000000 | 41, 2) == KILL
    assert verdict("x86_64", -1) == KILL


@pytest.mark.parametrize(("architecture", "number"), [("x86_64", 0), ("x86_64", 59), ("aarch64", 63), ("aarch64", 221)])
def test_what_programs_do_all_day_is_allowed(architecture: str, number: int) -> None:
    assert verdict(architecture, number) == ALLOW
