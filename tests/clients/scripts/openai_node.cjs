// openai-node 4 to 7: what applications do with it. From 5 on, ids of what lies above go into an object.
'use strict';
const fs = require('node:fs');
const OpenAI = require('openai');
const { VERSION } = require('openai/version');
const {
  ASKS_BOILING, ASKS_WEATHER, BOILING, MODEL, SLOW, WEATHER, asksToRun, doing, equal, main, ok, refused, runsCode,
  serverUrl, written,
} = require('./told.cjs');

const isOld = Number(VERSION.split('.')[0]) < 5;
const client = new OpenAI();
const { assistants, threads } = client.beta;
const { messages, runs } = threads;
const remove = (collection, ...rest) => (isOld ? collection.del(...rest) : collection.delete(...rest));
const inThread = (thread_id, id) => (isOld ? [thread_id, id] : [id, { thread_id }]);
const submit = (run, outputs, submitted) =>
  isOld
    ? submitted(run.thread_id, run.id, { tool_outputs: outputs })
    : submitted(run.id, { thread_id: run.thread_id, tool_outputs: outputs });
const said = (message) => message.content[0].text.value;
const user = (content) => ({ messages: [{ role: 'user', content }] });
const collect = async (pages) => {
  const all = [];
  for await (const one of pages) all.push(one);
  return all;
};
const QUICK = { pollIntervalMs: 50 };

// Everything that a stream helper emits, in its order.
const EVENTS = [
  'runStepCreated', 'runStepDone', 'toolCallCreated', 'toolCallDone', 'messageCreated', 'messageDone', 'textCreated',
  'textDone', 'end',
];
const watched = (stream) => {
  const seen = { names: [], text: '', events: [] };
  for (const name of EVENTS) stream.on(name, () => seen.names.push(name));
  stream.on('textDelta', (delta, snapshot) => {
    seen.text += delta.value;
    equal(snapshot.value, seen.text);
  });
  stream.on('event', (event) => seen.events.push(event.event));
  return seen;
};

main(async () => {
  let assistant, thread;

  await doing('assistant: create, retrieve, update, list, delete', async () => {
    assistant = await assistants.create({ name: 'Helper', instructions: 'Be brief.', model: MODEL, tools: [WEATHER] });
    equal((await assistants.retrieve(assistant.id)).tools, assistant.tools);
    equal((await assistants.update(assistant.id, { metadata: { kind: 'demo' } })).metadata, { kind: 'demo' });
    const other = await assistants.create({ model: MODEL });
    equal((await collect(assistants.list({ order: 'asc', limit: 1 }))).map((a) => a.id), [assistant.id, other.id]);
    equal((await remove(assistants, other.id)).deleted, true);
  });

  await doing('thread and messages: create, retrieve, update, list by pages, delete', async () => {
    thread = await threads.create({ ...user('My name is Ada.'), metadata: { a: 'b' } });
    equal((await threads.retrieve(thread.id)).metadata, { a: 'b' });
    const message = await messages.create(thread.id, { role: 'user', content: 'What is my name?' });
    equal(said(await messages.retrieve(...inThread(thread.id, message.id))), 'What is my name?');
    equal((await collect(messages.list(thread.id, { limit: 1 }))).map(said), ['What is my name?', 'My name is Ada.']);
    const spare = await messages.create(thread.id, { role: 'assistant', content: 'Spare.' });
    equal((await remove(messages, ...inThread(thread.id, spare.id))).deleted, true);
    equal((await remove(threads, (await threads.create()).id)).deleted, true);
  });

  await doing('run: createAndPoll, steps', async () => {
    const run = await runs.createAndPoll(thread.id, { assistant_id: assistant.id }, QUICK);
    equal(run.status, 'completed');
    equal(said((await messages.list(thread.id)).data[0]), 'Your name is Ada.');
    const steps = isOld
      ? runs.steps.list(thread.id, run.id)
      : runs.steps.list(run.id, { thread_id: thread.id });
    equal((await collect(steps)).map((step) => step.type), ['message_creation']);
    equal((await collect(runs.list(thread.id))).map((r) => r.id), [run.id]);
  });

  await doing("run: the poll helper's own pace (openai-poll-after-ms or its default)", async () => {
    const run = await threads.createAndRunPoll({ assistant_id: assistant.id, thread: user('say: Yes.') });
    equal(run.status, 'completed');
  });

  await doing('functions, two at once: requires_action, submitToolOutputsAndPoll', async () => {
    const asked = user(`${ASKS_WEATHER}\ncall get_weather {"city": "Rome"}`);
    let run = await threads.createAndRunPoll({ assistant_id: assistant.id, thread: asked }, QUICK);
    equal(run.status, 'requires_action');
    const calls = run.required_action.submit_tool_outputs.tool_calls;
    const outputs = calls.map((call, n) => ({ tool_call_id: call.id, output: `${n} degrees` }));
    run = await submit(run, outputs, (...args) => runs.submitToolOutputsAndPoll(...args, QUICK));
    equal(run.status, 'completed');
    equal(
      said((await messages.list(run.thread_id)).data[0]),
      'get_weather answered: 0 degrees\nget_weather answered: 1 degrees',
    );
  });

  await doing('stream: true: the events in their order', async () => {
    const events = await threads.createAndRun({ assistant_id: assistant.id, thread: user('say: One two'), stream: true });
    const names = (await collect(events)).map((event) => event.event).filter((name) => !name.endsWith('delta'));
    equal(names[0], 'thread.created');
    equal(names.at(-1), 'thread.run.completed');
    equal(names.length, 11);
  });

  await doing('AssistantStream: function call, submitToolOutputsStream, its events', async () => {
    thread = await threads.create(user(ASKS_WEATHER));
    let stream = runs.stream(thread.id, { assistant_id: assistant.id });
    let seen = watched(stream);
    const run = await stream.finalRun();
    equal(run.status, 'requires_action');
    equal(seen.names.slice(0, 2), ['runStepCreated', 'toolCallCreated']);
    equal(seen.events.at(-1), 'thread.run.requires_action');
    const [call] = run.required_action.submit_tool_outputs.tool_calls;
    stream = submit(run, [{ tool_call_id: call.id, output: '4 degrees' }], (...args) =>
      runs.submitToolOutputsStream(...args),
    );
    seen = watched(stream);
    equal((await stream.finalMessages()).map(said), ['get_weather answered: 4 degrees']);
    equal((await stream.finalRun()).status, 'completed');
    equal(seen.text, 'get_weather answered: 4 degrees');
    equal(seen.events[0], 'thread.run.step.completed');
    equal(
      seen.names.filter((name) => name.startsWith('message') || name.startsWith('text') || name === 'end'),
      ['messageCreated', 'textCreated', 'textDone', 'messageDone', 'end'],
    );
    ok((await stream.finalRunSteps()).length >= 1);
  });

  await doing('AssistantStream: toReadableStream and fromReadableStream', async () => {
    const { AssistantStream } = require('openai/lib/AssistantStream');
    const stream = threads.createAndRunStream({ assistant_id: assistant.id, thread: user('count to 20') });
    const seen = watched(AssistantStream.fromReadableStream(stream.toReadableStream()));
    await stream.done();
    await new Promise((resolve) => setTimeout(resolve, 0));
    while (!seen.names.includes('end')) await new Promise((resolve) => setTimeout(resolve, 5));
    equal(seen.text, Array.from({ length: 20 }, (_, n) => n + 1).join(' '));
  });

  await doing('AssistantStream: ten at once', async () => {
    const texts = await Promise.all(
      Array.from({ length: 10 }, async (_, n) => {
        const stream = threads.createAndRunStream({ assistant_id: assistant.id, thread: user(`say: Number ${n}`) });
        return said((await stream.finalMessages())[0]);
      }),
    );
    equal(texts, Array.from({ length: 10 }, (_, n) => `Number ${n}`));
  });

  await doing('AssistantStream: a failing model ends it', async () => {
    const stream = threads.createAndRunStream({ assistant_id: assistant.id, thread: user('fail: server_error Sorry.') });
    const run = await stream.finalRun();
    equal([run.status, run.last_error.message], ['failed', 'Sorry.']);
  });

  await doing('cancel; the thread is locked while a run is active', async () => {
    const run = await threads.createAndRun({ assistant_id: assistant.id, model: SLOW, thread: user('count to 500') });
    const error = await refused(messages.create(run.thread_id, { role: 'user', content: 'Stop!' }));
    ok(error instanceof OpenAI.BadRequestError && error.message.includes("Can't add messages to thread_"), error.message);
    ok(['cancelling', 'cancelled'].includes((await runs.cancel(...inThread(run.thread_id, run.id))).status));
    const ended = isOld
      ? await runs.poll(run.thread_id, run.id, QUICK)
      : await runs.poll(run.id, { thread_id: run.thread_id }, QUICK);
    equal(ended.status, 'cancelled');
  });

  await doing("errors are the SDK's classes, with code and param", async () => {
    const missing = await refused(threads.retrieve('thread_000000000000000000000000'));
    ok(missing instanceof OpenAI.NotFoundError, missing);
    const unknown = await refused(assistants.create({ model: MODEL, colour: 'red' }));
    equal([unknown.status, unknown.code, unknown.param], [400, 'unknown_parameter', 'colour']);
    // What callers of the older argument order send to the newer one.
    const swapped = await refused(client.get('/threads/undefined/messages'));
    ok(swapped.message.includes("Invalid 'thread_id': 'undefined'."), swapped.message);
  });

  await doing('files: upload, list, retrieve, content, delete; as an attachment', async () => {
    const file = await client.files.create({
      file: fs.createReadStream(written('notes.txt', 'Water boils at 100 degrees.')),
      purpose: 'assistants',
    });
    equal((await client.files.waitForProcessing(file.id)).status, 'processed');
    ok((await collect(client.files.list())).some((f) => f.id === file.id));
    equal(await (await client.files.content(file.id)).text(), 'Water boils at 100 degrees.');
    const attachments = [{ file_id: file.id, tools: [{ type: 'code_interpreter' }] }];
    const message = await messages.create(thread.id, { role: 'user', content: 'Look.', attachments });
    equal(message.attachments[0].file_id, file.id);
    equal((await remove(client.files, file.id)).deleted, true);
  });

  const store = await client.vectorStores.create({ name: 'Handbooks' });
  await doing('vectorStores: create, fileBatches.uploadAndPoll, files, search, update', async () => {
    const files = [written('boiling.md', BOILING), written('freezing.md', 'Ice melts at 0 degrees.')];
    const batch = await client.vectorStores.fileBatches.uploadAndPoll(
      store.id, { files: files.map((name) => fs.createReadStream(name)) }, QUICK,
    );
    equal([batch.status, batch.file_counts.completed], ['completed', 2]);
    const extra = fs.createReadStream(written('extra.txt', 'Steam is hot.'));
    const added = await client.vectorStores.files.uploadAndPoll(store.id, extra, QUICK);
    equal(added.status, 'completed');
    equal((await collect(client.vectorStores.files.list(store.id))).length, 3);
    const [hit] = await collect(client.vectorStores.search(store.id, { query: 'When does water boil?' }));
    equal([hit.filename, hit.content[0].text], ['boiling.md', BOILING]);
    const removed = isOld
      ? await client.vectorStores.files.del(store.id, added.id)
      : await client.vectorStores.files.delete(added.id, { vector_store_id: store.id });
    equal(removed.deleted, true);
    equal((await client.vectorStores.update(store.id, { name: 'Physics' })).name, 'Physics');
    ok((await collect(client.vectorStores.list())).some((s) => s.id === store.id));
  });

  await doing('file search: createAndRunPoll and AssistantStream, a file_citation in the answer', async () => {
    const reader = await assistants.create({
      model: MODEL,
      tools: [{ type: 'file_search' }],
      tool_resources: { file_search: { vector_store_ids: [store.id] } },
    });
    const run = await threads.createAndRunPoll({ assistant_id: reader.id, thread: user(ASKS_BOILING) }, QUICK);
    equal(run.status, 'completed');
    const [{ text }] = (await messages.list(run.thread_id)).data[0].content;
    ok(text.value.includes(BOILING), text);
    const [cited] = text.annotations;
    equal([cited.type, text.value.slice(cited.start_index, cited.end_index)], ['file_citation', cited.text]);
    const stream = threads.createAndRunStream({ assistant_id: reader.id, thread: user(ASKS_BOILING) });
    const [message] = await stream.finalMessages();
    // Up to version 6 the helper leaves the index of the delta in it.
    const { index, ...streamed } = message.content[0].text.annotations[0];
    equal(streamed, cited);
    equal((await remove(client.vectorStores, store.id)).deleted, true);
  });

  if (runsCode('code interpreter')) {
    await doing('code interpreter: a file in, its input and output streamed, a file_path in the answer', async () => {
      const file = await client.files.create({
        file: fs.createReadStream(written('data.csv', 'a,b\n1,2\n')),
        purpose: 'assistants',
      });
      const coder = await assistants.create({
        model: MODEL,
        tools: [{ type: 'code_interpreter' }],
        tool_resources: { code_interpreter: { file_ids: [file.id] } },
      });
      const code = [
        "text = open('/mnt/data/data.csv').read()",
        "open('/mnt/data/copy.csv', 'w').write(text.upper())",
        "print('[it](sandbox:/mnt/data/copy.csv)', len(text))",
      ].join('\n');
      const stream = threads.createAndRunStream({ assistant_id: coder.id, thread: user(asksToRun(code)) });
      const seen = { input: '', logs: '' };
      stream.on('toolCallDelta', ({ code_interpreter: delta }) => {
        seen.input += delta.input ?? '';
        for (const output of delta.outputs ?? []) seen.logs += output.logs;
      });
      const [message] = await stream.finalMessages();
      equal(seen, { input: code, logs: '[it](sandbox:/mnt/data/copy.csv) 8\n' });
      const [link] = message.content[0].text.annotations;
      equal(link.type, 'file_path');
      equal(await (await client.files.content(link.file_path.file_id)).text(), 'A,B\n1,2\n');
    });
  }

  await doing('models; chat completions on the same base URL', async () => {
    ok((await collect(client.models.list())).some((model) => model.id === MODEL));
    const asked = { model: MODEL, messages: [{ role: 'user', content: 'say: Hel lo' }] };
    equal((await client.chat.completions.create(asked)).choices[0].message.content, 'Hel lo');
    const chunks = await collect(await client.chat.completions.create({ ...asked, stream: true }));
    equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), 'Hel lo');
  });

  await doing('AzureOpenAI: assistant, thread, run by poll, stream, chat deployment', async () => {
    const azure = new OpenAI.AzureOpenAI({
      endpoint: serverUrl(), apiKey: client.apiKey, apiVersion: '2024-05-01-preview', baseURL: null,
    });
    const theirs = await azure.beta.assistants.create({ model: MODEL, name: 'Azure' });
    const run = await azure.beta.threads.createAndRunPoll({ assistant_id: theirs.id, thread: user('say: Azure.') }, QUICK);
    equal(said((await azure.beta.threads.messages.list(run.thread_id)).data[0]), 'Azure.');
    const stream = azure.beta.threads.createAndRunStream({ assistant_id: theirs.id, thread: user('say: Streamed.') });
    equal((await stream.finalMessages()).map(said), ['Streamed.']);
    const asked = { model: MODEL, messages: [{ role: 'user', content: 'say: Deployed.' }] };
    equal((await azure.chat.completions.create(asked)).choices[0].message.content, 'Deployed.');
    await remove(azure.beta.assistants, theirs.id);
  });

  await doing('delete the assistant and the thread', async () => {
    equal((await remove(threads, thread.id)).deleted, true);
    equal((await remove(assistants, assistant.id)).deleted, true);
  });

});
