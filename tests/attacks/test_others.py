"""One session and another: threads of one project at the same time, sessions that end, a server that is killed."""

import os
import signal
import time

import pytest

from tests.attacks.conftest import Attacker, Host, gone, hosting, is_there, kinds, together
from tests.support.stories import ScriptedModels
from threadkeep.sandbox.watchdog import processes

LEAVE = """
    import os, signal, socket, subprocess, sys, time
    for folder in ('/tmp', '/mnt/data', '/dev/shm', '/home/sandbox', '/var/tmp', '/run'):
        try:
            open(f'{folder}/trace', 'w').write('trace'); os.mkfifo(f'{folder}/fifo')
            socket.socket(socket.AF_UNIX).bind(f'{folder}/socket')
        except OSError: pass
    from multiprocessing import shared_memory
    memory = shared_memory.SharedMemory('memory', create=True, size=4096)
    listening = socket.socket(socket.AF_UNIX); listening.bind('\\0trace'); listening.listen()
    signal.signal(signal.SIGUSR1, lambda *_: open('/mnt/data/signalled', 'w').close())
    sleeping = subprocess.Popen(['sleep', '300'], start_new_session=True)
    print(os.getuid(), os.getpid(), flush=True)
    time.sleep(2.5)
    print(os.path.exists('/mnt/data/signalled'), sleeping.poll())
"""
SEEK = """
    import os, signal, socket, time
    from multiprocessing import shared_memory
    time.sleep(1)
    found = []
    for folder in ('/tmp', '/mnt/data', '/dev/shm', '/home/sandbox', '/var/tmp', '/run'):
        found += [f'{folder}/{name}' for name in ('trace', 'fifo', 'socket') if os.path.lexists(f'{folder}/{name}')]
    try: shared_memory.SharedMemory('memory'); found.append('memory')
    except OSError: pass
    for name in ('\\0trace', '/tmp/socket', '/mnt/data/socket'):
        try: socket.socket(socket.AF_UNIX).connect(name); found.append(name)
        except OSError: pass
    for pid in range(2, 5_000):
        if pid != os.getpid() and os.getpgid(0) != pid:
            try: os.kill(pid, signal.SIGUSR1); found.append(pid)
            except OSError: pass
    print(os.getuid(), found)
"""


def test_two_sessions_at_the_same_time_do_not_reach_each_other(host: Host, attacker: Attacker) -> None:
    other = host.attacker()
    other.run("1")
    attacker.begin_anew()
    left, sought = together([other, attacker], [LEAVE, SEEK])
    uid, found = sought.logs.split(maxsplit=1)
    assert found == "[]\n"
    assert left.logs.endswith("False None\n"), left.logs
    if os.geteuid() == 0 and int(uid) != 1000:
        # The kernel counts by user.
        assert left.logs.split()[0] != uid
    other.close()


def test_a_session_that_follows_another_finds_nothing_of_it(host: Host, attacker: Attacker) -> None:
    before = set(host.boxes())
    first = host.attacker()
    first.run(LEAVE.replace("time.sleep(2.5)", ""))
    theirs = set(host.boxes()) - before
    assert len(theirs) >= 3
    first.close()
    assert gone(list(theirs))
    second = host.attacker()
    ran = second.run(SEEK.replace("time.sleep(1)", ""))
    assert ran.logs.endswith(" []\n"), ran.logs
    second.close()


def test_a_thread_that_is_deleted_while_its_code_runs_takes_its_box_with_it(host: Host, attacker: Attacker) -> None:
    before = set(host.boxes())
    doomed = host.attacker()
    doomed.run("1")
    code = (
        "import os, signal\nfor _ in range(3): os.fork()\nos.setsid() if os.getpid() != 2 else None\nwhile True: pass"
    )
    doomed.begin(code)
    deadline = time.monotonic() + 30
    while len(set(host.boxes()) - before) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    theirs = list(set(host.boxes()) - before)
    doomed.close()
    assert gone(theirs)


@pytest.mark.parametrize("kind", kinds())
def test_nothing_is_left_after_the_server_is_killed(
    kind: str, bubblewrap: str, scripted_models: ScriptedModels
) -> None:
    with hosting(kind, scripted_models) as host:
        attacker = host.attacker()
        attacker.run("1")
        deaf = """
            import ctypes, os, signal, time
            for _ in range(4):
                if os.fork() == 0:
                    os.setsid()
                    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
                    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
                    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                    if os.fork(): os._exit(0)
                    while True: time.sleep(1)
            while True: pass
        """
        attacker.begin(deaf)
        deadline = time.monotonic() + 30
        while len(processes(host.program.pid)) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        left = host.boxes()
        os.kill(host.program.pid, signal.SIGKILL)
        host.program.process.wait(30)
        assert gone(left), [pid for pid in left if is_there(pid)]
        attacker.story.http.close()
        attacker.http.close()
