"""What a script tells the suite: a line for everything that worked, the first thing that did not, and what is left out.

Standard library only, and old Python: it runs in every client's own environment. The server's address and the key come
in OPENAI_BASE_URL and OPENAI_API_KEY, where the clients look for them.
"""

import json
import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

MODEL = "offline"
# Pauses before every word: time to cancel.
SLOW = "offline-50ms"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKS_WEATHER = 'call get_weather {"city": "Oslo"}'
# The model is told what to look for, and repeats what it reads: with the mark of the passage, which becomes a citation.
ASKS_BOILING = 'call file_search {"queries": ["At how many degrees does water boil?"]}'
BOILING = "Water boils at 100 degrees."


@contextmanager
def doing(what):
    """Everything inside is what ``what`` says; when it raises, the script has failed there."""
    try:
        yield
    except BaseException as error:
        traceback.print_exc()
        print(f"failed\t{what}\t{type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        sys.exit(1)
    print(f"ok\t{what}", flush=True)


@contextmanager
def raising(kind, words=""):
    """What is inside raises ``kind``, and says ``words``."""
    caught = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
        true(words in str(error), str(error))
        return
    raise AssertionError("no error")


def left_out(what, why):
    print(f"left out\t{what}\t{why}", flush=True)


def runs_code(what):
    """Whether the server runs code on this machine; where it does not, ``what`` is left out."""
    if os.environ.get("RUNS_CODE"):
        return True
    left_out(what, "no code runs on this machine: see docs/how-to/code-interpreter.md")
    return False


def asks_to_run(code):
    """The message at which the model calls code interpreter with this code, and then repeats what it printed."""
    return f"call code_interpreter {json.dumps({'input': code})}"


def equal(actual, expected):
    if actual != expected:
        raise AssertionError(f"{actual!r} is not {expected!r}")


def true(claim, shown=None):
    if not claim:
        raise AssertionError(f"not so: {shown!r}")


def server_url():
    """Without the /v1 at its end."""
    return os.environ["OPENAI_BASE_URL"].removesuffix("/v1")


def written(name, text):
    """The path of a file of this name, for an upload. The script runs in a folder of its own."""
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path
