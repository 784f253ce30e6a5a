"""What the assistants examples of openai-python's repository tell, in words of our own: ask, stream, watch."""

import openai
from told import MODEL, doing, equal, true

client = openai.OpenAI()
beta = client.beta
SOLVE = "Solve 3x + 11 = 14 for me.\nsay: Subtract 11, divide by 3: x = 1."
ANSWER = "Subtract 11, divide by 3: x = 1."


def tutor():
    return beta.assistants.create(
        name="Tutor",
        instructions="Teach mathematics. Run code where it helps.",
        tools=[{"type": "code_interpreter"}],
        model=MODEL,
    )


with doing("assistant: a tutor, a question, create_and_poll, the conversation read back, delete"):
    assistant = tutor()
    thread = beta.threads.create()
    beta.threads.messages.create(thread_id=thread.id, role="user", content=SOLVE)
    run = beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, instructions="Call the pupil Jane."
    )
    equal((run.status, run.instructions), ("completed", "Call the pupil Jane."))
    conversation = [
        (message.role, content.text.value)
        for message in beta.threads.messages.list(thread_id=thread.id, order="asc")
        for content in message.content
        if content.type == "text"
    ]
    equal(conversation, [("user", SOLVE), ("assistant", ANSWER)])
    equal(beta.assistants.delete(assistant.id).object, "assistant.deleted")

with doing("assistant_stream: create_and_run with stream=True, deltas by the event's name"):
    assistant = tutor()
    text = ""
    for event in beta.threads.create_and_run(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": SOLVE}]}, stream=True
    ):
        if event.event == "thread.message.delta":
            text += "".join(part.text.value for part in event.data.delta.content)
        elif event.event == "thread.run.completed":
            true(event.data.usage.completion_tokens > 0, event.data.usage)
    equal(text, ANSWER)

with doing("assistant_stream_helpers: every callback, and the current snapshots in them"):
    calls = []

    class Everything(openai.AssistantEventHandler):
        def on_run_step_created(self, run_step):
            calls.append("step created")
            equal(self.current_run.id, run_step.run_id)
            equal(self.current_run_step_snapshot.id, run_step.id)

        def on_run_step_done(self, run_step):
            calls.append("step done")
            equal(run_step.status, "completed")

        def on_text_created(self, text):
            calls.append("text created")

        def on_text_delta(self, delta, snapshot):
            equal(self.current_message_snapshot.content[0].text.value, snapshot.value)

        def on_text_done(self, text):
            calls.append(text.value)

        def on_message_done(self, message):
            calls.append(f"message {message.status}")

        def on_exception(self, exception):
            calls.append(repr(exception))

    thread = beta.threads.create(messages=[{"role": "user", "content": SOLVE}])
    with beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=Everything()) as stream:
        stream.until_done()
    equal(calls, ["step created", "text created", ANSWER, "message completed", "step done"])
    beta.assistants.delete(assistant.id)
