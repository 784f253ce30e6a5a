"""The story of the cookbook's overview of the Assistants API, in words of our own: first question to functions."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import openai
from told import MODEL, asks_to_run, doing, equal, runs_code, true, written

client = openai.OpenAI()
beta = client.beta


def ask(assistant, thread, text):
    beta.threads.messages.create(thread_id=thread.id, role="user", content=text)
    return beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)


def waited(run):
    """The loop of one's own that applications had before there was a helper for it."""
    while run.status in ("queued", "in_progress"):
        run = beta.threads.runs.retrieve(thread_id=run.thread_id, run_id=run.id)
        time.sleep(0.02)
    return run


def conversation(thread, **query):
    return [m.content[0].text.value for m in beta.threads.messages.list(thread_id=thread.id, order="asc", **query)]


with doing("an assistant, a thread, a question, a run that is waited for; its objects as JSON"):
    tutor = beta.assistants.create(name="Tutor", instructions="Answer in a sentence.", model=MODEL)
    true(json.loads(tutor.model_dump_json())["object"] == "assistant")
    thread = beta.threads.create()
    message = beta.threads.messages.create(thread_id=thread.id, role="user", content="say: x is 1.")
    run = waited(beta.threads.runs.create(thread_id=thread.id, assistant_id=tutor.id))
    equal(run.status, "completed")
    equal(conversation(thread), ["say: x is 1.", "x is 1."])

with doing("a further question; only what came after it is read (after, order)"):
    further = beta.threads.messages.create(thread_id=thread.id, role="user", content="What did I say first?")
    waited(beta.threads.runs.create(thread_id=thread.id, assistant_id=tutor.id))
    equal(conversation(thread, after=further.id), ['You first said: "say: x is 1."'])

with doing("three people at once, each on a thread of their own"):

    def person(name):
        thread = beta.threads.create()
        run = ask(tutor, thread, f"say: Dear {name}.")
        return thread, run

    with ThreadPoolExecutor() as pool:
        started = list(pool.map(person, ["Ann", "Ben", "Cem"]))
    for run in [run for _, run in started]:
        equal(waited(run).status, "completed")
    equal([conversation(t)[-1] for t, _ in started], ["Dear Ann.", "Dear Ben.", "Dear Cem."])

with doing("code interpreter is added by an update; the run's steps are listed"):
    tutor = beta.assistants.update(tutor.id, tools=[{"type": "code_interpreter"}])
    equal([tool.type for tool in tutor.tools], ["code_interpreter"])
    thread = beta.threads.create()
    run = waited(ask(tutor, thread, "say: 1, 1, 2, 3, 5"))
    steps = beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc")
    [details] = [step.step_details for step in steps.data]
    equal(details.type, "message_creation")
    made = beta.threads.messages.retrieve(details.message_creation.message_id, thread_id=thread.id)
    equal(made.content[0].text.value, "1, 1, 2, 3, 5")

with doing("a file is uploaded and given to the assistant"):
    with written("paper.txt", "Language models are few-shot learners.").open("rb") as content:
        file = client.files.create(file=content, purpose="assistants")
    tutor = beta.assistants.update(tutor.id, tool_resources={"code_interpreter": {"file_ids": [file.id]}})
    equal(tutor.tool_resources.code_interpreter.file_ids, [file.id])

with doing("a question about the file by file search: the step of the search, the answer with its citation"):
    store = client.vector_stores.create(name="Papers")
    client.vector_stores.files.create_and_poll(file_id=file.id, vector_store_id=store.id, poll_interval_ms=50)
    tutor = beta.assistants.update(
        tutor.id,
        tools=[{"type": "code_interpreter"}, {"type": "file_search"}],
        tool_resources={"file_search": {"vector_store_ids": [store.id]}},
    )
    thread = beta.threads.create()
    run = waited(ask(tutor, thread, 'call file_search {"queries": ["What do language models learn?"]}'))
    equal(run.status, "completed")
    steps = beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc").data
    equal([step.type for step in steps], ["tool_calls", "message_creation"])
    equal(steps[0].step_details.tool_calls[0].type, "file_search")
    text = beta.threads.messages.list(thread_id=thread.id).data[0].content[0].text
    true("few-shot learners" in text.value, text.value)
    equal([a.file_citation.file_id for a in text.annotations], [file.id])

if runs_code("the numbers computed by code interpreter"):
    with doing("numbers computed by code interpreter: its code is read from the step"):
        code = "a, b = 0, 1\nfor _ in range(20):\n    print(a, end=' ')\n    a, b = b, a + b"
        thread = beta.threads.create()
        run = waited(ask(tutor, thread, asks_to_run(code)))
        equal(run.status, "completed")
        first = beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc").data[0]
        call = first.step_details.tool_calls[0].code_interpreter
        equal((call.input, call.outputs[0].logs.split()[-1]), (code, "4181"))
        true("2584 4181" in conversation(thread)[-1])

QUIZ = {
    "name": "show_quiz",
    "description": "Shows questions to the pupil and returns the answers.",
    "parameters": {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "questions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string"},
                        "kind": {"type": "string", "enum": ["CHOICE", "FREE"]},
                        "choices": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["text", "kind"],
                },
            },
        },
        "required": ["title", "questions"],
    },
}

with doing("a function: a quiz is asked for, shown, and its answers are handed in"):
    tutor = beta.assistants.update(
        tutor.id, tools=[{"type": "code_interpreter"}, {"type": "function", "function": QUIZ}]
    )
    asked = {
        "title": "Sums",
        "questions": [{"text": "1+1?", "kind": "CHOICE", "choices": ["2", "3"]}, {"text": "Why?", "kind": "FREE"}],
    }
    thread = beta.threads.create()
    run = waited(ask(tutor, thread, f"call show_quiz {json.dumps(asked)}"))
    equal(run.status, "requires_action")
    [call] = run.required_action.submit_tool_outputs.tool_calls
    equal((call.function.name, json.loads(call.function.arguments)), ("show_quiz", asked))
    answers = ["2", "Because."]
    run = beta.threads.runs.submit_tool_outputs(
        thread_id=thread.id,
        run_id=run.id,
        tool_outputs=[{"tool_call_id": call.id, "output": json.dumps(answers)}],
    )
    equal(waited(run).status, "completed")
    equal(conversation(thread)[-1], f"show_quiz answered: {json.dumps(answers)}")
    steps = beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc").data
    equal([step.type for step in steps], ["tool_calls", "message_creation"])
    equal(steps[0].step_details.tool_calls[0].function.output, json.dumps(answers))
