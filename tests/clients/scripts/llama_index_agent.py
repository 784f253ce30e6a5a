"""LlamaIndex: OpenAIAssistantAgent, new and existing, with a function, files and an attachment."""

import asyncio

from llama_index.agent.openai import OpenAIAssistantAgent
from llama_index.core.tools import FunctionTool
from told import (
    ASKS_BOILING,
    ASKS_WEATHER,
    BOILING,
    MODEL,
    asks_to_run,
    doing,
    equal,
    raising,
    runs_code,
    true,
    written,
)


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"4 degrees in {city}"


weather = FunctionTool.from_defaults(fn=get_weather)

with doing("from_new; chat twice on its thread; chat_history"):
    agent = OpenAIAssistantAgent.from_new(
        name="Helper", instructions="Be brief.", tools=[weather], model=MODEL, run_retrieve_sleep_time=0.05
    )
    agent.chat("My name is Ada.")
    equal(agent.chat("What is my name?").response, "Your name is Ada.")
    equal(
        [(m.role.value, m.content) for m in agent.chat_history][2:],
        [("user", "What is my name?"), ("assistant", "Your name is Ada.")],
    )

with doing("a function is called and its result is told"):
    answer = agent.chat(ASKS_WEATHER)
    equal(answer.response, "get_weather answered: 4 degrees in Oslo")
    equal([source.tool_name for source in answer.sources], ["get_weather"])

with doing("async chat with a function"):
    equal(asyncio.run(agent.achat(ASKS_WEATHER)).response, "get_weather answered: 4 degrees in Oslo")

with doing("from_existing on the same thread, instructions_prefix"):
    again = OpenAIAssistantAgent.from_existing(
        agent.assistant.id,
        tools=[weather],
        thread_id=agent.thread_id,
        instructions_prefix="Rhyme.",
        run_retrieve_sleep_time=0.05,
    )
    equal(again.chat("What are your instructions?").response, "My instructions are: Rhyme.")

with doing("a failed run is an error"), raising(ValueError, "Run failed"):
    agent.chat("fail: server_error Sorry.")

with doing("from_new with files; upload_files; add_message with an attachment"):
    path = str(written("data.csv", "a,b\n1,2\n"))
    analyst = OpenAIAssistantAgent.from_new(
        name="Analyst",
        instructions="Look.",
        openai_tools=[{"type": "code_interpreter"}],
        files=[path],
        model=MODEL,
        run_retrieve_sleep_time=0.05,
    )
    equal(list(analyst.files_dict.values()), [path])
    [file_id] = analyst.upload_files([path])
    message = analyst.add_message("say: A table.", file_ids=[file_id], tools=[{"type": "code_interpreter"}])
    equal(message.attachments[0].file_id, file_id)
    analyst.run_assistant()
    equal(analyst.latest_message.content, "A table.")

with doing("an attachment without tools, as older versions send it"):
    message = agent.client.beta.threads.messages.create(
        agent.thread_id, role="user", content="Look.", attachments=[{"file_id": file_id}]
    )
    equal(message.attachments[0].file_id, file_id)

with doing("reset: another thread"):
    before = agent.thread_id
    agent.reset()
    true(agent.thread_id != before)
    equal(agent.chat("What is my name?").response, "You have not told me your name.")

with doing("add_message with its default tool file_search: the attached file is searched and told"):
    reader = OpenAIAssistantAgent.from_new(
        name="Reader",
        instructions="Look it up.",
        openai_tools=[{"type": "file_search"}],
        model=MODEL,
        run_retrieve_sleep_time=0.05,
    )
    [file_id] = reader.upload_files([str(written("boiling.txt", BOILING))])
    message = reader.add_message(ASKS_BOILING, file_ids=[file_id])
    equal([tool.type for tool in message.attachments[0].tools], ["file_search"])
    reader.run_assistant()
    true(BOILING in reader.latest_message.content, reader.latest_message.content)

if runs_code("code interpreter reads the files of from_new"):
    with doing("code interpreter reads the files of from_new"):
        answer = analyst.chat(asks_to_run("print(open('/mnt/data/data.csv').read().split())"))
        equal(answer.response.strip(), "code_interpreter answered: ['a,b', '1,2']")
