"""Too much of everything: time, processes, memory, disk. Each ends within its bounds, and the thread goes on."""

import time

import pytest

from tests.attacks.conftest import CALL_S, MIB, PROCESSES, Attacker, Host, together

# Each is interrupted in vain.
LOOPS = {
    "in Python": "while True: pass",
    "with interrupts caught": """
        while True:
            try:
                try:
                    while True: pass
                except BaseException: pass
                finally: continue
            except BaseException: pass
    """,
    "with all signals blocked": """
        import signal
        for number in signal.valid_signals():
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True: pass
    """,
    "in C": "import ctypes; ctypes.CDLL(None).sleep(10**6); ctypes.PyDLL(None).sleep(10**6)",
    "in a regular expression": "import re; re.match('(a+)+$', 'a' * 64 + 'b')",
    "in arithmetic": "x = 7 ** (10 ** 9)",
    "in processes that are their own leaders": """
        import os, signal, time
        for _ in range(6):
            if os.fork() == 0:
                os.setsid()
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                while True: pass
        while True:
            try: time.sleep(100)
            except BaseException: pass
    """,
    "in ever more processes": """
        import os
        while True:
            try: os.fork()
            except OSError: pass
    """,
    "in processes that end and begin anew": """
        import os, signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            try:
                if os.fork() == 0:
                    os.setsid()
                    if os.fork(): os._exit(0)
            except OSError: pass
    """,
    "in shells": "import os\nos.system('f(){ f|f& };f'); import time; time.sleep(100)",
    "in threads": """
        import threading, time
        while True:
            try: threading.Thread(target=time.sleep, args=(1000,)).start()
            except RuntimeError: pass
    """,
    "in what is done at the end": """
        import atexit, threading
        class Last:
            def __del__(self):
                while True: pass
        last = Last()
        atexit.register(lambda: [None for _ in iter(int, 1)])
        threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()
        del last
    """,
}


def test_loops_end_at_the_limit_and_the_run_goes_on_with_that_news(host: Host, attacker: Attacker) -> None:
    attackers = [host.attacker() for _ in LOOPS]
    for each in attackers:
        each.run("open('/mnt/data/kept', 'w').write('kept')")

    ran = together(attackers, list(LOOPS.values()))

    for why, each in zip(LOOPS, ran, strict=True):
        assert each.status == "completed", why
        # Who makes processes all the time may meet the watchdog of processes first.
        news = (f"Execution was stopped after {CALL_S:g} s", f"The code was stopped: a session may have {PROCESSES} ")
        assert any(each_news in each.logs for each_news in news), (why, each.logs[-500:])
    for each in attackers:
        each.works()
        # It may be lost when a busy machine takes too long for the end; then it is restored.
        assert "kept" in each.run("print(open('/mnt/data/kept').read())").logs
        assert each.processes() == 2
        each.close()


def test_others_are_answered_while_many_compute(host: Host, attacker: Attacker, bystander: Attacker) -> None:
    spin = """
        import os
        for _ in range(30):
            try:
                if os.fork() == 0:
                    os.setsid()
                    while True: pass
            except OSError: break
        print("spinning", flush=True)
        while True: pass
    """
    running = attacker.begin(spin)
    took_s: list[float] = []
    answers_s: list[float] = []
    for _ in range(3):
        took_s.append(bystander.run("print(1 + 1)").took_s)
        answers_s.append(host.answers_in())
    attacker.story.http.post(f"{running}/cancel")
    # On a busy machine it may have come to its limit.
    assert attacker.end(running).status in ("cancelled", "completed")
    # With it went what had led itself out of its group.
    assert attacker.processes() == 2
    assert sorted(took_s)[len(took_s) // 2] < 5
    assert max(answers_s) < 5


BOMBS = {
    "memory in many processes": """
        import os, time
        for _ in range(12):
            if os.fork() == 0:
                held = b"x" * (100 * 2**20)
                time.sleep(100)
        time.sleep(100)
    """,
    "memory that moves from process to process": """
        import os
        held = b"x" * (150 * 2**20)
        for _ in range(4):
            if os.fork() == 0: break
        while True:
            held += b"x" * (20 * 2**20)
            try:
                if os.fork(): os._exit(0)
            except (OSError, MemoryError): pass
    """,
    "sockets that nobody reads": """
        import os, socket, time
        for _ in range(20):
            if os.fork() == 0:
                held = []
                try:
                    while True:
                        pair = socket.socketpair()
                        held.append(pair)
                        for each in pair:
                            each.setblocking(False)
                            try:
                                while True: each.send(bytes(65536))
                            except BlockingIOError: pass
                except OSError: pass
                time.sleep(100)
        time.sleep(100)
    """,
    "files that are mapped": """
        import mmap, os, time
        for folder in ("/mnt/data", "/tmp", "/dev/shm", "/home/sandbox"):
            for n in range(30):
                try:
                    with open(f"{folder}/{n}", "wb") as file: file.write(bytes(2**20))
                except OSError: break
        held = [bytearray(150 * 2**20)]
        for _ in range(3):
            if os.fork() == 0:
                more = bytearray(150 * 2**20)
                time.sleep(100)
        time.sleep(100)
    """,
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_ends_with_its_call(attacker: Attacker, what: str) -> None:
    attacker.begin_anew()
    since = time.monotonic()
    ran = attacker.run(BOMBS[what])
    assert ran.status == "completed"
    told = ("ran out of memory", "was stopped", "process ended", "The session is lost", "MemoryError")
    assert any(each in ran.logs for each in told), ran.logs[-1000:]
    assert time.monotonic() - since < CALL_S + 30
    attacker.works()
    assert attacker.processes() == 2


@pytest.mark.parametrize("what", ["memory in many processes", "sockets that nobody reads", "files that are mapped"])
def test_memory_of_many_processes_is_bounded_long_before_the_call_ends(attacker: Attacker, what: str) -> None:
    attacker.begin_anew()
    assert "ran out of memory" in attacker.run(BOMBS[what]).logs


def test_as_many_processes_as_there_may_be_are_no_harm(attacker: Attacker) -> None:
    attacker.begin_anew()
    assert attacker.finds("many_processes", processes=PROCESSES) == []
    # They go on in the background, and the next call is left what it needs.
    attacker.works()


INODES = {
    "folders": "import os\nfor n in range(100_000): os.mkdir(f'/tmp/{n}')",
    "files": "for n in range(100_000): open(f'/mnt/data/{n}', 'w').close()",
    "attributes": """
        import os
        for n in range(4_000):
            open(f'/mnt/data/{n}', 'w').close()
            try:
                for m in range(100): os.setxattr(f'/mnt/data/{n}', f'user.{m}', bytes(4_000))
            except OSError: break
        import time; time.sleep(2)
    """,
    "links": """
        import os
        os.chdir('/dev/shm')
        for n in range(100_000): os.symlink('x' * 4_000, f'{n}')
    """,
}


@pytest.mark.parametrize("what", INODES)
def test_a_hundred_thousand_names_end_the_session_and_nothing_else(attacker: Attacker, what: str) -> None:
    attacker.begin_anew()
    ran = attacker.run(INODES[what])
    assert ran.status == "completed"
    bounds = ("files; the session is lost", "No space left", "ran out of memory", "was stopped", "were lost")
    assert ran.logs == "" or any(each in ran.logs for each in bounds), ran.logs[-1000:]
    # What is counted at the end of a call may end the session of the next one.
    assert "True\n" in attacker.run("import os; print(len(os.listdir('/tmp')) < 5_001)").logs


LEFT_BEHIND = {
    "a child that keeps the pipe open": "import subprocess; p = subprocess.Popen(['sleep', '300'])",
    "a daemon that prints": """
        import os, signal, time
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            while True:
                try: os.write(1, b"noise" * 10_000)
                except OSError: time.sleep(0.01)
    """,
    "threads that print": """
        import threading
        for _ in range(5):
            threading.Thread(target=lambda: [print("noise") for _ in iter(int, 1)], daemon=True).start()
    """,
    "a child that stopped": "import os, signal\nif os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)",
    "nobody's children": """
        import ctypes, os, time
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        for _ in range(5):
            if os.fork() == 0:
                if os.fork(): os._exit(0)
                time.sleep(300); os._exit(0)
    """,
    "a timer": "import signal; signal.signal(signal.SIGALRM, lambda *_: 1 / 0); signal.setitimer(0, 0.01, 0.01)",
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_what_outlives_its_call_keeps_nobody_waiting(attacker: Attacker, what: str) -> None:
    attacker.begin_anew()
    assert attacker.run(LEFT_BEHIND[what]).took_s < CALL_S
    assert attacker.run("print('next')").took_s < CALL_S + 20


def test_memory_that_is_taken_between_calls_ends_the_session(attacker: Attacker, host: Host) -> None:
    leave = """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                time.sleep(0.5)
                held = b"x" * (150 * 2**20)
                time.sleep(300)
    """
    attacker.begin_anew()
    attacker.run(leave)
    boxes = len(host.boxes())
    deadline = time.monotonic() + 30
    while len(host.boxes()) > boxes - 8:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "restarted" in attacker.run("print('next')").logs


def test_a_machine_keeps_its_memory(host: Host) -> None:
    """What went through the server so far has not stayed there."""
    assert host.resident_bytes() < 400 * MIB
