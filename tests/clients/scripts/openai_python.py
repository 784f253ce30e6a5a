"""openai-python of the v2 beta: what applications do with it, synchronously and asynchronously."""

import asyncio

import openai
from told import (
    ASKS_BOILING,
    ASKS_WEATHER,
    BOILING,
    MODEL,
    SLOW,
    WEATHER,
    asks_to_run,
    doing,
    equal,
    raising,
    runs_code,
    server_url,
    true,
    written,
)

client = openai.OpenAI()
beta = client.beta
OSLO = {"role": "user", "content": ASKS_WEATHER}
BOTH = {"role": "user", "content": 'call get_weather {"city": "Oslo"}\ncall get_weather {"city": "Rome"}'}


def said(message):
    return message.content[0].text.value


with doing("assistant: create, retrieve, update, list, delete"):
    assistant = beta.assistants.create(
        name="Helper", instructions="Be brief.", model=MODEL, tools=[WEATHER], metadata={"kind": "demo"}
    )
    equal(beta.assistants.retrieve(assistant.id).metadata, {"kind": "demo"})
    equal(beta.assistants.update(assistant.id, description="Helps.").description, "Helps.")
    others = [beta.assistants.create(model=MODEL, name=f"Other {n}") for n in range(3)]
    equal([a.id for a in beta.assistants.list(order="asc", limit=2)], [assistant.id, *(o.id for o in others)])
    for other in others:
        equal(beta.assistants.delete(other.id).deleted, True)

with doing("thread: create with messages, retrieve, update, delete"):
    thread = beta.threads.create(messages=[{"role": "user", "content": "My name is Ada."}], metadata={"a": "b"})
    equal(beta.threads.retrieve(thread.id).metadata, {"a": "b"})
    equal(beta.threads.update(thread.id, metadata={"a": "c"}).metadata, {"a": "c"})
    equal(beta.threads.delete(beta.threads.create().id).object, "thread.deleted")

with doing("message: create, retrieve, update, list by pages, delete"):
    message = beta.threads.messages.create(thread.id, role="user", content="What is my name?")
    equal(said(beta.threads.messages.retrieve(message.id, thread_id=thread.id)), "What is my name?")
    equal(beta.threads.messages.update(message.id, thread_id=thread.id, metadata={"k": "v"}).metadata, {"k": "v"})
    equal([said(m) for m in beta.threads.messages.list(thread.id, limit=1)], ["What is my name?", "My name is Ada."])
    spare = beta.threads.messages.create(thread.id, role="assistant", content=[{"type": "text", "text": "Spare."}])
    equal(beta.threads.messages.delete(spare.id, thread_id=thread.id).deleted, True)

with doing("run: create_and_poll, usage, steps"):
    run = beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50)
    equal(run.status, "completed")
    true(run.usage.total_tokens > 0, run.usage)
    equal(said(beta.threads.messages.list(thread.id).data[0]), "Your name is Ada.")
    [step] = beta.threads.runs.steps.list(run.id, thread_id=thread.id)
    equal(step.step_details.type, "message_creation")
    equal(beta.threads.runs.steps.retrieve(step.id, thread_id=thread.id, run_id=run.id).id, step.id)
    equal([r.id for r in beta.threads.runs.list(thread.id)], [run.id])
    equal(beta.threads.runs.update(run.id, thread_id=thread.id, metadata={"x": "1"}).metadata, {"x": "1"})

with doing("run: the poll helper's own pace (openai-poll-after-ms or its default)"):
    run = beta.threads.create_and_run_poll(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "say: Yes."}]}
    )
    equal(run.status, "completed")

with doing("functions, two at once: requires_action, submit_tool_outputs_and_poll"):
    run = beta.threads.create_and_run_poll(assistant_id=assistant.id, thread={"messages": [BOTH]}, poll_interval_ms=50)
    equal(run.status, "requires_action")
    calls = run.required_action.submit_tool_outputs.tool_calls
    equal([call.function.arguments for call in calls], ['{"city": "Oslo"}', '{"city": "Rome"}'])
    run = beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call.id, "output": f"{n} degrees"} for n, call in enumerate(calls)],
        poll_interval_ms=50,
    )
    equal(run.status, "completed")
    equal(
        said(beta.threads.messages.list(run.thread_id).data[0]),
        "get_weather answered: 0 degrees\nget_weather answered: 1 degrees",
    )

with doing("stream=True: the events in their order"):
    events = beta.threads.create_and_run(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "say: One two"}]}, stream=True
    )
    names = [event.event for event in events]
    equal(
        [name for name in names if not name.endswith("delta")],
        [
            "thread.created",
            "thread.run.created",
            "thread.run.queued",
            "thread.run.in_progress",
            "thread.run.step.created",
            "thread.run.step.in_progress",
            "thread.message.created",
            "thread.message.in_progress",
            "thread.message.completed",
            "thread.run.step.completed",
            "thread.run.completed",
        ],
    )


class Watcher(openai.AssistantEventHandler):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.text = ""

    def on_event(self, event):
        if event.event == "thread.run.requires_action":
            self.calls = event.data.required_action.submit_tool_outputs.tool_calls

    def on_message_created(self, message):
        self.seen.append("message created")

    def on_message_done(self, message):
        self.seen.append("message done")

    def on_text_created(self, text):
        self.seen.append("text created")

    def on_text_delta(self, delta, snapshot):
        self.text += delta.value
        equal(snapshot.value, self.text)

    def on_text_done(self, text):
        equal(text.value, self.text)
        self.seen.append("text done")

    def on_tool_call_created(self, tool_call):
        self.seen.append(f"{tool_call.type} created")

    def on_tool_call_done(self, tool_call):
        self.seen.append(f"{tool_call.type} done")

    def on_run_step_created(self, run_step):
        self.seen.append("step created")

    def on_end(self):
        self.seen.append("end")


with doing("stream helpers: event handler, function call, submit_tool_outputs_stream"):
    thread = beta.threads.create(messages=[OSLO])
    watcher = Watcher()
    with beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=watcher) as stream:
        stream.until_done()
    equal(stream.get_final_run().status, "requires_action")
    [call] = watcher.calls
    equal(call.function.name, "get_weather")
    equal(watcher.seen[:2], ["step created", "function created"])
    second = Watcher()
    with beta.threads.runs.submit_tool_outputs_stream(
        run_id=stream.current_run.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "4 degrees"}],
        event_handler=second,
    ) as stream:
        stream.until_done()
    equal(second.text, "get_weather answered: 4 degrees")
    equal(
        [s for s in second.seen if not s.startswith("function")],
        ["step created", "message created", "text created", "text done", "message done", "end"],
    )
    equal([said(m) for m in stream.get_final_messages()], ["get_weather answered: 4 degrees"])
    true("message_creation" in [s.type for s in stream.get_final_run_steps()])

with (
    doing("stream helpers: text_deltas of create_and_run_stream"),
    beta.threads.create_and_run_stream(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "count to 20"}]}
    ) as stream,
):
    equal("".join(stream.text_deltas), " ".join(map(str, range(1, 21))))

with doing("cancel; the thread is locked while a run is active"):
    run = beta.threads.create_and_run(
        assistant_id=assistant.id, model=SLOW, thread={"messages": [{"role": "user", "content": "count to 500"}]}
    )
    with raising(openai.BadRequestError, f"Can't add messages to {run.thread_id} while a run {run.id} is active."):
        beta.threads.messages.create(run.thread_id, role="user", content="Stop!")
    equal(beta.threads.runs.cancel(run.id, thread_id=run.thread_id).status in ("cancelling", "cancelled"), True)
    equal(beta.threads.runs.poll(run.id, thread_id=run.thread_id, poll_interval_ms=50).status, "cancelled")

with doing("a failing model: run failed, last_error; incomplete"):
    run = beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "fail: rate_limit_exceeded Slow down."}]},
        poll_interval_ms=50,
    )
    equal((run.status, run.last_error.code), ("failed", "rate_limit_exceeded"))
    run = beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "finish: length\nsay: Too lo"}]},
        poll_interval_ms=50,
    )
    equal((run.status, run.incomplete_details.reason), ("incomplete", "max_completion_tokens"))

with doing("errors are the SDK's exceptions, with message, param and code"):
    with raising(openai.NotFoundError) as caught:
        beta.threads.runs.create("thread_000000000000000000000000", assistant_id=assistant.id)
    equal(caught[0].body["message"], "No thread found with id 'thread_000000000000000000000000'.")
    with raising(openai.BadRequestError) as caught:
        beta.assistants.create(model=MODEL, extra_body={"colour": "red"})
    equal((caught[0].code, caught[0].param), ("unknown_parameter", "colour"))
    true(beta.threads.with_raw_response.create().headers["x-request-id"].startswith("req_"))

with doing("files: upload, list, retrieve, wait_for_processing, content, delete; as an attachment"):
    with written("notes.txt", "Water boils at 100 degrees.").open("rb") as content:
        file = client.files.create(file=content, purpose="assistants")
    equal(client.files.wait_for_processing(file.id).status, "processed")
    true(file.id in [f.id for f in client.files.list(purpose="assistants")])
    equal(client.files.content(file.id).text, "Water boils at 100 degrees.")
    message = beta.threads.messages.create(
        thread.id,
        role="user",
        content="Look.",
        attachments=[{"file_id": file.id, "tools": [{"type": "code_interpreter"}]}],
    )
    equal(message.attachments[0].file_id, file.id)
    equal(client.files.delete(file.id).deleted, True)

with doing("uploads: upload_file_chunked"):
    path = written("large.txt", "line\n" * 10_000)
    upload = client.uploads.upload_file_chunked(
        file=path, mime_type="text/plain", purpose="assistants", part_size=20_000
    )
    equal((upload.status, upload.file.bytes), ("completed", 50_000))

with doing("vector_stores: create, file_batches.upload_and_poll, files, search, update, delete"):
    store = client.vector_stores.create(name="Handbooks")
    uploads = [written("boiling.md", BOILING), written("freezing.md", "Ice melts at 0 degrees.")]
    with uploads[0].open("rb") as first, uploads[1].open("rb") as second:
        batch = client.vector_stores.file_batches.upload_and_poll(
            vector_store_id=store.id, files=[first, second], poll_interval_ms=50
        )
    equal((batch.status, batch.file_counts.completed), ("completed", 2))
    batched = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    equal({f.status for f in batched}, {"completed"})
    extra = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("extra.txt", b"Steam is hot."), attributes={"year": 2026}, poll_interval_ms=50
    )
    equal((extra.status, extra.attributes), ("completed", {"year": 2026}))
    equal(
        [part.text for part in client.vector_stores.files.content(extra.id, vector_store_id=store.id)],
        ["Steam is hot."],
    )
    hits = client.vector_stores.search(store.id, query="When does water boil?").data
    equal((hits[0].filename, hits[0].content[0].text), ("boiling.md", BOILING))
    equal(client.vector_stores.files.delete(extra.id, vector_store_id=store.id).deleted, True)
    equal(client.vector_stores.update(store.id, name="Physics").name, "Physics")
    equal(client.vector_stores.retrieve(store.id).file_counts.total, 2)
    equal([s.id for s in client.vector_stores.list()], [store.id])

with doing("file search: create_and_run_poll, what the step found, a file_citation in the answer"):
    reader = beta.assistants.create(
        model=MODEL, tools=[{"type": "file_search"}], tool_resources={"file_search": {"vector_store_ids": [store.id]}}
    )
    run = beta.threads.create_and_run_poll(
        assistant_id=reader.id, thread={"messages": [{"role": "user", "content": ASKS_BOILING}]}, poll_interval_ms=50
    )
    equal(run.status, "completed")
    [_, step] = beta.threads.runs.steps.list(
        run.id,
        thread_id=run.thread_id,
        include=["step_details.tool_calls[*].file_search.results[*].content"],
    )
    results = step.step_details.tool_calls[0].file_search.results
    equal((results[0].file_name, results[0].content[0].text), ("boiling.md", BOILING))
    text = beta.threads.messages.list(run.thread_id).data[0].content[0].text
    true(BOILING in text.value, text.value)
    citation = text.annotations[0]
    equal((citation.type, citation.file_citation.file_id), ("file_citation", results[0].file_id))
    equal(text.value[citation.start_index : citation.end_index], citation.text)

with doing("file search: streamed, in a file that is attached to the message"):
    with written("notes.txt", "The meeting is on Friday.").open("rb") as content:
        file = client.files.create(file=content, purpose="assistants")
    asked = {
        "role": "user",
        "content": 'call file_search {"queries": ["meeting"]}',
        "attachments": [{"file_id": file.id, "tools": [{"type": "file_search"}]}],
    }
    with beta.threads.create_and_run_stream(assistant_id=reader.id, thread={"messages": [asked]}) as stream:
        [message] = stream.get_final_messages()
    equal([a.file_citation.file_id for a in message.content[0].text.annotations], [file.id])
    equal(client.vector_stores.delete(store.id).deleted, True)

if runs_code("code interpreter"):
    with doing("code interpreter: a file in, what it printed in the step, a picture and a file_path in the answer"):
        with written("sales.csv", "region,amount\nnorth,3\nsouth,4\nnorth,5\n").open("rb") as content:
            file = client.files.create(file=content, purpose="assistants")
        coder = beta.assistants.create(
            model=MODEL,
            tools=[{"type": "code_interpreter"}],
            tool_resources={"code_interpreter": {"file_ids": [file.id]}},
        )
        code = """
import matplotlib.pyplot as plt
import pandas as pd
sums = pd.read_csv("/mnt/data/sales.csv").groupby("region").amount.sum()
sums.plot.bar()
plt.show()
sums.to_csv("/mnt/data/sums.csv")
print("[the sums](sandbox:/mnt/data/sums.csv)")
"""
        run = beta.threads.create_and_run_poll(
            assistant_id=coder.id,
            thread={"messages": [{"role": "user", "content": asks_to_run(code)}]},
            poll_interval_ms=50,
        )
        equal((run.status, run.last_error), ("completed", None))
        [_, step] = beta.threads.runs.steps.list(run.id, thread_id=run.thread_id)
        call = step.step_details.tool_calls[0].code_interpreter
        equal((call.input, sorted(output.type for output in call.outputs)), (code, ["image", "logs"]))
        picture, words = beta.threads.messages.list(run.thread_id).data[0].content
        true(client.files.content(picture.image_file.file_id).read().startswith(b"\x89PNG"))
        [link] = words.text.annotations
        equal((link.type, link.text), ("file_path", "sandbox:/mnt/data/sums.csv"))
        equal(client.files.content(link.file_path.file_id).text, "region,amount\nnorth,8\nsouth,4\n")

    with doing("code interpreter: streamed, variables that stay, its input and output as they come"):

        class Coding(openai.AssistantEventHandler):
            def __init__(self):
                super().__init__()
                self.input = self.logs = ""

            def on_tool_call_delta(self, delta, snapshot):
                self.input += delta.code_interpreter.input or ""
                for output in delta.code_interpreter.outputs or ():
                    self.logs += output.logs

        for code, logs in (("n = 6 * 7", ""), ("print(n)", "42\n")):
            beta.threads.messages.create(run.thread_id, role="user", content=asks_to_run(code))
            coding = Coding()
            with beta.threads.runs.stream(
                thread_id=run.thread_id, assistant_id=coder.id, event_handler=coding
            ) as stream:
                stream.until_done()
            equal((stream.get_final_run().status, coding.input, coding.logs), ("completed", code, logs))

with doing("models; chat completions on the same base URL"):
    true(MODEL in [model.id for model in client.models.list()])
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "say: Hello."}])
    equal(answer.choices[0].message.content, "Hello.")
    chunks = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "say: Hel lo"}], stream=True
    )
    equal("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), "Hel lo")


async def asynchronous():
    async with openai.AsyncOpenAI() as client:
        beta = client.beta
        with doing("async: run by poll with a function"):
            run = await beta.threads.create_and_run_poll(
                assistant_id=assistant.id, thread={"messages": [OSLO]}, poll_interval_ms=50
            )
            [call] = run.required_action.submit_tool_outputs.tool_calls
            run = await beta.threads.runs.submit_tool_outputs_and_poll(
                run_id=run.id,
                thread_id=run.thread_id,
                tool_outputs=[{"tool_call_id": call.id, "output": "5 degrees"}],
                poll_interval_ms=50,
            )
            equal(run.status, "completed")
            messages = [said(m) async for m in beta.threads.messages.list(run.thread_id, limit=1)]
            equal(messages, ["get_weather answered: 5 degrees", ASKS_WEATHER])

        with doing("async: stream with handler, ten at once"):

            class Collector(openai.AsyncAssistantEventHandler):
                def __init__(self):
                    super().__init__()
                    self.text = ""

                async def on_text_delta(self, delta, snapshot):
                    self.text += delta.value

            async def one(number):
                collector = Collector()
                thread = await beta.threads.create(messages=[{"role": "user", "content": f"say: Number {number}"}])
                async with beta.threads.runs.stream(
                    thread_id=thread.id, assistant_id=assistant.id, event_handler=collector
                ) as stream:
                    await stream.until_done()
                return collector.text

            equal(await asyncio.gather(*(one(n) for n in range(10))), [f"Number {n}" for n in range(10)])


asyncio.run(asynchronous())

with doing("AzureOpenAI: assistant, thread, run by poll, stream, chat deployment"):
    azure = openai.AzureOpenAI(
        azure_endpoint=server_url(), api_key=client.api_key, api_version="2024-05-01-preview", base_url=None
    )
    theirs = azure.beta.assistants.create(model=MODEL, name="Azure")
    run = azure.beta.threads.create_and_run_poll(
        assistant_id=theirs.id, thread={"messages": [{"role": "user", "content": "say: Azure."}]}, poll_interval_ms=50
    )
    equal(said(azure.beta.threads.messages.list(run.thread_id).data[0]), "Azure.")
    with azure.beta.threads.create_and_run_stream(
        assistant_id=theirs.id, thread={"messages": [{"role": "user", "content": "say: Streamed."}]}
    ) as stream:
        equal("".join(stream.text_deltas), "Streamed.")
    answer = azure.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "say: Deployed."}])
    equal(answer.choices[0].message.content, "Deployed.")
    azure.beta.assistants.delete(theirs.id)

with doing("delete the assistant and the thread"):
    equal(beta.threads.delete(thread.id).deleted, True)
    equal(beta.assistants.delete(assistant.id).deleted, True)
