"""What the server acknowledged, and whether what it shows afterwards agrees.

A client writes down each request before it sends it, and what came of it: *done* (a 2xx), *refused* (a 4xx), or
*unknown* (no answer, or a 5xx: either may have happened). Done must be there, once, in order, as it was sent; refused
must not; unknown may be there, once. Everything here is plain data and functions of it, so that the checks themselves
are tested with histories that are known to be bad.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

Came = Literal["done", "refused", "unknown"]
FaultKind = Literal["lost", "duplicated", "wrong", "stuck"]

ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")
# What runs that wait behind another one are not.
BEGUN = ("in_progress", "requires_action", "cancelling")


@dataclass(frozen=True)
class Fault:
    """Something that a guarantee rules out."""

    kind: FaultKind
    # The token of the object that it is about.
    about: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.about}: {self.words}"


@dataclass
class Record:
    """An object that a client asked for, by a token that stands in the object itself: so it is found again, also when
    the answer with its id never arrived."""

    token: str
    id: str | None = None
    # None: not asked for yet.
    made: Came | None = None
    deleted: Came | None = None
    # What was done last; and all whose outcome is unknown, as the request may still be on its way.
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    maybe_metadata: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    # When it was first asked for.
    asked_at: float = field(default_factory=time.time)
    history: list[str] = field(default_factory=list[str])

    def note(self, words: str) -> None:
        """A line of the object's history."""
        now = time.time()
        self.history.append(f"{time.strftime('%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d} {words}")

    def wrote_metadata(self, metadata: dict[str, str], came: Came) -> None:
        if came == "done":
            self.metadata = metadata
        elif came == "unknown":
            self.maybe_metadata.append(metadata)

    @property
    def is_sure(self) -> bool:
        """Whether it must be there."""
        return self.made == "done" and self.deleted in (None, "refused")

    @property
    def is_possible(self) -> bool:
        """Whether it may be there."""
        return self.made in ("done", "unknown") and self.deleted != "done"


@dataclass
class MessageRecord(Record):
    text: str = ""


# What a run's model does: one text; one function call, and a text that repeats its output; a text ahead of the call;
# a search of files, which the server carries out by itself, and a text.
RunKind = Literal["say", "call", "say_and_call", "search"]


@dataclass(frozen=True)
class Plan:
    """What a run is to come to."""

    token: str
    kind: RunKind
    pieces: int
    pause_ms: int

    def words(self, turn: int) -> list[str]:
        """The pieces of the text of the model's turn."""
        return [f"{self.token}/{turn}: ", *(f"word{number} " for number in range(self.pieces)), "end"]

    def text(self, turn: int, output: str | None = None) -> str:
        return "".join(self.words(turn)) + ("" if output is None else f" heard {output}")

    @property
    def steps(self) -> list[str]:
        """The types of its steps."""
        return {
            "say": ["message_creation"],
            "call": ["tool_calls", "message_creation"],
            "say_and_call": ["message_creation", "tool_calls", "message_creation"],
            "search": ["tool_calls", "message_creation"],
        }[self.kind]

    def texts(self, output: str | None) -> list[str]:
        """The texts of its messages; ``output``: of its function call."""
        match self.kind:
            case "say":
                return [self.text(1)]
            case "search":
                return [self.text(2)]
            case "call":
                return [self.text(2, output or "")]
            case "say_and_call":
                return [self.text(1), self.text(2, output or "")]


@dataclass
class Heard:
    """What one reader heard of a run, over all connections it took."""

    events: list[tuple[int | None, str, Any]] = field(default_factory=list[tuple[int | None, str, Any]])
    # Connections that broke, or ended with an `error` event, before the run had settled.
    cuts: int = 0
    # The stream ended with `done`.
    is_done: bool = False
    # The stream ended in good order, and neither `done` nor `error` was heard.
    ended_silently: bool = False


@dataclass
class RunRecord(Record):
    plan: Plan = field(default_factory=lambda: Plan("", "say", 0, 0))
    cancel: Came | None = None
    # The output of its function call, once the client has sent it.
    output: str | None = None
    outputs_came: Came | None = None
    heard: list[Heard] = field(default_factory=list[Heard])
    # Tokens of messages that stand before it, and its model must be shown; and of those that were asked for once it was
    # there: they stand behind all that it says, and it knows nothing of them.
    must_see: list[str] = field(default_factory=list[str])
    must_not_see: list[str] = field(default_factory=list[str])


@dataclass
class ThreadRecord(Record):
    messages: dict[str, MessageRecord] = field(default_factory=dict[str, MessageRecord])
    runs: dict[str, RunRecord] = field(default_factory=dict[str, RunRecord])
    # Runs were enqueued on it: those that wait are `queued` beside the active one.
    has_line: bool = False


@dataclass
class FileRecord(Record):
    content: bytes = b""


@dataclass
class StoreRecord(Record):
    # What became of attaching a file, by the file's id.
    files: dict[str, Came] = field(default_factory=dict[str, Came])


# ---------------------------------------------------------------- what is there


@dataclass
class ThreadSeen:
    """A thread as the server shows it: its objects oldest first, and the steps of each run."""

    thread: Any
    messages: list[Any]
    runs: list[Any]
    steps: dict[str, list[Any]]


@dataclass(frozen=True)
class Asked:
    """A turn that the model was asked for."""

    at: float
    node: str
    # The tokens of the user's messages in the prompt, in order.
    seen: tuple[str, ...]


def text_of(message: Any) -> str:
    return "".join(part["text"]["value"] for part in message["content"] if part["type"] == "text")


def token_of(text: str) -> str:
    return text.split(" ", 1)[0]


# ---------------------------------------------------------------- the checks


def check_thread(record: ThreadRecord, seen: ThreadSeen | None, *, deaths: Sequence[float] = ()) -> list[Fault]:
    """What is wrong with a thread once all is quiet. ``deaths``: when a node or the database was struck."""
    if seen is None:
        return [Fault("lost", record.token, "the thread was acknowledged, and is gone")] if record.is_sure else []
    if record.deleted == "done":
        return [Fault("lost", record.token, "the deletion was acknowledged, and the thread is there")]
    return [*_metadata(record, seen.thread), *_user_messages(record, seen), *_runs(record, seen, deaths)]


def check_while_busy(record: ThreadRecord, seen: ThreadSeen | None) -> list[Fault]:
    """As ``check_thread``, at any moment: what may still be on its way is no fault."""
    if seen is None:
        return [Fault("lost", record.token, "the thread was acknowledged, and is gone")] if record.is_sure else []
    if record.deleted == "done":
        return [Fault("lost", record.token, "the deletion was acknowledged, and the thread is there")]
    faults = [*_metadata(record, seen.thread), *_user_messages(record, seen)]
    faults += _present(record.runs, [run["metadata"].get("token", "") for run in seen.runs], "run")
    statuses = BEGUN if record.has_line else ACTIVE
    if len(active := [run["id"] for run in seen.runs if run["status"] in statuses]) > 1:
        faults.append(Fault("wrong", record.token, f"runs active at the same time: {active}"))
    return faults


def check_objects(records: Iterable[Record], seen: Sequence[str], what: str) -> list[Fault]:
    """``seen``: the tokens of the objects that are there."""
    return _present({record.token: record for record in records}, seen, what)


def check_store_files(record: StoreRecord, seen: Sequence[str]) -> list[Fault]:
    """``seen``: the ids of the files that the vector store lists."""
    faults: list[Fault] = []
    counts = Counter(seen)
    for file_id, came in record.files.items():
        if came == "done" and not counts[file_id]:
            faults.append(Fault("lost", record.token, f"the file {file_id} was attached, and is not listed"))
    for file_id, count in counts.items():
        if count > 1:
            faults.append(Fault("duplicated", record.token, f"the file {file_id} is listed {count} times"))
        if record.files.get(file_id) in (None, "refused"):
            faults.append(Fault("wrong", record.token, f"nobody attached the file {file_id}"))
    return faults


def check_prompts(record: RunRecord, asked: Sequence[Asked], messages: Mapping[str, MessageRecord]) -> list[Fault]:
    """Whether the model was shown every message that it had to be shown, once, in order."""
    faults: list[Fault] = []
    must = [token for token in record.must_see if messages[token].deleted is None]
    for turn in asked:
        if doubled := [token for token, count in Counter(turn.seen).items() if count > 1]:
            faults.append(Fault("duplicated", record.token, f"the model was shown {doubled} more than once"))
        shown = [token for token in turn.seen if token in must]
        if missing := [token for token in must if token not in shown]:
            faults.append(Fault("lost", record.token, f"the model was not shown {missing}"))
        elif shown != must and not doubled:
            faults.append(Fault("wrong", record.token, f"the model was shown {shown} in place of {must}"))
        if early := [token for token in turn.seen if token in record.must_not_see]:
            faults.append(Fault("wrong", record.token, f"the model was shown {early}, which came behind the run"))
    return faults


def _present(records: Mapping[str, Record], seen: Sequence[str], what: str) -> list[Fault]:
    faults: list[Fault] = []
    counts = Counter(seen)
    for token, record in records.items():
        if record.is_sure and not counts[token]:
            faults.append(Fault("lost", token, f"the {what} was acknowledged, and is gone"))
        if record.deleted == "done" and counts[token]:
            faults.append(Fault("lost", token, f"the deletion of the {what} was acknowledged, and it is there"))
        if record.made == "refused" and counts[token]:
            faults.append(Fault("wrong", token, f"the {what} was refused, and is there"))
    for token, count in counts.items():
        if count > 1:
            faults.append(Fault("duplicated", token, f"the {what} is there {count} times"))
        if token not in records:
            faults.append(Fault("wrong", token, f"nobody made this {what}"))
    return faults


def _metadata(record: Record, seen: Any) -> list[Fault]:
    allowed = [record.metadata, *record.maybe_metadata]
    if seen["metadata"] in allowed:
        return []
    return [Fault("lost", record.token, f"its metadata are {seen['metadata']}, not {' or '.join(map(str, allowed))}")]


def _user_messages(record: ThreadRecord, seen: ThreadSeen) -> list[Fault]:
    users = [message for message in seen.messages if message["role"] == "user"]
    tokens = [token_of(text_of(message)) for message in users]
    faults = _present(record.messages, tokens, "message")
    for token, message in zip(tokens, users, strict=True):
        if (mine := record.messages.get(token)) is None:
            continue
        if text_of(message) != mine.text:
            faults.append(Fault("wrong", token, f"the message says {text_of(message)!r}, not {mine.text!r}"))
        faults += _metadata(mine, message)
    there = [token for token in tokens if token in record.messages and record.messages[token].is_sure]
    expected = [token for token, message in record.messages.items() if message.is_sure and token in there]
    if there != expected and len(set(there)) == len(there):
        faults.append(Fault("wrong", record.token, f"its messages stand as {there}, not as {expected}"))
    return faults


def _runs(record: ThreadRecord, seen: ThreadSeen, deaths: Sequence[float]) -> list[Fault]:
    faults = _present(record.runs, [run["metadata"].get("token", "") for run in seen.runs], "run")
    answers: dict[str, list[Any]] = {}
    for message in seen.messages:
        if message["role"] == "assistant":
            answers.setdefault(message["run_id"], []).append(message)
    for stray in answers.keys() - {run["id"] for run in seen.runs}:
        faults.append(Fault("wrong", record.token, f"there are messages of {stray}, a run that is not"))
    for run in seen.runs:
        if (mine := record.runs.get(run["metadata"].get("token", ""))) is None:
            continue
        faults += _metadata(mine, run)
        faults += _places(mine, run["id"], seen.messages)
        found = check_run(mine, run, seen.steps[run["id"]], answers.get(run["id"], []), deaths)
        for heard in mine.heard:
            found += check_stream(mine, heard, run, seen.steps[run["id"]], answers.get(run["id"], []), deaths)
        found += _same(mine, deaths)
        faults += found
    return faults


def _places(record: RunRecord, run_id: str, messages: list[Any]) -> list[Fault]:
    """What a run says stands behind what it was asked, and before what came later."""
    faults: list[Fault] = []
    own = [place for place, message in enumerate(messages) if message["run_id"] == run_id]
    for place, message in enumerate(messages):
        token = token_of(text_of(message)) if message["role"] == "user" else ""
        if own and token in record.must_see and place > own[0]:
            faults.append(Fault("wrong", record.token, f"it speaks ahead of {token}, which was there before it"))
        if own and token in record.must_not_see and place < own[-1]:
            faults.append(Fault("wrong", record.token, f"it speaks behind {token}, which was put behind it"))
    return faults


def _same(record: RunRecord, deaths: Sequence[float]) -> list[Fault]:
    """Readers of one run hear the same under the same number, as long as nothing is struck: what is rebuilt after a
    death may be cut into other pieces."""
    if not _is_calm(record, deaths):
        return []
    said: dict[int, tuple[str, Any]] = {}
    for heard in (each for each in record.heard if not _is_retold(each)):
        for number, name, data in heard.events:
            if number is not None and said.setdefault(number, (name, data)) != (name, data):
                words = f"one reader heard {said[number]} as event {number}, another {(name, data)}"
                return [Fault("wrong", record.token, words)]
    return []


def check_run(
    record: RunRecord, run: Any, steps: list[Any], messages: list[Any], deaths: Sequence[float]
) -> list[Fault]:
    """A run that must have ended, its steps and its messages, oldest first."""
    token, plan, status = record.token, record.plan, run["status"]
    if status in ACTIVE:
        return [Fault("stuck", token, f"the run stays {status}")]
    faults: list[Fault] = []
    if record.cancel == "done" and status != "cancelled":
        faults.append(Fault("lost", token, f"its cancellation was acknowledged, and it ended {status}"))
    if status == "cancelled" and record.cancel in (None, "refused"):
        faults.append(Fault("wrong", token, "it ended cancelled, and nobody has cancelled it"))
    if status in ("expired", "incomplete"):
        faults.append(Fault("wrong", token, f"it ended {status}: {run['incomplete_details']}"))
    # One that met with three deaths may be what causes them, and is given up.
    met = [at for at in deaths if record.asked_at - 1 <= at <= (run["failed_at"] or 0) + 1]
    if status == "failed" and len(met) < 3:
        faults.append(Fault("wrong", token, f"it failed after {len(met)} deaths: {run['last_error']}"))

    types = [step["type"] for step in steps]
    expected = plan.steps
    if status == "completed" and types != expected:
        kind: FaultKind = "duplicated" if len(types) > len(expected) else "lost"
        faults.append(Fault(kind, token, f"its steps are {types}, not {expected}"))
    elif types != expected[: len(types)]:
        kind = "duplicated" if len(types) > len(expected) else "wrong"
        faults.append(Fault(kind, token, f"it ended {status} with the steps {types}, which begin no {expected}"))
    if open_steps := [step["id"] for step in steps if step["status"] == "in_progress"]:
        faults.append(Fault("stuck", token, f"it ended {status}, and its steps {open_steps} did not"))
    if open_messages := [message["id"] for message in messages if message["status"] == "in_progress"]:
        faults.append(Fault("stuck", token, f"it ended {status}, and its messages {open_messages} did not"))

    texts = [text_of(message) for message in messages]
    whole = plan.texts(record.output)
    if status == "completed" and texts != whole:
        kind = "duplicated" if len(texts) > len(whole) else "lost" if len(texts) < len(whole) else "wrong"
        faults.append(Fault(kind, token, f"its messages say {texts}, not {whole}"))
    for message, text, expected_text in zip(messages, texts, whole, strict=False):
        is_whole = message["status"] == "completed"
        if (is_whole and text != expected_text) or not expected_text.startswith(text):
            faults.append(Fault("wrong", token, f"a message {message['status']} says {text!r}, not {expected_text!r}"))
    if len(texts) > len(whole) and status != "completed":
        faults.append(Fault("duplicated", token, f"it ended {status} with the messages {texts}"))
    given = [call["function"]["output"] for call in _function_calls(steps)]
    if record.outputs_came == "done" and given != [record.output]:
        faults.append(Fault("lost", token, f"the output of its call is {given}, not {[record.output]}"))
    return faults


def check_stream(
    record: RunRecord, heard: Heard, run: Any, steps: list[Any], messages: list[Any], deaths: Sequence[float]
) -> list[Fault]:
    """What a reader heard against what is stored."""
    token = record.token
    faults: list[Fault] = []
    if heard.ended_silently:
        faults.append(Fault("wrong", token, f"a stream ended without `done` or `error`: {names(heard)}"))
    numbers = [number for number, _, _ in heard.events if number is not None]
    if any(later < earlier for earlier, later in pairwise(numbers)):
        faults.append(Fault("duplicated", token, f"event ids that fall: {numbers}"))
    is_live = _is_calm(record, deaths) and not _is_retold(heard)
    if is_live and numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        faults.append(Fault("lost", token, f"event ids with gaps, and nobody died: {numbers}"))
    stored = {each["id"]: each for each in (*steps, *messages)}
    texts: dict[str, str] = {}
    ended: Counter[tuple[str, str]] = Counter()
    for _, name, data in heard.events:
        match name:
            case "thread.message.created":
                # Told again after a takeover: a reader begins anew with it.
                texts[data["id"]] = text_of(data)
            case "thread.message.delta":
                parts = data["delta"]["content"]
                texts[data["id"]] = texts.get(data["id"], "") + "".join(part["text"]["value"] for part in parts)
            case "thread.message.completed" | "thread.message.incomplete":
                ended[name, data["id"]] += 1
                if (now := stored.get(data["id"])) is None:
                    faults.append(Fault("wrong", token, f"the stream told of {data['id']}, which is not there"))
                elif _told(now) != _told(data):
                    faults.append(Fault("wrong", token, f"the stream said {_told(data)}, stored is {_told(now)}"))
                elif texts.get(data["id"], "") != text_of(data):
                    told = texts.get(data["id"], "")
                    faults.append(Fault("wrong", token, f"the deltas say {told!r}, the message {text_of(data)!r}"))
            case "thread.run.step.completed" | "thread.run.step.failed" | "thread.run.step.cancelled":
                ended[name, data["id"]] += 1
                if (now := stored.get(data["id"])) is None or now["status"] != data["status"]:
                    faults.append(Fault("wrong", token, f"the stream ended the step {data['id']} as {data['status']}"))
            case "thread.run.completed" | "thread.run.failed" | "thread.run.cancelled":
                ended[name, data["id"]] += 1
                if _told(data) != _told(run):
                    faults.append(Fault("wrong", token, f"the stream said {_told(data)}, stored is {_told(run)}"))
            case _:
                pass
    for (name, id_), count in ended.items():
        if count > 1:
            faults.append(Fault("duplicated", token, f"the stream told {name} of {id_} {count} times"))
    # Nobody is shown what is taken back: whatever was heard begins what is (the model always says the same).
    for id_, text in texts.items():
        whole = record.plan.texts(record.output)
        if not any(expected.startswith(text) for expected in whole):
            faults.append(Fault("wrong", token, f"the stream said {text!r} in {id_}, which begins none of {whole}"))
    if heard.is_done and heard.events and heard.events[-1][1] not in _SETTLED:
        faults.append(Fault("wrong", token, f"a stream was done with {names(heard)[-3:]}"))
    return faults


_SETTLED = (
    "thread.run.requires_action",
    "thread.run.completed",
    "thread.run.failed",
    "thread.run.cancelled",
    "thread.run.expired",
    "thread.run.incomplete",
)


def names(heard: Heard) -> list[str]:
    return [name for _, name, _ in heard.events]


def _is_calm(record: Record, deaths: Sequence[float]) -> bool:
    """Whether nothing was struck since it was asked for."""
    return not any(at >= record.asked_at - 1 for at in deaths)


def _is_retold(heard: Heard) -> bool:
    """Whether it was put together from the store, where no log was left: events without a number of their own then have
    the one before."""
    numbers = [number for number, _, _ in heard.events if number is not None]
    return len(set(numbers)) < len(numbers)


def _told(of: Any) -> Any:
    """An object without what a client may change in it afterwards."""
    return {key: value for key, value in of.items() if key != "metadata"}


def _function_calls(steps: list[Any]) -> list[Any]:
    details = [step["step_details"] for step in steps if step["type"] == "tool_calls"]
    return [call for detail in details for call in detail["tool_calls"] if call["type"] == "function"]
