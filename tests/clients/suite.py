"""Real clients, unmodified, against a server of their own: which there are, and how one is run.

A client is a script in scripts/ and the environment that it runs in. The script does what an application would, against
`threadkeep serve` in a process of its own with the offline model, and prints a line for each thing it did.
"""

import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

import environments

from tests.support.process import run as run_command
from tests.support.process import serving
from tests.support.sandbox import PLACE

SCRIPTS = Path(__file__).parent / "scripts"
PATIENCE_S = 240

Result = Literal["ok", "failed", "left out"]


@dataclass(frozen=True)
class Client:
    name: str
    title: str
    # What it is run with, below locks/clients.
    environment: str
    # The packages whose versions say which client this is; the first is the client itself.
    packages: tuple[str, ...]
    # .py or .cjs, in scripts/.
    script: str
    # By ./test and in CI; the others by ./run clients only.
    in_every_run: bool = False

    @property
    def is_node(self) -> bool:
        return self.script.endswith(".cjs")

    def versions(self) -> dict[str, str]:
        """The versions that the lock has."""
        lock = environments.LOCKS / self.environment
        if self.is_node:
            locked = json.loads((lock / "package-lock.json").read_text("utf-8"))["packages"]
            return {name: cast("str", locked[f"node_modules/{name}"]["version"]) for name in self.packages}
        text = lock.with_name(f"{lock.name}.txt").read_text("utf-8")
        pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
        return {name: pins[name] for name in self.packages}

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The command, and what its environment variables have besides; raises `environments.NotInstalled`."""
        script = str(SCRIPTS / self.script)
        if self.is_node:
            modules = environments.node_environment(self.environment)
            return [str(environments.node()), script], {"NODE_PATH": str(modules)}
        # Deprecations are what these clients are about.
        return [str(environments.environment(self.environment)), "-W", "ignore", script], {}


CLIENTS = (
    Client("openai-1.20", "openai-python, first beta", "openai-1.20", ("openai",), "openai_python_v1.py", True),
    Client("openai-1.109", "openai-python", "openai-1.109", ("openai",), "openai_python.py", True),
    Client("openai-3.54", "openai-python", "openai-3.54", ("openai",), "openai_python.py", True),
    Client("openai-node-7", "openai-node", "openai-node-7", ("openai",), "openai_node.cjs", True),
    Client("openai-node-6", "openai-node", "openai-node-6", ("openai",), "openai_node.cjs"),
    Client("openai-node-4", "openai-node", "openai-node-4", ("openai",), "openai_node.cjs"),
    Client(
        "langchain",
        "LangChain OpenAIAssistantRunnable and V2",
        "langchain",
        ("langchain-classic", "langchain-community", "openai"),
        "langchain_runnable.py",
    ),
    Client(
        "langchain-js",
        "LangChain.js OpenAIAssistantRunnable",
        "langchain-js",
        ("langchain", "@langchain/core", "@langchain/openai", "openai"),
        "langchain_js.cjs",
    ),
    Client(
        "llama-index",
        "LlamaIndex OpenAIAssistantAgent",
        "llama-index",
        ("llama-index-agent-openai", "llama-index-core", "openai"),
        "llama_index_agent.py",
    ),
    Client(
        "semantic-kernel",
        "Semantic Kernel OpenAIAssistantAgent",
        "semantic-kernel",
        ("semantic-kernel", "openai"),
        "semantic_kernel_agent.py",
    ),
    Client(
        "autogen-0.2",
        "AutoGen 0.2 GPTAssistantAgent",
        "autogen-0.2",
        ("autogen-agentchat", "openai"),
        "gpt_assistant_agent.py",
    ),
    Client("ag2", "ag2 GPTAssistantAgent", "ag2", ("ag2", "openai"), "gpt_assistant_agent.py"),
    Client(
        "autogen-ext",
        "autogen-ext OpenAIAssistantAgent",
        "autogen-ext",
        ("autogen-ext", "autogen-agentchat", "openai"),
        "autogen_ext_agent.py",
    ),
    Client("agency-swarm", "Agency Swarm 0.x", "agency-swarm", ("agency-swarm", "openai"), "agency_swarm_agency.py"),
    Client(
        "vercel-ai",
        "Vercel AI SDK AssistantResponse, useAssistant",
        "vercel-ai",
        ("ai", "@ai-sdk/react", "openai"),
        "vercel_ai.cjs",
    ),
    Client("examples-python", "openai-python's examples, told anew", "openai-3.54", ("openai",), "examples.py"),
    Client("examples-node", "openai-node's examples, told anew", "openai-node-7", ("openai",), "examples.cjs"),
    Client("cookbook", "the cookbook's overview, told anew", "openai-1.109", ("openai",), "cookbook_overview.py"),
)


@dataclass(frozen=True)
class Step:
    result: Result
    what: str
    # Of what failed or was left out.
    why: str


@dataclass(frozen=True)
class Outcome:
    steps: tuple[Step, ...]
    took_s: float
    # What it printed besides, and what the server logged: to find out why it failed.
    shown: str
    # Everything was done, and the script ended well.
    is_good: bool

    def of(self, result: Result) -> list[Step]:
        return [step for step in self.steps if step.result == result]


@cache
def isolates() -> bool:
    """Whether code can be run here: where it cannot, the scripts leave out what needs it, and say so."""
    with tempfile.TemporaryDirectory(prefix="clients-") as folder:
        told = run_command("sandbox", "status", "--sandbox-environment", str(PLACE), folder=Path(folder))
    return told.status == 0


def run(client: Client, folder: Path) -> Outcome:
    """Runs the client's script against a server of its own, both in ``folder``, which is empty."""
    command, more = client.command()
    began = time.monotonic()
    work = folder / "work"
    work.mkdir()
    code = ("on", "--sandbox-environment", str(PLACE), "--sandbox-pool", "1") if isolates() else ("off",)
    with serving("--code-interpreter", *code, folder=folder) as server:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(work),
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": "any",
            "RUNS_CODE": "yes" if isolates() else "",
            # Nobody listens there: a client that wants anything from the internet fails, instead of reaching it.
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
            "NODE_USE_ENV_PROXY": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }
        try:
            done = subprocess.run(
                command, cwd=work, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired as late:
            return Outcome(
                (Step("failed", f"to end within {PATIENCE_S} s", ""),), PATIENCE_S, f"{late.stdout}{late.stderr}", False
            )
        errors = [line for line in server.errors.splitlines() if '"level":"error"' in line]
    steps = tuple(_steps(done.stdout))
    is_good = done.returncode == 0 and bool(steps) and all(step.result != "failed" for step in steps)
    shown = "\n".join([done.stdout[-10_000:], done.stderr[-10_000:], *errors[-5:]])
    return Outcome(steps, time.monotonic() - began, shown, is_good)


def _steps(printed: str) -> list[Step]:
    found: list[Step] = []
    for line in printed.splitlines():
        result, _, rest = line.partition("\t")
        if result in get_args(Result) and rest:
            what, _, why = rest.partition("\t")
            found.append(Step(cast("Result", result), what, why))
    return found
