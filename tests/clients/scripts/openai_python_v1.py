"""openai-python of the v1 beta (1.1 to 1.20): files and retrieval on assistants and messages."""

import asyncio

import openai
from told import ASKS_WEATHER, MODEL, WEATHER, asks_to_run, doing, equal, raising, runs_code, true, written

client = openai.OpenAI()

with doing("upload a file"):
    with written("knowledge.txt", "The bridge was opened in 1932.").open("rb") as content:
        file = client.files.create(file=content, purpose="assistants")
    equal((file.filename, file.purpose, file.object), ("knowledge.txt", "assistants", "file"))

with doing("assistant with code interpreter, retrieval and the file"):
    assistant = client.beta.assistants.create(
        name="Guide",
        instructions="Answer from the file.",
        model=MODEL,
        tools=[{"type": "code_interpreter"}, {"type": "retrieval"}],
        file_ids=[file.id],
    )
    equal([tool.type for tool in assistant.tools], ["code_interpreter", "retrieval"])
    equal(assistant.file_ids, [file.id])
    equal([f.id for f in client.beta.assistants.files.list(assistant.id)], [file.id])
    equal(client.beta.assistants.files.retrieve(file.id, assistant_id=assistant.id).object, "assistant.file")

with doing("thread: create, retrieve, update with a boolean and a number, delete"):
    thread = client.beta.threads.create()
    equal(client.beta.threads.retrieve(thread.id).id, thread.id)
    thread = client.beta.threads.update(thread.id, metadata={"modified_today": True, "share": 0.5})
    equal(thread.metadata, {"modified_today": "true", "share": "0.5"})
    equal(client.beta.threads.delete(client.beta.threads.create().id).deleted, True)

with doing("message with a file; its files"):
    message = client.beta.threads.messages.create(
        thread.id, role="user", content="When was the bridge opened?", file_ids=[file.id]
    )
    equal(message.file_ids, [file.id])
    equal(message.content[0].text.value, "When was the bridge opened?")
    files = client.beta.threads.messages.files.list(message.id, thread_id=thread.id)
    equal([(f.id, f.object, f.message_id) for f in files], [(file.id, "thread.message.file", message.id)])
    one = client.beta.threads.messages.files.retrieve(file.id, thread_id=thread.id, message_id=message.id)
    equal(one.id, file.id)

with doing("messages: list newest first, retrieve, update, pages"):
    for number in range(6):
        client.beta.threads.messages.create(thread.id, role="user", content=f"Note {number}")
    newest = client.beta.threads.messages.list(thread.id, limit=5)
    equal([m.content[0].text.value for m in newest.data], [f"Note {n}" for n in (5, 4, 3, 2, 1)])
    equal(len(list(newest)), 7)
    equal(client.beta.threads.messages.retrieve(message.id, thread_id=thread.id).id, message.id)
    changed = client.beta.threads.messages.update(message.id, thread_id=thread.id, metadata={"seen": "yes"})
    equal(changed.metadata, {"seen": "yes"})

with doing("run by create_and_poll"):
    client.beta.threads.messages.create(thread.id, role="user", content="say: In 1932.")
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50)
    equal(run.status, "completed")
    equal(run.file_ids, [file.id])
    equal([tool.type for tool in run.tools], ["code_interpreter", "retrieval"])
    answer = client.beta.threads.messages.list(thread.id, limit=1).data[0]
    equal((answer.role, answer.content[0].text.value), ("assistant", "In 1932."))
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id).data
    equal([step.type for step in steps], ["message_creation"])

with doing("retrieval: the assistant's file is searched; a step of retrieval, a file_citation in the answer"):
    asked = {"role": "user", "content": 'call file_search {"queries": ["When was the bridge opened?"]}'}
    run = client.beta.threads.create_and_run_poll(
        assistant_id=assistant.id, thread={"messages": [asked]}, poll_interval_ms=50
    )
    equal(run.status, "completed")
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id).data
    equal(steps[1].step_details.tool_calls[0].type, "retrieval")
    text = client.beta.threads.messages.list(run.thread_id).data[0].content[0].text
    true("opened in 1932" in text.value, text.value)
    equal([a.file_citation.file_id for a in text.annotations], [file.id])

if runs_code("code interpreter"):
    with doing("code interpreter: the assistant's file in, a file_path in the answer"):
        code = """
text = open("/mnt/data/knowledge.txt").read()
open("/mnt/data/loud.txt", "w").write(text.upper())
print("[it](sandbox:/mnt/data/loud.txt)")
"""
        run = client.beta.threads.create_and_run_poll(
            assistant_id=assistant.id,
            thread={"messages": [{"role": "user", "content": asks_to_run(code)}]},
            poll_interval_ms=50,
        )
        equal(run.status, "completed")
        answer = client.beta.threads.messages.list(run.thread_id).data[0]
        [link] = answer.content[0].text.annotations
        equal(client.files.content(link.file_path.file_id).text, "THE BRIDGE WAS OPENED IN 1932.")

with doing("run by stream"):
    client.beta.threads.messages.create(thread.id, role="user", content="say: Ninety years and more.")
    pieces = []

    class Printer(openai.AssistantEventHandler):
        def on_text_delta(self, delta, snapshot):
            pieces.append(delta.value)

    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=Printer()
    ) as stream:
        stream.until_done()
    equal("".join(pieces), "Ninety years and more.")
    equal(stream.get_final_run().status, "completed")

with doing("function: requires_action, submit_tool_outputs_and_poll"):
    helper = client.beta.assistants.create(model=MODEL, tools=[WEATHER])
    run = client.beta.threads.create_and_run_poll(
        assistant_id=helper.id, thread={"messages": [{"role": "user", "content": ASKS_WEATHER}]}, poll_interval_ms=50
    )
    equal(run.status, "requires_action")
    [call] = run.required_action.submit_tool_outputs.tool_calls
    run = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call.id, "output": "4 degrees"}],
        poll_interval_ms=50,
    )
    equal(run.status, "completed")
    answer = client.beta.threads.messages.list(run.thread_id).data[0]
    equal(answer.content[0].text.value, "get_weather answered: 4 degrees")


async def asynchronous():
    async with openai.AsyncOpenAI() as client:
        with doing("async: message with a file, run by create_and_poll"):
            thread = await client.beta.threads.create()
            await client.beta.threads.messages.create(
                thread.id, role="user", content="say: Asynchronously.", file_ids=[file.id]
            )
            run = await client.beta.threads.runs.create_and_poll(
                thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50
            )
            equal(run.status, "completed")
            said = [m.content[0].text.value async for m in client.beta.threads.messages.list(thread.id, limit=1)]
            equal(said, ["Asynchronously.", "say: Asynchronously."])

        with doing("async: run by stream"):
            pieces = []

            class Collector(openai.AsyncAssistantEventHandler):
                async def on_text_delta(self, delta, snapshot):
                    pieces.append(delta.value)

            async with client.beta.threads.create_and_run_stream(
                assistant_id=assistant.id,
                thread={"messages": [{"role": "user", "content": "count to 20"}]},
                event_handler=Collector(),
            ) as stream:
                await stream.until_done()
            equal("".join(pieces), " ".join(map(str, range(1, 21))))


asyncio.run(asynchronous())

with doing("what is no longer there: 404"):
    with raising(openai.NotFoundError, "No thread found with id 'thread_000000000000000000000000'."):
        client.beta.threads.retrieve("thread_000000000000000000000000")

with doing("assistant file and assistant: delete"):
    equal(client.beta.assistants.files.delete(file.id, assistant_id=assistant.id).deleted, True)
    equal(client.beta.assistants.retrieve(assistant.id).file_ids, [])
    equal(client.beta.assistants.delete(assistant.id).deleted, True)
    equal(client.beta.assistants.delete(helper.id).deleted, True)
    equal(client.files.delete(file.id).deleted, True)
