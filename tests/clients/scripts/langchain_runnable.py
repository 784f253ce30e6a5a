"""LangChain: OpenAIAssistantRunnable and OpenAIAssistantV2Runnable, as a runnable and as an agent with tools."""

import asyncio

import openai
from langchain_classic.agents import AgentExecutor
from langchain_classic.agents.openai_assistant import OpenAIAssistantRunnable
from langchain_community.agents.openai_assistant import OpenAIAssistantV2Runnable
from langchain_core.agents import AgentFinish
from langchain_core.tools import tool
from told import (
    ASKS_BOILING,
    ASKS_WEATHER,
    BOILING,
    MODEL,
    asks_to_run,
    doing,
    equal,
    left_out,
    raising,
    runs_code,
    true,
    written,
)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"4 degrees in {city}"


TWICE = f'{ASKS_WEATHER}\ncall get_weather {{"city": "Rome"}}'
ANSWERED = "get_weather answered: 4 degrees in Oslo"


def until_finished(agent, asked):
    """The loop that LangChain's documentation shows for an agent without an executor."""
    answer = agent.invoke(asked)
    while not isinstance(answer, AgentFinish):
        outputs = [{"output": get_weather.invoke(a.tool_input), "tool_call_id": a.tool_call_id} for a in answer]
        answer = agent.invoke({"tool_outputs": outputs, "run_id": answer[0].run_id, "thread_id": answer[0].thread_id})
    return answer


for kind in (OpenAIAssistantRunnable, OpenAIAssistantV2Runnable):
    name = kind.__name__

    with doing(f"{name}: create_assistant, a new thread and a second question on it"):
        assistant = kind.create_assistant(
            name="Helper", instructions="Be brief.", tools=[], model=MODEL, check_every_ms=50
        )
        [message] = assistant.invoke({"content": "My name is Ada."})
        equal(message.content[0].text.value, "I will remember that your name is Ada.")
        [message] = assistant.invoke({"content": "What is my name?", "thread_id": message.thread_id})
        equal(message.content[0].text.value, "Your name is Ada.")

    with doing(f"{name}: what a run overrides"):
        [message] = assistant.invoke(
            {
                "content": "What are your instructions?",
                "instructions": "Rhyme.",
                "thread_metadata": {"a": "b"},
                "message_metadata": {"c": "d"},
                "temperature": 0.2,
                "parallel_tool_calls": False,
            }
        )
        equal(message.content[0].text.value, "My instructions are: Rhyme.")

    with doing(f"{name}: as an agent, tools run by hand, two calls at once"):
        agent = kind.create_assistant(
            name="Agent", instructions="Look it up.", tools=[get_weather], model=MODEL, as_agent=True, check_every_ms=50
        )
        finished = until_finished(agent, {"content": TWICE})
        equal(finished.return_values["output"], f"{ANSWERED}\nget_weather answered: 4 degrees in Rome")
        finished = until_finished(
            agent, {"content": "How many messages have you seen?", "thread_id": finished.thread_id}
        )
        true(finished.return_values["output"].startswith("I have seen"), finished.return_values["output"])

    with doing(f"{name}: as an agent in an AgentExecutor"):
        executor = AgentExecutor(agent=agent, tools=[get_weather])
        equal(executor.invoke({"content": ASKS_WEATHER})["output"], ANSWERED)

    with doing(f"{name}: without agent, the calls are returned"):
        plain = kind(assistant_id=agent.assistant_id, check_every_ms=50)
        [call] = plain.invoke({"content": ASKS_WEATHER})
        equal(call.function.name, "get_weather")

    with doing(f"{name}: a failed run is an error"), raising(ValueError, "Unexpected run status: failed"):
        assistant.invoke({"content": "fail: server_error Sorry."})

    async def asynchronous(kind=kind, name=name):
        if kind is OpenAIAssistantRunnable:
            # Its async half reads a page of messages without waiting for it, whatever the server answers.
            with doing(f"{name}: async, as an agent, up to the call"):
                agent = await kind.acreate_assistant(
                    name="Agent",
                    instructions="Look it up.",
                    tools=[get_weather],
                    model=MODEL,
                    async_client=openai.AsyncOpenAI(),
                    as_agent=True,
                    check_every_ms=50,
                )
                [action] = await agent.ainvoke({"content": ASKS_WEATHER})
                equal((action.tool, action.tool_input), ("get_weather", {"city": "Oslo"}))
            left_out(
                f"{name}: async to the end of a run", "langchain-classic iterates an async page as if it were a list"
            )
            return

        with doing(f"{name}: async, a new thread and a second question"):
            assistant = await kind.acreate_assistant(
                name="Helper",
                instructions="Be brief.",
                tools=[],
                model=MODEL,
                async_client=openai.AsyncOpenAI(),
                check_every_ms=50,
            )
            [message] = await assistant.ainvoke({"content": "My name is Bob."})
            [message] = await assistant.ainvoke({"content": "What is my name?", "thread_id": message.thread_id})
            equal(message.content[0].text.value, "Your name is Bob.")

        with doing(f"{name}: async, as an agent in an AgentExecutor"):
            agent = await kind.acreate_assistant(
                name="Agent",
                instructions="Look it up.",
                tools=[get_weather],
                model=MODEL,
                async_client=openai.AsyncOpenAI(),
                as_agent=True,
                check_every_ms=50,
            )
            answer = await AgentExecutor(agent=agent, tools=[get_weather]).ainvoke({"content": ASKS_WEATHER})
            equal(answer["output"], ANSWERED)

    asyncio.run(asynchronous())

with doing("OpenAIAssistantV2Runnable: attachments, tool_resources"):
    client = openai.OpenAI()
    with written("data.csv", "a,b\n1,2\n").open("rb") as content:
        file = client.files.create(file=content, purpose="assistants")
    assistant = OpenAIAssistantV2Runnable.create_assistant(
        name="Analyst",
        instructions="Look at the file.",
        tools=[{"type": "code_interpreter"}],
        tool_resources={"code_interpreter": {"file_ids": [file.id]}},
        model=MODEL,
        check_every_ms=50,
    )
    attached = [{"file_id": file.id, "tools": [{"type": "code_interpreter"}]}]
    [message] = assistant.invoke({"content": "say: A table."}, attachments=attached)
    equal(message.content[0].text.value, "A table.")
    [asked] = client.beta.threads.messages.list(message.thread_id, order="asc", limit=1).data
    equal([a.file_id for a in asked.attachments], [file.id])

with doing("OpenAIAssistantV2Runnable: file_ids, which attach for file search too: an answer with a citation"):
    with written("boiling.txt", BOILING).open("rb") as content:
        file = client.files.create(file=content, purpose="assistants")
    both = OpenAIAssistantV2Runnable.create_assistant(
        name="Reader",
        instructions="Look it up.",
        tools=[{"type": "file_search"}, {"type": "code_interpreter"}],
        model=MODEL,
        check_every_ms=50,
    )
    [message] = both.invoke({"content": ASKS_BOILING}, file_ids=[file.id])
    true(BOILING in message.content[0].text.value, message.content)
    equal([a.file_citation.file_id for a in message.content[0].text.annotations], [file.id])

if runs_code("OpenAIAssistantV2Runnable: code interpreter reads the file of file_ids"):
    with doing("OpenAIAssistantV2Runnable: code interpreter reads the file of file_ids"):
        [message] = both.invoke(
            {"content": asks_to_run("print(open('/mnt/data/boiling.txt').read())")}, file_ids=[file.id]
        )
        true(BOILING in message.content[0].text.value, message.content)
