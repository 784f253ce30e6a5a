"""Semantic Kernel: OpenAIAssistantAgent by polling and by stream, with a plugin, on its own threads.

pybars4 (Handlebars templates, not used here) has no wheel, so it is not installed and an empty module stands for it.
"""

import asyncio
import sys
import types
from datetime import timedelta

sys.modules["pybars"] = types.SimpleNamespace(Compiler=object, PybarsError=Exception)

import openai
from semantic_kernel.agents import AssistantAgentThread, AzureAssistantAgent, OpenAIAssistantAgent
from semantic_kernel.agents.open_ai.run_polling_options import RunPollingOptions
from semantic_kernel.contents import (
    AnnotationContent,
    FunctionCallContent,
    FunctionResultContent,
    StreamingAnnotationContent,
)
from semantic_kernel.functions import kernel_function
from told import ASKS_BOILING, BOILING, MODEL, asks_to_run, doing, equal, raising, runs_code, server_url, true, written

QUICK = RunPollingOptions(default_polling_interval=timedelta(milliseconds=50))
ASKS = 'call Weather-get_weather {"city": "Oslo"}'
TWICE = ASKS + '\ncall Weather-get_weather {"city": "Rome"}'


class Weather:
    @kernel_function(description="The weather in a city.")
    def get_weather(self, city: str) -> str:
        return f"4 degrees in {city}"


async def main():
    client = OpenAIAssistantAgent.create_client(ai_model_id=MODEL)

    async def new_agent(**kwargs):
        definition = await client.beta.assistants.create(model=MODEL, name="Helper", instructions="Be brief.", **kwargs)
        return OpenAIAssistantAgent(client=client, definition=definition, plugins=[Weather()], polling_options=QUICK)

    agent = await new_agent()
    with doing("get_response: a new thread, and a second question on it"):
        answer = await agent.get_response("My name is Ada.")
        answer = await agent.get_response("What is my name?", thread=answer.thread)
        equal(str(answer.content), "Your name is Ada.")
        history = [str(m.content) async for m in answer.thread.get_messages(sort_order="asc")]
        equal(history[2:], ["What is my name?", "Your name is Ada."])
        await answer.thread.delete()

    with doing("invoke: a plugin's function, two calls at once, its intermediate messages"):
        between = []

        async def on_between(message):
            between.extend(message.items)

        thread = AssistantAgentThread(client=client)
        said = [
            str(r.content)
            async for r in agent.invoke(messages=TWICE, thread=thread, on_intermediate_message=on_between)
        ]
        equal(
            said[-1],
            "Weather-get_weather answered: 4 degrees in Oslo\nWeather-get_weather answered: 4 degrees in Rome",
        )
        equal(
            [type(item) for item in between],
            [FunctionCallContent, FunctionCallContent, FunctionResultContent, FunctionResultContent],
        )

    with doing("invoke_stream: text"):
        pieces = [str(r.content) async for r in agent.invoke_stream(messages="count to 20", thread=thread)]
        equal("".join(pieces), " ".join(map(str, range(1, 21))))
        true(len([p for p in pieces if p]) > 1, pieces)

    with doing("invoke_stream: a plugin's function"):
        pieces = [str(r.content) async for r in agent.invoke_stream(messages=ASKS, thread=thread)]
        equal("".join(pieces), "Weather-get_weather answered: 4 degrees in Oslo")

    with doing("instructions and limits of a run"):
        answer = await agent.get_response(
            "What are your instructions?",
            thread=thread,
            additional_instructions="Rhyme.",
            temperature=0.1,
            max_completion_tokens=1000,
            truncation_strategy={"type": "last_messages", "last_messages": 10},
            metadata={"a": "b"},
        )
        equal(str(answer.content), "My instructions are: Be brief.\n\nRhyme.")

    with doing("structured output by response_format"):
        form = {
            "type": "json_schema",
            "json_schema": {
                "name": "Answer",
                "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
            },
        }
        strict = await new_agent(response_format=form)
        true("ok" in str((await strict.get_response("Is it so?")).content))

    with doing("code interpreter with a file"):
        with written("data.csv", "a,b\n1,2\n").open("rb") as content:
            file = await client.files.create(file=content, purpose="assistants")
        tools, resources = OpenAIAssistantAgent.configure_code_interpreter_tool(file_ids=file.id)
        analyst = await new_agent(tools=tools, tool_resources=resources)
        equal(str((await analyst.get_response("say: A table.")).content), "A table.")

    if runs_code("code interpreter: its output, and the file that it wrote"):
        with doing("code interpreter: its output, and the file that it wrote"):
            code = "open('/mnt/data/out.txt', 'w').write('x')\nprint('[it](sandbox:/mnt/data/out.txt)', 6 * 7)"
            answer = await analyst.get_response(asks_to_run(code))
            true("42" in str(answer.content), answer.content)
            [link] = [item for item in answer.items if isinstance(item, AnnotationContent)]
            equal((await client.files.content(link.file_id)).text, "x")

    with doing("configure_file_search_tool: a citation by polling and by stream"):
        with written("boiling.txt", BOILING).open("rb") as content:
            file = await client.files.create(file=content, purpose="assistants")
        store = await client.vector_stores.create(name="Notes")
        await client.vector_stores.files.create_and_poll(file_id=file.id, vector_store_id=store.id, poll_interval_ms=50)
        tools, resources = OpenAIAssistantAgent.configure_file_search_tool(store.id)
        reader = await new_agent(tools=tools, tool_resources=resources)
        answer = await reader.get_response(ASKS_BOILING)
        true(BOILING in str(answer.content), answer.content)
        equal([i.file_id for i in answer.items if isinstance(i, AnnotationContent)], [file.id])
        streamed = [i async for r in reader.invoke_stream(messages=ASKS_BOILING) for i in r.message.items]
        equal([i.file_id for i in streamed if isinstance(i, StreamingAnnotationContent)], [file.id])

    with doing("a failed run is an error"), raising(Exception, "Run failed with status: `failed`"):
        await agent.get_response("fail: server_error Sorry.")

    with doing("AzureAssistantAgent"):
        azure = openai.AsyncAzureOpenAI(
            azure_endpoint=server_url(), api_key=client.api_key, api_version="2024-05-01-preview"
        )
        definition = await azure.beta.assistants.create(model=MODEL, name="Azure")
        agent = AzureAssistantAgent(client=azure, definition=definition, polling_options=QUICK)
        equal(str((await agent.get_response("say: Azure.")).content), "Azure.")
        pieces = [str(r.content) async for r in agent.invoke_stream(messages="say: Azure again.")]
        equal("".join(pieces), "Azure again.")

    with doing("delete"):
        await thread.delete()
        equal((await client.beta.assistants.delete(definition.id)).deleted, True)


asyncio.run(main())
