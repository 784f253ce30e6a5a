// What the assistants examples of openai-node's repository tell, in words of our own: ask, stream, read raw events.
'use strict';
const OpenAI = require('openai');
const { MODEL, doing, equal, main } = require('./told.cjs');

const { assistants, threads } = new OpenAI().beta;
const SOLVE = 'Solve 3x + 11 = 14 for me.\nsay: Subtract 11, divide by 3: x = 1.';
const ANSWER = 'Subtract 11, divide by 3: x = 1.';
let assistant;

const asked = async () => {
  const thread = await threads.create();
  await threads.messages.create(thread.id, { role: 'user', content: SOLVE });
  return thread.id;
};

main(async () => {
  await doing('assistants: a tutor, a question, createAndPoll, the conversation read back', async () => {
    assistant = await assistants.create({
      name: 'Tutor',
      instructions: 'Teach mathematics. Run code where it helps.',
      tools: [{ type: 'code_interpreter' }],
      model: MODEL,
    });
    const thread = await asked();
    const run = await threads.runs.createAndPoll(thread, {
      assistant_id: assistant.id,
      additional_instructions: 'Call the pupil Jane.',
    });
    equal(run.status, 'completed');
    const conversation = [];
    for await (const { role, content } of threads.messages.list(thread, { order: 'asc' }))
      conversation.push([role, content[0].text.value]);
    equal(conversation, [
      ['user', SOLVE],
      ['assistant', ANSWER],
    ]);
  });

  await doing('assistant-stream: the helper, its events chained', async () => {
    const seen = [];
    const stream = threads.runs
      .stream(await asked(), { assistant_id: assistant.id })
      .on('runStepCreated', (step) => seen.push(step.type))
      .on('textCreated', () => seen.push('text'))
      .on('textDone', (text) => seen.push(text.value))
      .on('messageDone', (message) => seen.push(message.status))
      .on('runStepDone', (step) => seen.push(step.status));
    const run = await stream.finalRun();
    equal([run.status, seen], ['completed', ['message_creation', 'text', ANSWER, 'completed', 'completed']]);
  });

  await doing('assistant-stream-raw: stream: true, deltas by the name of the event', async () => {
    let text = '';
    for await (const event of await threads.runs.create(await asked(), { assistant_id: assistant.id, stream: true }))
      if (event.event === 'thread.message.delta')
        for (const part of event.data.delta.content) text += part.text.value;
    equal(text, ANSWER);
    equal((await assistants.delete(assistant.id)).deleted, true);
  });
});
