"""The model of all runs: what it says follows from the request alone, so a run that was taken over gets the same."""

import json
import threading
import time
from itertools import pairwise
from typing import Any

from tests.chaos.ledger import Asked, Plan, token_of
from threadkeep.upstream.scripted import Call, Pause, Received, Say, ScriptedUpstream, Status, Step

FUNCTION: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}


def instructions_of(plan: Plan) -> str:
    """A run's instructions, which tell its model what to do."""
    said = {"token": plan.token, "kind": plan.kind, "pieces": plan.pieces, "pause_ms": plan.pause_ms}
    return f"plan={json.dumps(said)}"


class Model(ScriptedUpstream):
    """A model server that does what the plan in the request says. Each node asks it under a path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[str, list[tuple[Asked, Received]]] = {}
        self._writing = threading.Lock()

    def url_for(self, node: str) -> str:
        return f"http://{self.host}:{self.port}/{node}/v1"

    def asked(self, token: str) -> list[Asked]:
        """The turns that it was asked for in this run, in order."""
        with self._writing:
            return [asked for asked, _ in self._asked.get(token, [])]

    def cut_off(self, token: str) -> list[tuple[Asked, Asked]]:
        """The turns of this run whose asker left, or never came back, each with the one asked for after it."""
        with self._writing:
            turns = list(self._asked.get(token, []))
        return [
            (earlier, later)
            for (earlier, request), (later, _) in pairwise(turns)
            if request.aborted or not request.has_ended
        ]

    def still_asked(self, token: str) -> list[str]:
        """The nodes that listen to an answer in this run at the moment."""
        with self._writing:
            return [asked.node for asked, request in self._asked.get(token, []) if not request.has_ended]

    def entry_for(self, request: Received) -> list[Step]:
        messages: list[Any] = request.body["messages"]
        said = next((_text(each) for each in messages if each["role"] in ("system", "developer")), "")
        if "plan=" not in said:
            return [Status(400, f"no plan in {said!r}")]
        plan = Plan(**json.JSONDecoder().raw_decode(said.partition("plan=")[2])[0])
        users = tuple(token_of(_text(each)) for each in messages if each["role"] == "user")
        node = request.path.strip("/").split("/", 1)[0]
        with self._writing:
            self._asked.setdefault(plan.token, []).append((Asked(time.time(), node, users), request))
        # Only this run's: what earlier runs did stands ahead of the last message of the user.
        outputs = [_text(each) for each in messages[_last_of_user(messages) :] if each["role"] == "tool"]
        return _answer(plan, outputs[-1] if outputs else None, has_spoken=_text(messages[-1]) == plan.text(1))


def _answer(plan: Plan, output: str | None, *, has_spoken: bool) -> list[Step]:
    """``has_spoken``: the prompt ends with what it said itself ahead of the call, which was finished when the node died
    that it said it to. It goes on from there, as models do."""
    match plan.kind, output:
        case "say", _:
            return _said(plan, plan.words(1))
        case "search", None:
            return [Pause(plan.pause_ms / 1000), Call("file_search", {"query": "lighthouse"})]
        case "search", _:
            return _said(plan, plan.words(2))
        case "call", None:
            return [Pause(plan.pause_ms / 1000), Call("look_up", {"what": plan.token})]
        case "say_and_call", None if has_spoken:
            return [Call("look_up", {"what": plan.token})]
        case "say_and_call", None:
            return [*_said(plan, plan.words(1)), Call("look_up", {"what": plan.token})]
        case _:
            return _said(plan, [*plan.words(2), f" heard {output}"])


def _said(plan: Plan, words: list[str]) -> list[Step]:
    steps: list[Step] = []
    for word in words:
        steps += [Pause(plan.pause_ms / 1000), Say(word)]
    return steps


def _last_of_user(messages: list[Any]) -> int:
    return max((number for number, each in enumerate(messages) if each["role"] == "user"), default=0)


def _text(message: Any) -> str:
    content: str | list[Any] | None = message["content"]
    return "".join(part["text"] for part in content) if not isinstance(content, str | None) else content or ""
