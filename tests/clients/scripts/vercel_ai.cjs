// Vercel AI SDK 4: AssistantResponse in a route of a server, with openai-node; useAssistant in React without a browser.
'use strict';
const http = require('node:http');
const { Readable } = require('node:stream');
const OpenAI = require('openai');
const { AssistantResponse } = require('ai');
const { useAssistant } = require('@ai-sdk/react');
const React = require('react');
const { act, create } = require('react-test-renderer');
const { MODEL, WEATHER, ASKS_WEATHER, doing, equal, main, ok } = require('./told.cjs');

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const { beta } = new OpenAI();
let assistant;

// The route that the SDK's documentation describes: forward the run, answer its calls, forward what follows.
const route = async ({ threadId, message }) => {
  const thread = threadId ?? (await beta.threads.create({})).id;
  const { id } = await beta.threads.messages.create(thread, { role: 'user', content: message });
  return AssistantResponse({ threadId: thread, messageId: id }, async ({ forwardStream, sendDataMessage }) => {
    let run = await forwardStream(beta.threads.runs.stream(thread, { assistant_id: assistant.id }));
    while (run?.status === 'requires_action') {
      const tool_outputs = run.required_action.submit_tool_outputs.tool_calls.map((call) => {
        const { city } = JSON.parse(call.function.arguments);
        sendDataMessage({ role: 'data', data: { city } });
        return { tool_call_id: call.id, output: `4 degrees in ${city}` };
      });
      run = await forwardStream(beta.threads.runs.submitToolOutputsStream(thread, run.id, { tool_outputs }));
    }
  });
};

const served = () =>
  new Promise((resolve) => {
    const server = http.createServer(async (request, response) => {
      let body = '';
      for await (const piece of request) body += piece;
      const answer = await route(JSON.parse(body));
      response.writeHead(answer.status, Object.fromEntries(answer.headers));
      Readable.fromWeb(answer.body).pipe(response);
    });
    server.listen(0, '127.0.0.1', () => resolve(server));
  });

main(async () => {
  await doing('AssistantResponse: text', async () => {
    assistant = await beta.assistants.create({ model: MODEL, tools: [WEATHER] });
    const parts = (await (await route({ threadId: null, message: 'say: One two' })).text()).trim().split('\n');
    ok(parts[0].startsWith('5:{"threadId":"thread_'), parts);
    ok(parts[1].startsWith('4:{"id":"msg_'), parts);
    equal(parts.slice(2).map((part) => JSON.parse(part.slice(2))).join(''), 'One two');
  });

  await doing('AssistantResponse: a function call, submitToolOutputsStream', async () => {
    const parts = (await (await route({ threadId: null, message: ASKS_WEATHER })).text()).trim().split('\n');
    equal(parts.map((part) => part[0]).filter((kind, n, all) => kind !== all[n - 1]), ['5', '6', '4', '0']);
    const text = parts.filter((part) => part[0] === '0').map((part) => JSON.parse(part.slice(2)));
    equal(text.join(''), 'get_weather answered: 4 degrees in Oslo');
  });

  await doing('useAssistant, rendered without a browser: append twice on one thread, a function call', async () => {
    const server = await served();
    let state;
    const Chat = () => {
      state = useAssistant({ api: `http://127.0.0.1:${server.address().port}/api/assistant` });
      return null;
    };
    await act(async () => void create(React.createElement(Chat)));
    for (const content of ['My name is Ada.', 'What is my name?', ASKS_WEATHER])
      await act(async () => state.append({ role: 'user', content }));
    equal(state.status, 'awaiting_message');
    equal(state.error, undefined);
    ok(state.threadId.startsWith('thread_'), state.threadId);
    equal(
      state.messages.map(({ role, content, data }) => [role, content, data?.city]),
      [
        ['user', 'My name is Ada.', undefined],
        ['assistant', 'I will remember that your name is Ada.', undefined],
        ['user', 'What is my name?', undefined],
        ['assistant', 'Your name is Ada.', undefined],
        ['user', ASKS_WEATHER, undefined],
        ['data', '', 'Oslo'],
        ['assistant', 'get_weather answered: 4 degrees in Oslo', undefined],
      ],
    );
    server.close();
    server.closeAllConnections();
  });
});
