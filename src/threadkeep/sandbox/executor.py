"""The process that runs the user's code, with IPython's shell: forked by `inside`, in a box, never in the server.

Nothing here is a defence: the code shares this process and may change all of it. What holds it is around it.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import os
import signal
import sys
import types
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

_PICTURES = {"image/png": 1, "image/jpeg": 2}
# To compile and run a line, and to show what became of it.
_LEAST_BYTES = 4 * 1024 * 1024


class Line(Protocol):
    """What the executor has to tell, and where it learns what to do."""

    def ready(self) -> None: ...

    def asked(self) -> tuple[int, str] | None:
        """The next call's number and code; None when there will be no more."""
        ...

    def picture(self, number: int, kind: int, content: bytes) -> None: ...

    def ended(self, number: int, *, has_failed: bool) -> None: ...


# The shell, when it was made before the first fork: then a new executor has it at once, and its memory is shared.
_shell: Any = None


def prepare(modules: list[str]) -> None:
    """Imports what every executor then has without a wait. What is not installed is left out."""
    global _shell  # noqa: PLW0603
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        _shell = make_shell()


class Screen:
    """Where outputs go: text to stdout, pictures to the line."""

    def __init__(self) -> None:
        self._line: Line | None = None
        self._images = 0
        self._image_bytes = 0
        self._number = 0
        self._shown: set[bytes] = set()

    def attach(self, line: Line, images: int, image_bytes: int) -> None:
        self._line = line
        self._images = images
        self._image_bytes = image_bytes

    def begin(self, number: int) -> None:
        self._number = number
        self._shown.clear()

    def show(self, forms: Mapping[str, Any]) -> None:
        for media_type, kind in _PICTURES.items():
            content = forms.get(media_type)
            if isinstance(content, str):
                # Figures come as they stand in a notebook.
                content = base64.b64decode(content)
            if isinstance(content, bytes):
                self._picture(kind, content)
                return
        for media_type in ("text/plain", "text/markdown", "text/html", "text/latex"):
            text = forms.get(media_type)
            if isinstance(text, str):
                _print(text)
                return

    def _picture(self, kind: int, content: bytes) -> None:
        if self._line is None or content in self._shown:
            # A figure that is a cell's last expression is shown as such, and again because it is open.
            return
        if len(self._shown) >= self._images:
            _print(f"[This picture is not shown: there are {self._images} already.]")
            return
        if len(content) > self._image_bytes:
            _print(f"[This picture is not shown: it has {len(content)} bytes.]")
            return
        self._shown.add(content)
        sys.stdout.flush()
        self._line.picture(self._number, kind, content)


def run(line: Line, images: int, image_bytes: int) -> None:
    """Until the line ends."""
    own = os.getpid()
    streams = _streams()
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), "utf-8")
    sys.argv = [""]
    sys.path.insert(0, "")

    # What IPython advises after an exit is for people at a terminal.
    warnings.filterwarnings("ignore", message="To exit: use")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shell = _shell if _shell is not None else make_shell()
    screen.attach(line, images, image_bytes)
    line.ready()
    was_interrupted = False
    while (asked := line.asked()) is not None:
        number, code = asked
        if was_interrupted:
            _forget_children()
        screen.begin(number)
        if any(stream.closed for stream in streams.values()):
            streams = _streams()
        # A call that led its output elsewhere did so for itself.
        sys.stdout, sys.stderr = streams["stdout"], streams["stderr"]
        has_failed = True
        was_interrupted = False
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            result = shell.run_cell(code, store_history=True)
            has_failed = not result.success
            was_interrupted = isinstance(result.error_in_exec, KeyboardInterrupt)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except BaseException as error:  # an interrupt between the cell and here
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _print(type(error).__name__)
        if os.getpid() != own:
            # The code forked, and this is its child, which has nothing to say here.
            os._exit(0)
        for stream in (sys.stdout, sys.stderr, *streams.values()):
            # The code may have put anything there.
            with contextlib.suppress(Exception):
                stream.flush()
        if has_failed and not _has_room():
            # Every call from here on would fail, and only the end of this process gives the memory back.
            os._exit(1)
        line.ended(number, has_failed=has_failed)


def _forget_children() -> None:
    """They were ended with the call that was interrupted. Whoever nobody waits for counts as a process still."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _has_room() -> bool:
    try:
        bytearray(_LEAST_BYTES)
    except MemoryError:
        return False
    return True


def _streams() -> Mapping[str, io.TextIOBase]:
    # One buffer for both: what was written first comes first.
    out = io.BufferedWriter(io.FileIO(1, "w", closefd=False), 64 * 1024)
    streams = {
        name: io.TextIOWrapper(out, "utf-8", "backslashreplace", line_buffering=True, write_through=True)
        for name in ("stdout", "stderr")
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return streams


def _print(text: str) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.write(f"{text}\n")


screen = Screen()


def make_shell() -> Any:
    interactive = importlib.import_module("IPython.core.interactiveshell")
    displayhook = importlib.import_module("IPython.core.displayhook")
    displaypub = importlib.import_module("IPython.core.displaypub")
    config = importlib.import_module("traitlets.config").Config()

    class Hook(displayhook.DisplayHook):
        """Shows a cell's last expression."""

        def write_output_prompt(self) -> None:
            pass

        def write_format_data(self, format_dict: Mapping[str, Any], md_dict: object = None) -> None:
            screen.show(format_dict)

        def finish_displayhook(self) -> None:
            sys.stdout.flush()

    class Publisher(displaypub.DisplayPublisher):
        """Shows what `display` is given."""

        def publish(self, data: Mapping[str, Any], *_: object, **__: object) -> None:
            screen.show(data)

        def clear_output(self, wait: bool = False) -> None:
            pass

    class Shell(interactive.InteractiveShell):
        displayhook_class = Hook
        display_pub_class = Publisher
        # IPython's own would give each command a terminal.
        system = interactive.InteractiveShell.system_raw

        def ask_exit(self) -> None:
            pass

        def enable_gui(self, gui: object = None) -> None:
            pass

    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.separate_in = ""
    config.InteractiveShell.cache_size = 1000
    module = types.ModuleType("__main__")
    shell: Any = Shell.instance(config=config, user_module=module)
    sys.modules["__main__"] = module
    shell.display_formatter.active_types = ["text/plain", *_PICTURES]
    if "matplotlib" in sys.modules:
        _prepare_figures(shell)
    if "PIL.Image" in sys.modules:
        _prepare_images(shell)
    # The first cell is not to pay for what a shell does but once, nor the first that fails.
    for code in ("None", "1/0"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            shell.run_cell(code, store_history=False)
    return shell


def _prepare_figures(shell: Any) -> None:
    """Figures that are shown, or open when a cell ends, are displayed.

    The back end sees to it where it finds a shell when it is imported; here it was imported before.
    """
    with contextlib.suppress(ImportError):
        backend = "module://matplotlib_inline.backend_inline"
        importlib.import_module("IPython.core.pylabtools").activate_matplotlib(backend)
        importlib.import_module("matplotlib_inline.backend_inline").configure_inline_support(shell, backend)


def _prepare_images(shell: Any) -> None:
    """`image.show()` displays; there is no viewer to open."""
    with contextlib.suppress(ImportError):
        show = importlib.import_module("PIL.ImageShow")
        display: Any = importlib.import_module("IPython.display").display

        class Viewer(show.Viewer):
            def show(self, image: object, **_: object) -> int:
                display(image)
                return 1

        show.register(Viewer(), 0)
