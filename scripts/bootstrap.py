"""Makes .venv what a lock file says, with a bare Python only, then becomes the program that was asked for.

A stamp in .venv promises: what this lock names is installed, for this Python, in this folder. It is written last, so a
set-up that was cut short has none. Standard library only; what a usual start does not need is imported late.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
ENTRY = VENV / "bin" / "threadkeep"
# The environment of the code that models write: `threadkeep sandbox install` makes it.
SANDBOX = ROOT / ".sandbox"
# There from the first change of .venv until the stamp: whoever finds it, with nobody holding the lock, starts afresh.
UNFINISHED = VENV / ".set-up-unfinished"

# The one thing that is fetched without pip, so its digest stands here and not in a lock.
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
DEFAULT_INDEX = "https://pypi.org/simple"

# What only the system's packages have: name -> the program in it, and what is off without. Node.js and PostgreSQL come
# as wheels.
SYSTEM_PACKAGES = {"bubblewrap": ("bwrap", "the tests of the code interpreter")}


def main(command: str, arguments: list[str]) -> NoReturn:
    if command == "test":
        run_tests(arguments)
    match arguments:
        case ["setup"]:
            set_up("runtime")
            sys.exit(0)
        case ["check", *rest]:
            set_up("dev")
            become([PYTHON, ROOT / "scripts" / "check.py", *rest])
        case ["clients", *rest]:
            set_up("dev")
            become([PYTHON, ROOT / "scripts" / "clients.py", *rest])
        case ["chaos", *rest]:
            set_up("dev")
            become([PYTHON, ROOT / "scripts" / "chaos.py", *rest])
        case ["lock", *rest]:
            become([sys.executable, ROOT / "scripts" / "lock.py", *rest])
        case _:
            set_up("runtime")
            # The server installs the environment that code runs in beside its work: nobody waits for it.
            default("THREADKEEP_SANDBOX_INSTALL", "on")
            default("THREADKEEP_SANDBOX_ENVIRONMENT", str(SANDBOX))
            become([ENTRY, *program_arguments(arguments)])


def program_arguments(arguments: list[str]) -> list[str]:
    """`./run` and `./run --port 9000` serve; a subcommand, or a question about the program, is passed on as it is."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        return ["serve", *arguments]
    return arguments


def run_tests(arguments: list[str]) -> NoReturn:
    if "--system" in arguments:
        install_system_packages()
    if "--strict" in arguments or os.environ.get("CI", "").lower() not in ("", "0", "false"):
        os.environ["THREADKEEP_TEST_STRICT"] = "1"
    set_up("dev")
    install_sandbox()
    os.chdir(ROOT)
    become([PYTHON, "-m", "pytest", *(a for a in arguments if a not in ("--system", "--strict"))])


def default(variable: str, value: str) -> None:
    """Sets a variable that nobody has set."""
    if not os.environ.get(variable):
        os.environ[variable] = value


def install_sandbox() -> None:
    """What the tests of the code interpreter want. Without it they are skipped, and say why; strictly they fail."""
    default("THREADKEEP_SANDBOX_ENVIRONMENT", str(SANDBOX))
    command = [ENTRY, "sandbox", "install", "--quiet"]
    if subprocess.run(command, check=False, stdout=sys.stderr.fileno()).returncode != 0:
        say("Without its environment the code interpreter cannot be tested (see above).")
    for package, (program, off) in SYSTEM_PACKAGES.items():
        if not shutil.which(program):
            say(f"There is no {package}, so {off} are off. To have it, as root: apt-get install {package}")


def install_system_packages() -> None:
    wanted = [p for p in SYSTEM_PACKAGES if not succeeds(["dpkg-query", "--show", p])]
    if not wanted:
        return
    if not shutil.which("apt-get"):
        sys.exit(f"--system knows Debian and Ubuntu only. Please install what your system calls: {' '.join(wanted)}")
    if os.geteuid() != 0:
        sys.exit(f"--system installs {' '.join(wanted)} and needs root for it: sudo ./test --system")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *wanted]):
        if subprocess.run(["apt-get", *command], check=False, env=environment).returncode != 0:
            sys.exit(f"apt-get {' '.join(command)} failed (see above).")


def become(command: Iterable[str | Path]) -> NoReturn:
    """Replaces this process: signals and the exit status are the program's own."""
    words = [str(word) for word in command]
    sys.stdout.flush()
    os.execv(words[0], words)


def succeeds(command: list[str | Path], held: tuple[int, ...] = ()) -> bool:
    """Quietly. `held` are the files that the child keeps open."""
    null = subprocess.DEVNULL
    try:
        return subprocess.run(command, stdout=null, stderr=null, pass_fds=held, check=False).returncode == 0
    except OSError:
        return False


# --- the set-up


def set_up(kind: str) -> None:
    """`runtime` or `dev` (which contains runtime). Any number at the same time: one works, the others wait for it."""
    lock = ROOT / "locks" / f"{kind}.txt"
    wanted = stamp_for(lock)
    if stamp_of(kind) == wanted:
        return
    import fcntl  # noqa: PLC0415 - late, with everything that a usual start does not need

    try:
        with (ROOT / ".venv.lock").open("w") as guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another set-up is at work here; waiting for it.")
                fcntl.flock(guard, fcntl.LOCK_EX)
            if stamp_of(kind) != wanted:
                # The children hold the lock as well: a pip that outlives this process still keeps others out.
                build(kind, lock, wanted, (guard.fileno(),))
    except KeyboardInterrupt:
        say("\nThe set-up was interrupted. The next start does it again.")
        sys.exit(130)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"The set-up of {VENV} failed: {error}. If it belongs to somebody else, remove it and start again.")


def stamp_for(lock: Path) -> str:
    """Changes with all that .venv depends on: the lock, this file, the Python, the kind of machine, the folder."""
    digest = hashlib.sha256()
    place = f"{sys.implementation.cache_tag} {os.uname().sysname} {os.uname().machine} {ROOT}"
    for part in (lock.read_bytes(), Path(__file__).read_bytes(), os.fsencode(place)):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def stamp_of(kind: str) -> str | None:
    try:
        return (VENV / f".{kind}.stamp").read_text()
    except (OSError, UnicodeDecodeError):
        return None


def build(kind: str, lock: Path, stamp: str, held: tuple[int, ...]) -> None:
    import sysconfig  # noqa: PLC0415
    from time import monotonic  # noqa: PLC0415

    began = monotonic()
    # The name that a Python of the base installation has: this process may itself run from the .venv to be replaced.
    base_python: str = getattr(sys, "_base_executable", sys.executable)
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(VENV)}))
    if UNFINISHED.exists() or not site_packages.is_dir() or not succeeds([PYTHON, "-I", "-c", ""]):
        shutil.rmtree(VENV, ignore_errors=True)
    version = ".".join(map(str, sys.version_info[:3]))
    say(f"Setting up {VENV.relative_to(ROOT)} with Python {version} (once, well under a minute) ...")
    if not VENV.is_dir():
        VENV.mkdir()
        UNFINISHED.touch()
        subprocess.run([base_python, "-I", "-m", "venv", "--without-pip", VENV], pass_fds=held, check=True)
    UNFINISHED.touch()
    for old in ("runtime", "dev"):
        (VENV / f".{old}.stamp").unlink(missing_ok=True)
    install(lock, site_packages, base_python, held)
    # A path file and a script are all that an editable install is; made here, they need no build tool.
    (site_packages / "threadkeep.pth").write_text(f"{ROOT / 'src'}\n")
    ENTRY.write_text(entry_script(PYTHON))
    ENTRY.chmod(0o755)
    # The first start, and every start of somebody who may not write here, would otherwise compile each module.
    succeeds([PYTHON, "-I", "-m", "compileall", "-q", "-j", "0", site_packages, ROOT / "src"], held)
    (VENV / f".{kind}.stamp").write_text(stamp)
    if kind == "dev":
        (VENV / ".runtime.stamp").write_text(stamp_for(ROOT / "locks" / "runtime.txt"))
    UNFINISHED.unlink()
    say(f"Set up in {monotonic() - began:.0f} s.")


def entry_script(python: Path) -> str:
    """Through sh, as pip does it: a #! line may be neither long nor hold spaces, a path may."""
    return (
        f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"
        "import sys\n\nfrom threadkeep.cli import main\n\nsys.exit(main())\n"
    )


def install(lock: Path, site_packages: Path, base_python: str, held: tuple[int, ...], python: Path = PYTHON) -> None:
    """With uv where there is one: quicker. It does not read pip's configuration, so not against pip's own index."""
    wanted = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(lock)]
    settings = pip_settings(os.environ, pip_configuration_files(os.environ))
    uv_knows = "index-url" not in settings or any(n in os.environ for n in ("UV_INDEX_URL", "UV_DEFAULT_INDEX"))
    if uv_knows and succeeds(["uv", "pip", "install", "--quiet", "--python", python, *wanted], held):
        return
    if not (site_packages / "pip").is_dir():
        place_pip(site_packages, settings, base_python, python)
    # Settings that are right for a person's own pip and wrong for this one.
    unfit = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT", "PIP_REQUIRE_VIRTUALENV")
    environment = {name: value for name, value in os.environ.items() if name not in unfit} | {"PIP_USER": "0"}
    options = ["-qq", "--no-input", "--no-compile", "--disable-pip-version-check", "--root-user-action", "ignore"]
    pip: list[str | Path] = [python, "-I", "-m", "pip", "install", *options, *wanted]
    if subprocess.run(pip, pass_fds=held, check=False, env=environment).returncode != 0:
        sys.exit("pip could not install what the lock names (see above). The next start tries again.")


def say(text: str) -> None:
    """To the error stream: what the program itself prints may be read by a program."""
    print(text, file=sys.stderr, flush=True)


# --- pip, without pip


def place_pip(site_packages: Path, settings: Mapping[str, str], base_python: str, python: Path) -> None:
    """The pinned wheel, unpacked: a wheel of pure Python is installed by no more than that. Else this Python's own."""
    import io  # noqa: PLC0415
    import zipfile  # noqa: PLC0415
    from http.client import HTTPException  # noqa: PLC0415

    problems: list[str] = []
    for place in places_of_pip(settings):
        try:
            wheel = fetch_pip(place, settings)
        except (OSError, ValueError, KeyError, HTTPException) as error:
            problems.append(f"  {without_password(place)}: {error}")
            continue
        zipfile.ZipFile(io.BytesIO(wheel)).extractall(site_packages)
        return
    if not succeeds([python, "-I", "-m", "ensurepip"]):
        sys.exit(
            f"Found no {PIP_WHEEL} (looked where pip's configuration says), and {base_python} brings no pip:\n"
            + "\n".join(problems)
            + "\nIs the network there? Behind a proxy, set HTTPS_PROXY; with an index of your own, PIP_INDEX_URL."
        )


def pip_configuration_files(environ: Mapping[str, str]) -> list[Path]:
    """In the order in which pip reads them, later ones winning."""
    home = Path(environ.get("HOME", "/nonexistent"))
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return []
    everybody = [Path(d) / "pip/pip.conf" for d in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if d]
    if sys.platform == "darwin":
        everybody = [Path("/Library/Application Support/pip/pip.conf")]
    files = [*everybody, Path("/etc/pip.conf")]
    if own:
        return [Path(own), *files]
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    if sys.platform == "darwin" and (home / "Library/Application Support/pip").is_dir():
        user = home / "Library/Application Support/pip/pip.conf"
    return [*files, home / ".pip/pip.conf", user]


def pip_settings(environ: Mapping[str, str], files: Iterable[Path]) -> dict[str, str]:
    """pip's settings by their long option's name: [global] under [install] under PIP_… variables."""
    import configparser  # noqa: PLC0415

    parsers: list[configparser.RawConfigParser] = []
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError) as error:
            say(f"Cannot read {file}: {error}")
        parsers.append(parser)
    found: dict[str, str] = {}
    for section in ("global", "install"):
        for parser in parsers:
            if parser.has_section(section):
                found |= {key.replace("_", "-"): value for key, value in parser.items(section) if value}
    variables = {name[4:].lower().replace("_", "-"): value for name, value in environ.items() if name[:4] == "PIP_"}
    return found | {name: value for name, value in variables.items() if value}


def places_of_pip(settings: Mapping[str, str]) -> list[str]:
    """Folders and pages that may hold or link to pip's wheel, nearest first."""
    places = settings.get("find-links", "").split()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return places
    uv_index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    indexes = [settings.get("index-url") or uv_index or DEFAULT_INDEX, *settings.get("extra-index-url", "").split()]
    return places + [f"{index.rstrip('/')}/pip/" for index in indexes]


def fetch_pip(place: str, settings: Mapping[str, str]) -> bytes:
    """The wheel's bytes, proved by their digest. Raises OSError or ValueError."""
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415

    parts = urlsplit(place)
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path)).expanduser()
        page = folder / "index.html" if folder.is_dir() else folder
        if (folder / PIP_WHEEL).is_file():
            wheel = (folder / PIP_WHEEL).read_bytes()
        else:
            wheel = download(wheel_link(page.read_bytes(), "text/html", page.resolve().as_uri()), settings)[0]
    else:
        wheel = download(wheel_link(*download(place, settings)), settings)[0]
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        raise ValueError(f"its {PIP_WHEEL} is not the one whose digest this project knows")
    return wheel


def wheel_link(page: bytes, content_type: str, address: str) -> str:
    """Where a page of the simple repository API (HTML or JSON) says that pip's wheel is."""
    from urllib.parse import unquote, urljoin, urlsplit  # noqa: PLC0415

    if "json" in content_type:
        import json  # noqa: PLC0415

        links: list[str] = [file["url"] for file in json.loads(page)["files"]]
    else:
        import html  # noqa: PLC0415
        import re  # noqa: PLC0415

        pattern = r"""<a\s[^>]*?href\s*=\s*["']([^"']+)["']"""
        links = [html.unescape(link) for link in re.findall(pattern, page.decode("utf-8", "replace"), re.IGNORECASE)]
    for link in links:
        whole = urlsplit(urljoin(address, link))
        if unquote(whole.path).rpartition("/")[2] == PIP_WHEEL:
            # The password that opened the page opens the files beside it.
            page_host = urlsplit(address).netloc
            if page_host.rpartition("@")[2] == whole.netloc:
                whole = whole._replace(netloc=page_host)
            return whole.geturl()
    raise ValueError(f"it does not list {PIP_WHEEL}")


def download(address: str, settings: Mapping[str, str]) -> tuple[bytes, str, str]:
    """Body, content type and address of what was asked for; proxy and certificates as pip would use them."""
    import base64  # noqa: PLC0415
    import ssl  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415

    parts = urlsplit(address)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    request.add_header("Accept", "application/vnd.pypi.simple.v1+json, text/html;q=0.5, */*;q=0.1")
    if parts.username:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(secret.encode()).decode())
    authorities = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if authorities and Path(authorities).is_dir():
        context = ssl.create_default_context(capath=authorities)
    else:
        context = ssl.create_default_context(cafile=authorities or None)
    proxy = settings.get("proxy")
    proxies = {"http": proxy, "https": proxy} if proxy else None
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler(proxies)
    )
    with opener.open(request, timeout=60) as answer:
        return answer.read(), answer.headers.get_content_type(), address


def without_password(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
