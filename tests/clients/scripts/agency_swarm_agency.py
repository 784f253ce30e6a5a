"""Agency Swarm 0.x: an agency of two, tools, streams, a message from one agent to the other, a locked thread."""

import os
import time

from agency_swarm import Agency, Agent, BaseTool, get_openai_client
from agency_swarm.util.streaming import AgencyEventHandler
from pydantic import Field
from told import ASKS_BOILING, BOILING, MODEL, SLOW, asks_to_run, doing, equal, raising, runs_code, true


class GetWeather(BaseTool):
    """The weather in a city."""

    city: str = Field(..., description="Where.")

    def run(self):
        return f"4 degrees in {self.city}"


class Worker(Agent):
    def __init__(self, name, **kwargs):
        super().__init__(
            name=name, description=f"{name} works.", instructions=f"You are {name}.", model=MODEL, **kwargs
        )


with doing("an agency of two agents: assistants and threads are made"):
    chief, clerk = Worker("Chief", tools=[GetWeather]), Worker("Clerk", tools=[GetWeather])
    agency = Agency([chief, [chief, clerk]], shared_instructions="Be brief.")
    client = get_openai_client()
    equal({a.name for a in client.beta.assistants.list()}, {"Chief", "Clerk"})

with doing("get_completion, twice on one thread"):
    agency.get_completion("My name is Ada.")
    equal(agency.get_completion("What is my name?"), "Your name is Ada.")

with doing("a tool, and two at once"):
    equal(agency.get_completion('call GetWeather {"city": "Oslo"}'), "GetWeather answered: 4 degrees in Oslo")
    equal(
        agency.get_completion('call GetWeather {"city": "Oslo"}\ncall GetWeather {"city": "Rome"}'),
        "GetWeather answered: 4 degrees in Oslo\nGetWeather answered: 4 degrees in Rome",
    )

with doing("a message from one agent to the other"):
    said = agency.get_completion(
        'call SendMessage {"my_primary_instructions": "Ask.", "recipient": "Clerk", "message": "say: I am the clerk."}'
    )
    true("I am the clerk." in said, said)


class Watcher(AgencyEventHandler):
    text = ""
    ended = 0

    def on_text_delta(self, delta, snapshot):
        Watcher.text += delta.value

    @classmethod
    def on_all_streams_end(cls):
        Watcher.ended += 1


with doing("get_completion_stream: text, and a tool in between"):
    agency.get_completion_stream("count to 20", event_handler=Watcher)
    equal((Watcher.text, Watcher.ended), (" ".join(map(str, range(1, 21))), 1))
    Watcher.text = ""
    agency.get_completion_stream('call GetWeather {"city": "Oslo"}', event_handler=Watcher)
    equal(Watcher.text, "GetWeather answered: 4 degrees in Oslo")

with doing("a thread that another run has locked: it waits for that run, or cancels it"):
    thread = agency.main_thread
    client.beta.threads.messages.create(thread.id, role="user", content="count to 30")
    busy = client.beta.threads.runs.create(thread.id, assistant_id=chief.id, model=SLOW)
    equal(agency.get_completion("say: Free again."), "Free again.")
    equal(client.beta.threads.runs.retrieve(busy.id, thread_id=thread.id).status, "completed")
    client.beta.threads.messages.create(thread.id, role="user", content="count to 500")
    busy = client.beta.threads.runs.create(
        thread.id, assistant_id=chief.id, model=SLOW, additional_messages=[{"role": "assistant", "content": "Now."}]
    )
    said = [m.content for m in thread.get_completion(None, yield_messages=True)]
    equal(said, [" ".join(map(str, range(1, 501)))])
    equal(client.beta.threads.runs.retrieve(busy.id, thread_id=thread.id).status, "cancelled")

with doing("a failing model: a rate limit is tried again ten times, by the words of last_error; a refusal is an error"):

    def failed_runs():
        return len([run for run in client.beta.threads.runs.list(thread.id, limit=100) if run.status == "failed"])

    with raising(Exception, "Rate limit reached"):
        agency.get_completion("fail: rate_limit_exceeded Rate limit reached, try again in 0 seconds.")
    equal(failed_runs(), 11)
    with raising(Exception, "No."):
        agency.get_completion("fail: invalid_prompt No.")
    equal(failed_runs(), 12)

with doing("settings.json: the same assistants the next time"):
    again = Worker("Chief", tools=[GetWeather])
    Agency([again], shared_instructions="Be brief.")
    equal(again.id, chief.id)

with doing("files_folder with documents: a vector store is made of them, and searched"):
    os.mkdir("documents")
    with open("documents/boiling.txt", "w") as file:
        file.write(BOILING)
    reader = Worker("Reader", files_folder=os.path.abspath("documents"))
    library = Agency([reader])
    [store_id] = client.beta.assistants.retrieve(reader.id).tool_resources.file_search.vector_store_ids
    # It does not wait until the files have been read.
    while client.vector_stores.retrieve(store_id).status == "in_progress":
        time.sleep(0.05)
    said = library.get_completion(ASKS_BOILING)
    true(BOILING in said, said)
    reader.delete()
    equal(client.vector_stores.list().data, [])

with doing("files for code interpreter; delete"):
    os.mkdir("shared")
    with open("shared/data.csv", "w") as file:
        file.write("a,b\n1,2\n")
    analyst = Worker("Analyst", files_folder=os.path.abspath("shared"))
    calculating = Agency([analyst])
    [file_id] = client.beta.assistants.retrieve(analyst.id).tool_resources.code_interpreter.file_ids
    true(client.files.retrieve(file_id).filename.endswith(".csv"))
    if runs_code("code interpreter reads its file"):
        said = calculating.get_completion(
            asks_to_run("import glob\nprint(open(glob.glob('/mnt/data/*.csv')[0]).read().split())")
        )
        equal(said.strip(), "code_interpreter answered: ['a,b', '1,2']")
    analyst.delete()
