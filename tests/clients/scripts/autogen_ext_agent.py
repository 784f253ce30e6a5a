"""autogen-ext: OpenAIAssistantAgent with a function, files for code interpreter, reset, an existing thread."""

import asyncio

import openai
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_ext.agents.openai import OpenAIAssistantAgent
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

TOKEN = CancellationToken()


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"4 degrees in {city}"


async def ask(agent, text):
    return (await agent.on_messages([TextMessage(source="user", content=text)], TOKEN)).chat_message.content


async def main():
    client = openai.AsyncOpenAI()

    def new_agent(**kwargs):
        return OpenAIAssistantAgent(
            name="Helper",
            description="Helps.",
            client=client,
            model=MODEL,
            instructions="Be brief.",
            **{"tools": [get_weather, "code_interpreter"], **kwargs},
        )

    agent = new_agent()
    with doing("a new assistant and thread; two questions"):
        await ask(agent, "My name is Ada.")
        equal(await ask(agent, "What is my name?"), "Your name is Ada.")

    with doing("a function is called and its result is told"):
        answer = await agent.on_messages([TextMessage(source="user", content=ASKS_WEATHER)], TOKEN)
        equal(answer.chat_message.content, "get_weather answered: 4 degrees in Oslo")
        equal([type(m).__name__ for m in answer.inner_messages], ["ToolCallRequestEvent", "ToolCallExecutionEvent"])

    with doing("on_upload_for_code_interpreter; delete_uploaded_files"):
        path = str(written("data.csv", "a,b\n1,2\n"))
        await agent.on_upload_for_code_interpreter(path, TOKEN)
        await agent.on_upload_for_code_interpreter(path, TOKEN)
        thread = await client.beta.threads.retrieve(agent._thread_id)
        equal(len(thread.tool_resources.code_interpreter.file_ids), 2)
        equal(await ask(agent, "say: A table."), "A table.")
        if runs_code("code interpreter reads the uploaded file"):
            said = await ask(agent, asks_to_run("print(open('/mnt/data/data.csv').read().split())"))
            equal(said.strip(), "code_interpreter answered: ['a,b', '1,2']")
        await agent.delete_uploaded_files(TOKEN)

    with doing("on_upload_for_file_search; delete_vector_store"):
        reader = new_agent(tools=["file_search"])
        await reader.on_upload_for_file_search(str(written("boiling.txt", BOILING)), TOKEN)
        said = await ask(reader, ASKS_BOILING)
        true(BOILING in said, said)
        await reader.delete_uploaded_files(TOKEN)
        await reader.delete_vector_store(TOKEN)
        equal((await client.vector_stores.list()).data, [])

    with doing("on_reset deletes the messages of the thread; save_state, load_state"):
        thread_id = agent._thread_id
        await agent.on_reset(TOKEN)
        equal((await client.beta.threads.messages.list(thread_id)).data, [])
        await ask(agent, "My name is Eve.")
        again = new_agent()
        await again.load_state(await agent.save_state())
        equal(await ask(again, "What is my name?"), "Your name is Eve.")

    with doing("an existing assistant and thread; more than a page of messages"):
        assistant = await client.beta.assistants.create(model=MODEL, name="Theirs")
        thread = await client.beta.threads.create()
        for number in range(105):
            await client.beta.threads.messages.create(thread.id, role="user", content=f"Note {number}")
        theirs = new_agent(assistant_id=assistant.id, thread_id=thread.id)
        true(len(await ask(theirs, "What did I say first?")) > 0)
        await theirs.on_reset(TOKEN)
        equal(len([m async for m in client.beta.threads.messages.list(thread.id, limit=100)]), 105)

    with doing("a team of two"):
        first, second = new_agent(), new_agent()
        first._name, second._name = "first", "second"
        team = RoundRobinGroupChat([first, second], termination_condition=MaxMessageTermination(3))
        result = await team.run(task="say: Hello.")
        equal(len(result.messages), 3)

    with doing("a failed run is an error; delete_assistant"):
        with raising(ValueError, "Run failed"):
            await ask(agent, "fail: server_error Sorry.")
        await agent.delete_assistant(TOKEN)


asyncio.run(main())
