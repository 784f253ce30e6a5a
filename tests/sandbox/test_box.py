"""Boxes as they are: bubblewrap, the filter, the environment. All of it runs as an ordinary user too, at the end."""

import asyncio
import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.capabilities import missing
from threadkeep.sandbox.box import Box, BoxFailed, Ended, FileRefused, Logs, Output, Picture
from threadkeep.sandbox.bubblewrap import Bubblewrap
from threadkeep.sandbox.environment import Environment
from threadkeep.sandbox.limits import MIB, Limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="boxes are made of what Linux has")

# Small enough to reach, large enough for a busy machine.
LIMITS = Limits(
    interrupt_s=0.5,
    output_bytes=100_000,
    images=3,
    memory_bytes=1024 * MIB,
    disk_bytes=32 * MIB,
    file_bytes=16 * MIB,
    inodes=3_000,
    listed_files=50,
    processes=40,
)
LONG_S = 60.0
Start = Callable[..., "asyncio.Future[Box]"]


class Ran(NamedTuple):
    ended: Ended
    outputs: list[Output]

    @property
    def text(self) -> str:
        return "".join(output.text for output in self.outputs if isinstance(output, Logs))

    @property
    def pictures(self) -> list[Picture]:
        return [output for output in self.outputs if isinstance(output, Picture)]


@pytest.fixture
def tier(bubblewrap: str, sandbox_environment: Environment) -> Bubblewrap:
    return Bubblewrap(sandbox_environment, LIMITS, bwrap=bubblewrap, first_uid=200_000)


@pytest.fixture
async def box(tier: Bubblewrap) -> AsyncGenerator[Box]:
    box = await tier.start(1, warm=False)
    yield box
    await box.close()


@pytest.fixture
async def warm_box(tier: Bubblewrap) -> AsyncGenerator[Box]:
    box = await tier.start(2, warm=True)
    yield box
    await box.close()


async def run(box: Box, code: str, *, timeout_s: float = LONG_S) -> Ran:
    outputs: list[Output] = []
    return Ran(await box.execute(textwrap.dedent(code), outputs.append, timeout_s=timeout_s), outputs)


async def put(box: Box, path: str, content: bytes) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield content

    await box.put(path, len(content), pieces())


async def read(box: Box, path: str) -> bytes:
    file = next(file for file in await box.files() if file.path == path)
    return b"".join([piece async for piece in box.read(file)])


async def works(box: Box) -> bool:
    return (await run(box, "40 + 2")).text == "42\n"


# --- what code says


async def test_printed_text_and_the_last_expression_come_in_their_order(box: Box) -> None:
    code = """
        import os, sys
        print("one")
        print("two", file=sys.stderr)
        os.write(1, b"three\\n")
        !echo four
        "reversed"[::-1]
    """
    ran = await run(box, code)
    assert ran.text == "one\ntwo\nthree\nfour\n'desrever'\n"
    assert ran.ended == Ended("ok", None)


async def test_variables_live_on(box: Box) -> None:
    await run(box, "x = 20")
    assert (await run(box, "x + 1")).text == "21\n"


async def test_a_traceback_is_text_and_names_the_line(box: Box) -> None:
    ran = await run(box, "def f():\n    return 1 / 0\nf()")
    assert ran.ended == Ended("error", None)
    assert "ZeroDivisionError: division by zero" in ran.text
    assert "----> 2     return 1 / 0" in ran.text
    assert "\x1b" not in ran.text
    assert "threadkeep" not in ran.text


async def test_code_that_is_no_python_is_an_error(box: Box) -> None:
    ran = await run(box, "1 +")
    assert ran.ended.how == "error"
    assert "SyntaxError" in ran.text


async def test_await_works_at_the_top(box: Box) -> None:
    assert (await run(box, "import asyncio\nawait asyncio.sleep(0, 'slept')")).text == "'slept'\n"


@pytest.mark.parametrize("code", ["exit()", "quit()"])
async def test_leaving_changes_nothing(box: Box, code: str) -> None:
    await run(box, "x = 1")
    await run(box, code)
    assert (await run(box, "x")).text == "1\n"


async def test_nobody_answers_a_question(box: Box) -> None:
    assert "EOFError" in (await run(box, "input('name? ')")).text


async def test_bytes_that_are_no_text_become_text(box: Box) -> None:
    ran = await run(box, r"import os; os.write(1, b'a\xff\x00\x1b[31mb\x1b[0m\xed\xa0\x80'); print('\ud800')")
    assert ran.text.startswith("a\ufffd\ufffdb\ufffd")
    assert "\0" not in ran.text
    ran.text.encode()


async def test_code_that_is_too_long_is_not_run(box: Box) -> None:
    ran = await run(box, "1" * (LIMITS.code_bytes + 1))
    assert ran.ended.how == "error"
    assert "longer than" in (ran.ended.note or "")


async def test_output_is_cut_and_everybody_else_goes_on(box: Box) -> None:
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(others())
    ran = await run(box, "import os\nfor _ in range(2000): os.write(1, b'x' * 100_000)")
    watching.cancel()
    assert len(ran.text) == LIMITS.output_bytes
    assert ran.ended.how == "ok"
    assert "was cut after 100000 bytes; 199900000 more came" in (ran.ended.note or "")
    assert longest < 1.0
    assert await works(box)


async def test_what_the_background_prints_between_calls_belongs_to_none(box: Box) -> None:
    await run(box, "import subprocess; p = subprocess.Popen(['sh', '-c', 'while :; do echo noise; done'])")
    ran = await run(box, "p.kill(); p.wait()")
    assert (await run(box, "1")).text == "1\n"
    assert ran.ended.how == "ok"


# --- pictures

FIGURES = {
    "shown": "plt.plot([1, 2]); plt.show()",
    "left open": "plt.plot([1, 2]); None",
    "the last expression": "figure, axes = plt.subplots(); axes.plot([1, 2]); figure",
    "displayed": "figure = plt.figure(); plt.plot([1, 2]); plt.close(); display(figure)",
}


@pytest.mark.parametrize("how", FIGURES)
async def test_a_figure_is_seen_once(box: Box, how: str) -> None:
    await run(box, "import matplotlib.pyplot as plt")
    ran = await run(box, FIGURES[how])
    assert [picture.media_type for picture in ran.pictures] == ["image/png"], ran.text
    assert (await run(box, "1")).pictures == []


async def test_a_box_that_is_warm_has_what_code_wants_and_shows_figures(warm_box: Box) -> None:
    ran = await run(warm_box, "import sys; {'numpy', 'pandas', 'matplotlib.pyplot'} <= set(sys.modules)")
    assert ran.text == "True\n"
    for how, code in FIGURES.items():
        ran = await run(warm_box, f"import matplotlib.pyplot as plt; {code}")
        assert len(ran.pictures) == 1, how
    ran = await run(warm_box, "from PIL import Image; Image.new('RGB', (2, 2)).show(); Image.new('L', (3, 3))")
    assert len(ran.pictures) == 2


async def test_text_around_a_picture_stays_around_it(box: Box) -> None:
    await run(box, "import matplotlib.pyplot as plt")
    ran = await run(box, "print('before'); plt.plot([1]); plt.show(); print('after')")
    assert [type(output) for output in ran.outputs] == [Logs, Picture, Logs]


async def test_pictures_beyond_the_limit_are_named_and_not_shown(box: Box) -> None:
    code = "from PIL import Image\nfor n in range(5): display(Image.new('RGB', (n + 1, 1)))"
    ran = await run(box, code)
    assert len(ran.pictures) == LIMITS.images
    assert ran.text.count("is not shown") == 2


# --- limits


async def test_a_loop_is_interrupted_and_variables_stay(box: Box) -> None:
    await run(box, "x = 7")
    ran = await run(box, "while True: pass", timeout_s=0.3)
    assert ran.ended == Ended("timeout", "Execution was stopped after 0.3 s.")
    assert "KeyboardInterrupt" in ran.text
    assert (await run(box, "x")).text == "7\n"


DEAF = {
    "signals are ignored": """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True: pass
    """,
    "interrupts are caught": """
        import time
        while True:
            try:
                for _ in iter(int, 1): time.time()
            except BaseException: pass
    """,
    "it is in C": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
    "children ignore it": """
        import os, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in range(5): os.fork()
        while True: pass
    """,
}


@pytest.mark.parametrize("why", DEAF)
async def test_code_that_does_not_stop_is_killed_and_files_stay(box: Box, why: str) -> None:
    await run(box, "x = 7; open('kept', 'w').write('kept')")
    ran = await run(box, DEAF[why], timeout_s=0.3)
    assert ran.ended.how == "timeout", ran.text
    assert "variables are lost, files are kept" in (ran.ended.note or "")
    assert "NameError" in (await run(box, "x")).text
    assert (await run(box, "open('kept').read()")).text == "'kept'\n"
    assert await processes(box) == 2


async def processes(box: Box) -> int:
    """What is there beside the shell that counts: the first process and the executor."""
    ran = await run(box, "import os; len([name for name in os.listdir('/proc') if name.isdigit()])")
    return int(ran.text)


async def test_time_on_processors_is_limited_for_all_processes_together(
    bubblewrap: str, sandbox_environment: Environment
) -> None:
    limits = Limits(cpu_s=1.0, interrupt_s=0.5)
    box = await Bubblewrap(sandbox_environment, limits, bwrap=bubblewrap).start(3, warm=False)
    try:
        ran = await run(box, "import os\nfor _ in range(2): os.fork()\nwhile True: pass")
        assert ran.ended.how == "timeout"
        assert "after 1 s of processor time" in (ran.ended.note or "")
        assert await works(box)
    finally:
        await box.close()


@pytest.mark.parametrize("code", ["import time; time.sleep(1000)", DEAF["signals are ignored"]])
async def test_a_cancelled_call_has_stopped_when_it_returns(box: Box, code: str) -> None:
    await run(box, "open('kept', 'w').write('kept')")
    begun = asyncio.Event()
    lines = textwrap.dedent(code)
    running = asyncio.create_task(
        box.execute(f"print('begun', flush=True)\n{lines}", lambda _: begun.set(), timeout_s=LONG_S)
    )
    await begun.wait()
    cancelled_at = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # A second is what is promised; the machine may be busy.
    assert time.monotonic() - cancelled_at < 5
    if box.is_alive:
        assert (await run(box, "open('kept').read()")).text == "'kept'\n"


async def test_a_call_can_be_stopped_from_outside_with_the_reason(box: Box) -> None:
    ran = asyncio.create_task(run(box, "print('begun', flush=True)\nwhile True: pass"))
    await asyncio.sleep(0)
    box.stop("It was too hungry.")
    assert (await ran).ended == Ended("died", "It was too hungry.")
    assert await works(box)


async def test_a_process_that_dies_is_replaced(box: Box) -> None:
    await run(box, "x = 1; open('kept', 'w').close()")
    ran = await run(box, "print('last words', flush=True); import os; os.kill(os.getpid(), 11)")
    assert ran.ended.how == "died"
    assert ran.text == "last words\n"
    assert "SIGSEGV" in (ran.ended.note or "")
    assert "NameError" in (await run(box, "x")).text
    assert [file.path for file in await box.files()] == ["kept"]


async def test_a_process_that_exits_by_itself_between_calls_is_replaced(box: Box) -> None:
    await run(box, "import os, threading; threading.Timer(0.05, os._exit, [0]).start()")
    for _ in range(100):
        if "NameError" in (await run(box, "os")).text:
            break
        await asyncio.sleep(0.02)
    assert await works(box)


async def test_memory_that_is_not_there_is_an_error_like_others(box: Box) -> None:
    ran = await run(box, "x = bytearray(2 * 1024 ** 3)")
    assert "MemoryError" in ran.text
    assert await works(box)


async def test_a_fork_bomb_ends_with_its_call(box: Box) -> None:
    code = """
        import os
        while True:
            try: os.fork()
            except OSError: pass
    """
    ran = await run(box, code, timeout_s=0.5)
    assert ran.ended.how == "timeout"
    assert await works(box)
    assert await processes(box) == 2


async def test_too_many_files_end_the_box(box: Box) -> None:
    code = "import os, time\nfor n in range(20_000): os.mkdir(f'/tmp/{n}')\ntime.sleep(100)"
    ran = await run(box, code)
    assert ran.ended.how == "died"
    assert "more than 3000 files" in (ran.ended.note or "")
    assert not box.is_alive


async def test_a_full_disk_is_an_error_and_nothing_else(box: Box) -> None:
    ran = await run(box, "for n in range(10): open(f'big{n}', 'wb').write(bytes(10_000_000))")
    assert "No space left" in ran.text
    with pytest.raises(FileRefused, match="no space"):
        await put(box, "more", bytes(LIMITS.disk_bytes // 2))
    assert await works(box)


# --- attacks on the line


@pytest.mark.parametrize(
    "code",
    [
        # The executor's pipes are 3 and 4.
        "os.write(3, os.urandom(5000))",
        "os.write(3, struct.pack('>BII', 34, 0, 0xffffffff))",
        "os.write(3, struct.pack('>BII', 200, 1, 0))",
        "os.close(3)",
        "os.close(4)",
        "os.close(1); os.close(2)",
        "os.closerange(0, 200)",
        "os.dup2(3, 1); print('x' * 1000)",
        "sys.stdout = sys.stderr = None",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "[os.kill(1, number) for number in range(1, 65)]",
        "os.kill(-1, signal.SIGKILL)",
        "gc.collect(); [setattr(o, '_said', 1) for o in gc.get_objects() if type(o).__name__ == 'ExecutorsLine']",
        "threading.Thread(target=lambda: [os.write(3, bytes(60000)) for _ in range(10**6)]).start()",
    ],
)
async def test_whoever_spoils_the_line_spoils_it_for_himself(box: Box, code: str) -> None:
    await run(box, "open('kept', 'w').close()")
    await run(box, f"import gc, os, signal, struct, sys, threading\n{code}", timeout_s=2)
    # A call may be lost to what still comes; then there is a fresh process.
    await run(box, "1", timeout_s=2)
    assert box.is_alive
    assert await works(box) or await works(box)
    assert [file.path for file in await box.files()] == ["kept"]


async def test_a_forged_end_ends_the_call_and_not_more(box: Box) -> None:
    ran = await run(box, "import os, struct; os.write(3, struct.pack('>BII', 35, 1, 2) + b'ok'); print('after')")
    assert ran.ended.how == "ok"
    # What it still had to say is heard in the next.
    await run(box, "1")
    assert await works(box)


async def test_the_line_to_the_server_is_out_of_reach(box: Box) -> None:
    code = """
        import os
        reached = []
        for path in ("/proc/1/fd", "/proc/1/mem", "/proc/1/environ", "/proc/1/maps"):
            try:
                if os.path.isdir(path): os.listdir(path)
                else: open(path, "rb").read(1)
                reached.append(path)
            except OSError: pass
        for number in range(64):
            try: os.write(open(f"/proc/1/fd/{number}", "wb").fileno(), b"x"); reached.append(number)
            except OSError: pass
        reached, sorted(os.listdir("/proc/self/fd"))
    """
    # The last is the list's own.
    assert (await run(box, code)).text == "([], ['0', '1', '2', '3', '4', '5'])\n"


async def test_code_has_no_rights_and_its_own_user(box: Box) -> None:
    code = """
        import os, re
        status = open("/proc/self/status").read()
        sets = {name: int(re.search(f"{name}:\\t(.*)", status)[1], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        sets, os.getresuid(), os.getgroups(), re.findall("(?:NoNewPrivs|Seccomp):\\t(.)", status), os.getpid() > 1
    """  # noqa: E501
    uid = 200_001 if os.geteuid() == 0 else 1000
    ran = await run(box, code)
    none = "{'CapInh': 0, 'CapPrm': 0, 'CapEff': 0, 'CapBnd': 0, 'CapAmb': 0}"
    groups = [] if os.geteuid() == 0 else [65534]
    found = re.sub(r"\s+", " ", ran.text)
    assert found in {f"({none}, ({uid}, {uid}, {uid}), {kept}, ['1', '2'], True) " for kept in (groups, [], [1000])}, (
        found
    )


# --- files


async def test_files_go_in_and_come_out_as_they_are(box: Box) -> None:
    content = os.urandom(3_000_000)
    await put(box, "folder/below/in.bin", content)
    ran = await run(box, "data = open('folder/below/in.bin', 'rb').read(); open('out.bin', 'wb').write(data[::-1])")
    assert ran.text == "3000000\n"
    assert await read(box, "out.bin") == content[::-1]
    assert {file.path for file in await box.files()} == {"folder/below/in.bin", "out.bin"}


async def test_a_file_with_two_names_is_there_once(box: Box) -> None:
    await put(box, "file-abc", b"content")
    await box.link("file-abc", "data.csv")
    await box.link("file-abc", "data.csv")
    files = await box.files()
    assert {file.path for file in files} == {"file-abc", "data.csv"}
    assert len({file.inode for file in files}) == 1
    assert await read(box, "data.csv") == b"content"


async def test_an_empty_file_and_one_that_is_put_again(box: Box) -> None:
    await put(box, "a", b"first")
    await put(box, "a", b"")
    assert await read(box, "a") == b""
    assert len(await box.files()) == 1


@pytest.mark.parametrize("path", ["../a", "/etc/a", "a/../../b", "", "a//b", "/".join("d" * 40), "x" * 300, "a\0b"])
async def test_a_path_elsewhere_is_refused(box: Box, path: str) -> None:
    with pytest.raises(FileRefused):
        await put(box, path, b"x")
    with pytest.raises(FileRefused):
        await box.link("a", path)
    assert await works(box)


async def test_a_link_is_never_followed(box: Box) -> None:
    code = """
        import os
        os.symlink("/tmp", "out")
        os.symlink("/etc/passwd", "passwd")
        os.mkdir("real"); os.symlink("real", "inside")
    """
    await run(box, code)
    for path in ("out/file", "inside/file"):
        with pytest.raises(FileRefused):
            await put(box, path, b"x")
    await put(box, "passwd", b"mine")
    assert [file.path for file in await box.files()] == ["passwd"]
    assert await read(box, "passwd") == b"mine"


async def test_only_files_are_seen(box: Box) -> None:
    code = r"""
        import os, socket
        os.symlink("/etc/passwd", "link"); os.symlink("/", "root"); os.mkfifo("fifo"); os.mkdir("empty")
        socket.socket(socket.AF_UNIX).bind("socket")
        open(b"\xff", "w").close()
        with open("sparse", "wb") as file: file.truncate(15_000_000)
        os.truncate(os.open("sparser", os.O_CREAT | os.O_RDWR), 15_000_000)
        os.truncate(os.open("sparsest", os.O_CREAT | os.O_RDWR), 15_000_000)
        open("file", "w").write("x")
    """
    await run(box, code)
    files = await box.files()
    assert {file.path for file in files} - {"sparse", "sparser", "sparsest"} == {"file"}
    assert sum(file.size for file in files) <= LIMITS.disk_bytes


async def test_many_files_and_deep_folders_are_seen_as_far_as_the_limits(box: Box) -> None:
    code = """
        import os
        for n in range(200): open(f"f{n}", "w").close()
        for n in range(100): os.mkdir("d"); os.chdir("d")
        open("deep", "w").close()
        os.chdir("/mnt/data")
    """
    await run(box, code)
    assert len(await box.files()) == LIMITS.listed_files
    await run(box, "!rm -f f*")
    assert await box.files() == []


CHANGES = {
    "longer": "open('a', 'ab').write(b'x')",
    "gone": "os.remove('a')",
    "a link": "os.remove('a'); os.symlink('/etc/passwd', 'a')",
    "a fifo": "os.remove('a'); os.mkfifo('a')",
    "a folder": "os.remove('a'); os.mkdir('a')",
    "another's": "os.rename('a', 'b'); open('a', 'wb').write(bytes(10))",
    "closed": "os.chmod('a', 0)",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_is_not_the_one_seen_is_refused(box: Box, change: str) -> None:
    await put(box, "a", bytes(10))
    (seen,) = await box.files()
    await run(box, f"import os; {CHANGES[change]}")
    with pytest.raises(FileRefused):
        _ = [piece async for piece in box.read(seen)]
    assert await works(box)


async def test_a_put_that_is_cut_short_leaves_nothing(box: Box) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield bytes(1000)
        raise LookupError("gone")

    with pytest.raises(LookupError):
        await box.put("a", 2000, pieces())

    async def few() -> AsyncGenerator[bytes]:
        yield b"x"

    with pytest.raises(FileRefused, match="another size"):
        await box.put("b", 2000, few())
    assert await box.files() == []
    assert (await run(box, "import os; os.listdir('.')")).text == "[]\n"


async def test_reading_that_is_left_early_costs_nothing(box: Box) -> None:
    await put(box, "a", bytes(5_000_000))
    (seen,) = await box.files()
    reading = box.read(seen)
    assert len(await anext(reading)) == MIB
    await reading.aclose()
    assert await works(box)


# --- its life


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Dead and waiting to be reaped, by whoever inherited it.
    return state != "Z"


async def test_nothing_is_left_of_a_closed_box(tier: Bubblewrap) -> None:
    box = await tier.start(4, warm=False)
    await run(box, "import subprocess; subprocess.Popen(['setsid', 'sleep', '1000'], start_new_session=True)")
    family = family_of(box.pid)
    assert len(family) >= 3
    await box.close()
    assert not [pid for pid in family if is_there(pid)]
    assert not box.is_alive
    with pytest.raises(BoxFailed):
        await works(box)


def family_of(pid: int) -> list[int]:
    """A process and all that come from it."""
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and descends(each, pid)]


async def are_gone(pids: list[int]) -> bool:
    """Within a time that is generous."""
    for _ in range(1000):
        if not [pid for pid in pids if is_there(pid)]:
            return True
        await asyncio.sleep(0.02)
    return False


def descends(process: Path, ancestor: int) -> bool:
    with contextlib.suppress(OSError):
        pid = int(process.name)
        while pid > 1:
            if pid == ancestor:
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return False


_SERVER = """
import asyncio, sys
from pathlib import Path
from threadkeep.sandbox.bubblewrap import Bubblewrap
from threadkeep.sandbox.environment import Environment
from threadkeep.sandbox.limits import Limits

async def main():
    folder = Path(sys.argv[1])
    box = await Bubblewrap(Environment(folder, folder / "bin/python", (), ""), Limits()).start(5, warm=False)
    await box.execute("import subprocess; p = subprocess.Popen(['setsid', 'sleep', '1000'])", print, timeout_s=60)
    print(box.pid, flush=True)
    await box.execute("while True: pass", print, timeout_s=600)

asyncio.run(main())
"""


async def test_nothing_is_left_after_the_server_is_killed(bubblewrap: str, sandbox_environment: Environment) -> None:
    del bubblewrap
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SERVER, str(sandbox_environment.folder), stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    pid = int(await server.stdout.readline())
    family = family_of(pid)
    assert len(family) >= 3
    server.kill()
    await server.wait()
    assert await are_gone(family)


async def test_boxes_do_not_see_each_other(tier: Bubblewrap, box: Box) -> None:
    other = await tier.start(6, warm=False)
    try:
        await run(box, "open('/tmp/secret', 'w').close(); open('/mnt/data/secret', 'w').close()")
        ran = await run(other, "import os; os.listdir('/tmp'), os.listdir('/mnt/data'), os.listdir('/dev/shm')")
        assert ran.text == "([], [], [])\n"
        assert await processes(other) == 2
        if os.geteuid() == 0:
            assert (await run(box, "os.getuid()")).text != (await run(other, "os.getuid()")).text
    finally:
        await other.close()


async def test_without_proc_most_things_work(tier: Bubblewrap) -> None:
    tier._does_without = frozenset({"proc"})
    box = await tier.start(7, warm=True)
    try:
        ran = await run(
            box,
            "import pandas, subprocess; print(subprocess.run(['echo', 'x'], capture_output=True).stdout)\n!echo y",
        )
        assert ran.text == "b'x\\n'\ny\n"
        ran = await run(box, "import matplotlib.pyplot as plt; plt.plot([1]); plt.show()")
        assert len(ran.pictures) == 1
        ran = await run(box, "while True: pass", timeout_s=0.3)
        assert ran.ended.how == "timeout"
    finally:
        await box.close()


async def test_a_proc_that_cannot_be_mounted_is_done_without(
    tmp_path: Path, bubblewrap: str, sandbox_environment: Environment
) -> None:
    refuses = tmp_path / "bwrap"
    refuses.write_text(
        f"""#!/bin/sh
case "$*" in *"--proc /proc"*)
  echo "bwrap: Can't mount proc on /newroot/proc: Operation not permitted" >&2
  exit 1
esac
exec {bubblewrap} "$@"
"""
    )
    refuses.chmod(0o755)
    box = await Bubblewrap(sandbox_environment, LIMITS, bwrap=str(refuses)).start(8, warm=False)
    try:
        assert (await run(box, "import os; os.listdir('/proc')")).text == "[]\n"
    finally:
        await box.close()


async def test_a_box_that_does_not_start_says_why_in_bwraps_words(
    tmp_path: Path, sandbox_environment: Environment
) -> None:
    refuses = tmp_path / "bwrap"
    refuses.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refuses.chmod(0o755)
    with pytest.raises(BoxFailed, match="No permissions to create new namespace"):
        await Bubblewrap(sandbox_environment, LIMITS, bwrap=str(refuses)).start(9, warm=False)
    with pytest.raises(BoxFailed, match="cannot be started"):
        await Bubblewrap(sandbox_environment, LIMITS, bwrap=str(tmp_path / "none")).start(9, warm=False)


@pytest.fixture
def hollow(tmp_path: Path, sandbox_environment: Environment) -> Environment:
    """An environment from which the packages have gone."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sandbox_environment.python.resolve())
    shutil.copy(sandbox_environment.folder / "pyvenv.cfg", folder / "pyvenv.cfg")
    return Environment(folder, folder / "bin" / "python", (), "")


async def test_an_environment_that_is_broken_fails_the_start(bubblewrap: str, hollow: Environment) -> None:
    with pytest.raises(BoxFailed):
        await Bubblewrap(hollow, LIMITS, bwrap=bubblewrap).start(9, warm=False)


async def test_a_start_that_is_cancelled_leaves_nothing(tier: Bubblewrap) -> None:
    starting = asyncio.create_task(tier.start(10, warm=True))
    found: list[int] = []
    for _ in range(2000):
        if found := children_named("bwrap"):
            break
        await asyncio.sleep(0.005)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert found
    assert await are_gone(found)


async def test_a_start_that_is_cancelled_while_the_box_gets_ready_complains_of_nothing(tier: Bubblewrap) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    starting = asyncio.create_task(tier.start(10, warm=True))
    for _ in range(2000):
        if "sandbox-box" in {task.get_name() for task in asyncio.all_tasks()}:
            break
        await asyncio.sleep(0.005)
    # It goes on to wait for the box, which imports for much longer.
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    # asyncio tells of failures that nobody took when their tasks are collected.
    gc.collect()
    assert not complaints


def children_named(name: str) -> list[int]:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    found: list[int] = []
    for pid in own:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == name:
                found.append(int(pid))
    return found


# --- as an ordinary user


@pytest.mark.timeout(900)
def test_all_of_this_holds_for_a_server_that_is_not_roots(bubblewrap: str, sandbox_environment: Environment) -> None:
    del bubblewrap
    if os.geteuid() != 0:
        return  # it is what just ran
    if shutil.which("unshare") is None:
        missing("unshare", fix="apt-get install util-linux")
    here = Path(__file__).resolve()
    done = subprocess.run(
        [
            *(sys.executable, str(here.with_name("as_user.py")), sys.executable, "-B", "-m", "pytest", "-q", "-x"),
            *("-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest", "-p", "tests.support.sandbox"),
            *("--basetemp", f"/tmp/threadkeep-as-user-{os.getpid()}", str(here)),
        ],
        cwd=here.parents[2],
        env={**os.environ, "THREADKEEP_SANDBOX_ENVIRONMENT": str(sandbox_environment.folder.parent), "HOME": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(f"/tmp/threadkeep-as-user-{os.getpid()}", ignore_errors=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


async def test_boxes_of_two_servers_are_two_users(sandbox_environment: Environment, bubblewrap: str) -> None:
    # The kernel counts processes by user: a fork bomb in one server's box would keep another's from starting any.
    uids: set[str] = set()
    for _ in range(2):
        box = await Bubblewrap(sandbox_environment, LIMITS, bwrap=bubblewrap).start(0, warm=False)
        try:
            uids.add((await run(box, "import os; os.getuid()")).text)
        finally:
            await box.close()

    # A server that is not root has no other user than its own, which is 1000 in there.
    assert len(uids) == (2 if os.geteuid() == 0 else 1)
