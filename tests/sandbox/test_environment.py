"""The environment of the code interpreter: made once, wholly or not at all, and by nobody's waiting."""

import base64
import fcntl
import hashlib
import os
import re
import signal
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.process import Finished, run, started
from threadkeep.sandbox import environment
from threadkeep.sandbox.environment import Environment, NotInstalled, absence, install, read_environment

LOCKED = dict(
    re.findall(r"^([\w.-]+)==(\S+)", (Path(environment.__file__).parent / "environment.txt").read_text(), re.MULTILINE)
)
# As little as the environment can be made of.
SHELL = {"IPython/__init__.py": "", "IPython/core/__init__.py": "", "IPython/core/interactiveshell.py": ""}


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A distribution of these files that depends on nothing."""
    known = f"{name.replace('-', '_')}-{version}"
    info = f"{known}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows: list[str] = []
    path = folder / f"{known}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{file},sha256={digest},{len(text)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return path


class Index:
    """A folder of wheels that pip and uv take for all there is, and a place for environments."""

    def __init__(self, folder: Path) -> None:
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        self.place = folder / "place"
        wheel(self.wheels, "ipython", LOCKED["ipython"], SHELL)
        wheel(self.wheels, "matplotlib-inline", LOCKED["matplotlib-inline"], {"matplotlib_inline/__init__.py": ""})
        wheel(
            self.wheels, "tiny", "1.5", {"tiny/__init__.py": "WORD = 'small'\n", "tiny/old.py": "print 'no Python 3'"}
        )
        self.variables = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "UV_NO_CONFIG": "1",
            "UV_OFFLINE": "1",
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.wheels),
            "UV_CACHE_DIR": str(folder / "cache"),
        }
        self.flags = ("--sandbox-environment", str(self.place), "--sandbox-packages", "tiny")
        self.folder = folder

    def command(self) -> Finished:
        """`threadkeep sandbox install`, in a process of its own."""
        return run("sandbox", "install", *self.flags, folder=self.folder, environment=self.variables)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    made = Index(tmp_path)
    for name, value in made.variables.items():
        monkeypatch.setenv(name, value)
    return made


def quiet(line: str) -> None:
    pass


def asked(environment: Environment, program: str) -> str:
    return subprocess.check_output([environment.python, "-I", "-B", "-c", program], text=True).strip()


# --- what is in it


def test_the_default_list_is_what_its_lock_installs(sandbox_environment: Environment) -> None:
    names = {package.partition("==")[0].replace("_", "-") for package in sandbox_environment.packages}

    assert set(environment.default_packages()) <= names
    assert {f"{name}=={LOCKED[name]}" for name in ("pandas", "sympy", "pillow")} <= set(sandbox_environment.packages)


def test_it_knows_nothing_of_the_server(sandbox_environment: Environment) -> None:
    program = "import importlib.util as u; print([u.find_spec(n) for n in ('threadkeep', 'sqlalchemy', 'uvicorn')])"

    assert asked(sandbox_environment, program) == "[None, None, None]"


def test_everything_in_it_is_compiled_and_nothing_is_compared_when_it_is_imported(
    sandbox_environment: Environment,
) -> None:
    program = "import numpy, pandas; print(numpy.__cached__, pandas.__cached__)"

    for compiled in asked(sandbox_environment, program).split():
        # PEP 552: bit 0, by hash; bit 1, and the hash is checked.
        assert Path(compiled).read_bytes()[4] == 1


def test_the_list_of_fonts_is_there_and_is_the_one_that_matplotlib_reads(
    sandbox_environment: Environment, tmp_path: Path
) -> None:
    [listed] = sandbox_environment.matplotlib.iterdir()
    copy = tmp_path / listed.name
    copy.write_bytes(listed.read_bytes())
    os.utime(copy, ns=(1, 1))
    program = f"import os; os.environ['MPLCONFIGDIR'] = {str(tmp_path)!r}; import matplotlib.font_manager"

    asked(sandbox_environment, program)

    # A list that was not taken is written again.
    assert copy.stat().st_mtime_ns == 1


# --- how it is made


def test_a_list_of_ones_own_brings_what_runs_code_and_what_was_asked_for(index: Index) -> None:
    lines: list[str] = []

    made = install(index.place, ("tiny>=1,<2",), lines.append)

    assert asked(made, "import tiny; print(tiny.WORD)") == "small"
    assert set(made.packages) == {
        f"ipython=={LOCKED['ipython']}",
        f"matplotlib-inline=={LOCKED['matplotlib-inline']}",
        "tiny==1.5",
    }
    assert read_environment(index.place, ("tiny>=1,<2",)) == made
    assert lines[0] == "making the environment"
    assert "compiling" in lines


def test_what_is_there_is_not_made_again(index: Index) -> None:
    first = index.command()
    (index.wheels / f"ipython-{LOCKED['ipython']}-py3-none-any.whl").unlink()

    second = index.command()

    assert (first.status, second.status) == (0, 0)
    assert "installed in " in first.output
    assert second.output.startswith("installed already: 3 packages in ")


def test_another_list_is_another_environment_and_takes_the_place_of_one_that_nobody_uses(index: Index) -> None:
    wheel(index.wheels, "other", "1.0", {"other.py": ""})
    first = install(index.place, ("tiny",), quiet)

    second = install(index.place, ("tiny", "other"), quiet)

    assert read_environment(index.place, ("tiny",)) is None
    assert read_environment(index.place, ("other", "tiny")) == second
    assert not first.folder.exists()


def test_an_environment_that_is_in_use_stays(index: Index) -> None:
    wheel(index.wheels, "other", "1.0", {"other.py": ""})
    first = install(index.place, ("tiny",), quiet)
    with first.hold():
        install(index.place, ("other",), quiet)
        assert read_environment(index.place, ("tiny",)) == first

    install(index.place, ("other",), quiet)
    assert read_environment(index.place, ("tiny",)) is None


def test_what_was_cut_short_is_no_environment_and_is_made_afresh(index: Index) -> None:
    made = install(index.place, ("tiny",), quiet)
    (made.folder / ".environment.json").unlink()
    (made.folder / "half").touch()

    assert read_environment(index.place, ("tiny",)) is None
    again = install(index.place, ("tiny",), quiet)

    assert again == made
    assert not (made.folder / "half").exists()


def test_an_environment_whose_python_went_is_none(index: Index) -> None:
    made = install(index.place, ("tiny",), quiet)
    made.python.unlink()

    assert read_environment(index.place, ("tiny",)) is None


def test_of_two_at_once_one_works_and_the_other_waits(index: Index) -> None:
    index.place.mkdir()
    with (index.place / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        guard.write("unpacking")
        guard.flush()
        assert absence(index.place).reason == "its Python environment is being installed (unpacking)"
        words = ("sandbox", "install", *index.flags)
        with started(*words, folder=index.folder, environment=index.variables) as waiting:
            waiting.wait_for("waiting for another installation")
            fcntl.flock(guard, fcntl.LOCK_UN)
            assert waiting.wait() == 0


# --- what goes wrong


def test_a_package_that_the_index_lacks_is_told_in_one_line_and_nothing_is_left(index: Index) -> None:
    (index.wheels / "tiny-1.5-py3-none-any.whl").unlink()

    failed = index.command()

    assert failed.status == 1
    [complaint] = failed.errors.splitlines()
    assert "could not install the packages" in complaint
    assert "tiny" in complaint
    assert "Is the package index there" in complaint
    assert [path.name for path in index.place.iterdir() if path.is_dir()] == []


def test_why_it_failed_is_known_to_others_until_it_works(index: Index) -> None:
    assert absence(index.place) == ("its Python environment is not installed", "Run: threadkeep sandbox install")

    with pytest.raises(NotInstalled):
        install(index.place, ("unheard-of",), quiet)
    failed = absence(index.place)
    install(index.place, ("tiny",), quiet)

    assert failed.reason.startswith("its Python environment could not be installed: ")
    assert "unheard-of" in failed.reason
    assert str(index.place) not in failed.reason
    assert absence(index.place).reason == "its Python environment is not installed"


def test_a_wheel_with_another_digest_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = index.folder / "lock.txt"
    lock.write_text(f"tiny==1.5 \\\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(environment, "_LOCK", lock)

    with pytest.raises(NotInstalled, match=r"(?i)hash"):
        install(index.place, ("default",), quiet)


def test_a_place_that_cannot_be_written_is_named(index: Index) -> None:
    index.place.write_text("a file")

    failed = index.command()

    assert failed.status == 1
    assert failed.errors.count("\n") == 1
    assert str(index.place) in failed.errors


# --- beside a server


def test_nothing_goes_on_installing_when_the_server_was_killed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(120)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/simple"
        flags = ("--sandbox-environment", str(tmp_path / "place"), "--sandbox-install")
        variables = {"UV_DEFAULT_INDEX": address, "UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(tmp_path / "cache")}
        variables |= {"PIP_INDEX_URL": address, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "*"}
        with started(
            *("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), *flags),
            folder=tmp_path,
            environment=variables,
        ) as server:
            assert server.url
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(120)
                connection.recv(65_536)
                server.process.send_signal(signal.SIGKILL)
                # The installer's end of it is closed by its death alone.
                while connection.recv(65_536):
                    pass
