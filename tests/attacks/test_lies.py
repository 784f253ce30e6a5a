"""What code says to the server: output of any kind, pictures that are none, forged frames, a broken executor."""

import pytest

from tests.attacks.conftest import IMAGES, MIB, OUTPUT_BYTES, Attacker, Host, together

OUTPUT = {
    "a million prints": "for n in range(1_000_000): print(n)",
    "no line breaks": "import os\nfor _ in range(2_000): os.write(1, b'x' * 100_000)",
    "bytes of all kinds": "import os\nos.write(1, bytes(range(256)) * 2_000); os.write(2, os.urandom(500_000))",
    "escape sequences": r"""
        import os
        for each in (b'\x1b]0;', b'\x1b[', b'\x1b[31m', b'\x1b]8;;http://x\x1b\\', b'\x1bP', b'\x9b31m', b'\x1b[2J'):
            os.write(1, each * 10_000)
    """,
    "zeros and surrogates": r"print('\0' * 10_000, '\ud800' * 10_000, '\udfff', '\ufffe', '\U0010ffff', '\u202e')",
    "a value without an end": "list(range(10**7))",
    "a representation that lies": """
        class Lie:
            def __repr__(self): raise SystemExit
            def _repr_png_(self): return 10**6
            def _repr_jpeg_(self): return b''
            def _repr_mimebundle_(self, **k): return {'image/png': [1], 'text/plain': {}, 'application/x': b'x'}
        display(Lie(), Lie())
        Lie()
    """,
    "a message without an end": "raise Exception('x' * 10**7)",
    "marks of the protocol": "import os\nfor n in range(256): os.write(1, bytes([n]) + b'\\0\\0\\0\\1\\0\\0\\0\\2{}')",
}


@pytest.mark.parametrize("what", OUTPUT)
def test_any_output_is_text_of_a_bounded_length(attacker: Attacker, what: str) -> None:
    ran = attacker.run(OUTPUT[what])
    assert ran.status == "completed"
    assert len(ran.logs.encode()) <= 4 * OUTPUT_BYTES
    assert "\0" not in ran.logs
    assert "\x1b[" not in ran.logs
    # The model that goes on, and everybody who reads the step, gets it too.
    assert ran.step["status"] == "completed"


PICTURES = {
    "ten thousand": """
        import base64
        png = base64.b64decode(
            'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
        )
        for n in range(10_000): display({'image/png': png + str(n).encode()}, raw=True)
    """,
    "too large": "display({'image/png': b'\\x89PNG\\r\\n\\x1a\\n' + bytes(2**24)}, raw=True)",
    "none at all": "for each in (b'', b'<svg onload=alert(1)>', b'GIF89a', 5): display({'image/png': each}, raw=True)",
    "forged": """
        import os, struct
        for number in range(200):
            for kind in range(5):
                picture = bytes([kind]) + b'\\x89PNG\\r\\n\\x1a\\n' + bytes(1_000)
                os.write(3, struct.pack('>BII', 34, number, len(picture)) + picture)
    """,
}


@pytest.mark.parametrize("what", PICTURES)
def test_pictures_are_few_small_and_begin_like_pictures(attacker: Attacker, what: str) -> None:
    ran = attacker.run(PICTURES[what])
    assert ran.status == "completed"
    assert len(ran.images) <= IMAGES
    for file_id in ran.images:
        content = attacker.http.get(f"/files/{file_id}/content").content
        assert content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
        assert len(content) <= MIB


FORGERIES = {
    "every kind of frame on every descriptor": """
        import os, struct
        for fd in range(3, 256):
            for kind in range(256):
                for number in (0, 1, 2, 2**32 - 1):
                    try: os.write(fd, struct.pack('>BII', kind, number, 2) + b'{}')
                    except OSError: break
    """,
    "a length beyond all": "import os, struct\nos.write(3, struct.pack('>BII', 34, 1, 2**32 - 1))",
    "noise": "import os\nfor _ in range(1_000): os.write(3, os.urandom(65_536))",
    "all descriptors closed": "import os; os.closerange(0, 4096)",
    "all descriptors are one": "import os\nfor fd in range(256): os.dup2(3, fd)",
    "its own orders": """
        import os, struct
        for path in ('/proc/self/fd/4', '/dev/fd/4'):
            try:
                fd = os.open(path, os.O_WRONLY)
                os.write(fd, struct.pack('>BII', 1, 7, 12) + b'print("lies")'[:12])
            except OSError: pass
    """,
    "pipes that wait": """
        import fcntl, os
        for fd in (1, 2, 3, 4): fcntl.fcntl(fd, 1031, 4096); os.set_blocking(fd, False)
    """,
    "limits of the first process": """
        import resource
        for kind in range(16):
            try: resource.prlimit(1, kind, (0, 0))
            except (OSError, ValueError): pass
    """,
    "the parent killed": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL); os.kill(1, signal.SIGTERM)",
    "itself killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "everybody killed": "import os, signal; os.kill(-1, signal.SIGKILL)",
    "a process in its place": "import os; os.execvp('sleep', ['sleep', '300'])",
    "memory torn": "import ctypes; ctypes.memset(0, 0, 1)",
    "no more files": "held = []\nwhile True: held.append(open('/dev/null'))",
}


@pytest.mark.parametrize("what", FORGERIES)
def test_whoever_lies_loses_his_own_session_at_most(attacker: Attacker, what: str) -> None:
    ran = attacker.run(FORGERIES[what])
    assert ran.status == "completed"
    attacker.works()
    attacker.begin_anew()


# They use all of their time.
SLOW = {
    "a length that never comes": "import os, struct\nos.write(3, struct.pack('>BII', 34, 1, 2**20))",
    "an end, and code that goes on": """
        import os, struct
        for number in range(1_000): os.write(3, struct.pack('>BII', 35, number, 2) + b'ok')
        while True: pass
    """,
    "itself stopped": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "its own words, read back": """
        import os, threading
        def steal(fd):
            stolen = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)
            while os.read(stolen, 65_536): pass
        for fd in (1, 3): threading.Thread(target=steal, args=(fd,), daemon=True).start()
        for _ in range(100): print('x' * 1_000)
    """,
    "a traceback without an end": "def f(): f()\nimport sys; sys.setrecursionlimit(10**6); f()",
}


def test_who_lies_until_the_limit_loses_his_own_session_at_most(host: Host, attacker: Attacker) -> None:
    attackers = [host.attacker() for _ in SLOW]
    for what, ran in zip(SLOW, together(attackers, list(SLOW.values())), strict=True):
        assert ran.status == "completed", what
    for each in attackers:
        each.works()
        each.close()


POISONS = {
    "what Python is made of": """
        import builtins, io, json, os, pickle, struct, sys, signal
        for module in (json, pickle, struct): module.dumps = module.loads = module.pack = module.unpack = None
        os.write = os.read = lambda *_: 1
        builtins.print = builtins.open = builtins.isinstance = builtins.len = None
    """,
    "the shell": """
        shell = get_ipython()
        type(shell).run_cell = lambda *_, **__: 1 / 0
        shell.displayhook = shell.display_pub = shell.compile = None
    """,
    "what is written on": "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = sys.stdin = None",
    "something that is no stream": """
        import sys
        class Stream:
            closed = property(lambda self: 1 / 0)
            def __getattr__(self, name): raise SystemExit
        sys.stdout = sys.stderr = Stream()
    """,
    "hooks": """
        import sys, threading
        sys.settrace(lambda *_: 1 / 0); sys.setprofile(lambda *_: 1 / 0); threading.settrace(lambda *_: 1 / 0)
        sys.excepthook = sys.displayhook = sys.unraisablehook = lambda *_: 1 / 0
    """,
    "all modules": "import sys; sys.modules.clear(); sys.path.clear(); sys.meta_path.clear()",
    "the executor": """
        import gc
        for each in gc.get_objects():
            if type(each).__name__ in ('ExecutorsLine', 'Screen'):
                type(each).ended = type(each).picture = type(each).asked = type(each).show = lambda *_, **__: None
    """,
    "files that are read at a start": """
        import os
        for folder in ('/home/sandbox/.ipython/profile_default/startup', '/home/sandbox/.matplotlib', '/mnt/data'):
            os.makedirs(folder, exist_ok=True)
            for name in ('00.py', 'json.py', 'executor.py', 'inside.py', 'sitecustomize.py', 'usercustomize.py'):
                open(f'{folder}/{name}', 'w').write('raise SystemExit("poisoned")')
        os.environ['PYTHONPATH'] = '/mnt/data'; os.environ['LD_PRELOAD'] = '/mnt/data/json.py'
    """,
}


@pytest.mark.parametrize("what", POISONS)
def test_what_poisons_the_executor_is_gone_with_it(attacker: Attacker, what: str) -> None:
    assert attacker.run(POISONS[what]).status == "completed"
    assert attacker.run("print(40 + 2)").status == "completed"
    if attacker.run("print(40 + 2)").logs != "42\n":
        # Whatever the code made of its own process: another is the first process's, as it was.
        attacker.run("import ctypes; ctypes.memset(0, 0, 1)")
        attacker.run("__import__('os')._exit(0)")
        attacker.story.http.delete(attacker.thread)
        attacker.thread = attacker.story.thread("Attack.")
    attacker.works()


def test_a_box_whose_first_process_dies_is_replaced_and_the_model_is_told(host: Host, attacker: Attacker) -> None:
    attacker.run("kept = 1")
    starve = "import resource\nfor kind in (9, 7, 2): resource.prlimit(1, kind, (1, 1))\nimport os; os._exit(0)"
    assert attacker.run(starve).status == "completed"
    assert attacker.run("print('kept' in globals())").logs.endswith("False\n")
