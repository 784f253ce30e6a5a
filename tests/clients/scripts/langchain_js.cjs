// LangChain.js: OpenAIAssistantRunnable, plain and as an agent with a tool.
'use strict';
const { OpenAIAssistantRunnable } = require('langchain/experimental/openai_assistant');
const { AgentExecutor } = require('langchain/agents');
const { tool } = require('@langchain/core/tools');
const { z } = require('zod');
const { ASKS_WEATHER, MODEL, doing, equal, main, ok, refused } = require('./told.cjs');

const weather = tool(async ({ city }) => `4 degrees in ${city}`, {
  name: 'get_weather',
  description: 'The weather in a city.',
  schema: z.object({ city: z.string() }),
});
const ANSWER = 'get_weather answered: 4 degrees in Oslo';

main(async () => {
  let plain;

  await doing('createAssistant; a new thread, and a second question on it', async () => {
    plain = await OpenAIAssistantRunnable.createAssistant({ name: 'Helper', instructions: 'Be brief.', model: MODEL });
    plain.pollIntervalMs = 50;
    let [message] = await plain.invoke({ content: 'My name is Ada.' });
    [message] = await plain.invoke({ content: 'What is my name?', threadId: message.thread_id });
    equal(message.content[0].text.value, 'Your name is Ada.');
  });

  await doing('as an agent, tools run by hand', async () => {
    const agent = await OpenAIAssistantRunnable.createAssistant({ model: MODEL, tools: [weather], asAgent: true });
    agent.pollIntervalMs = 50;
    const [action] = await agent.invoke({ content: ASKS_WEATHER });
    equal([action.tool, action.toolInput], ['get_weather', { city: 'Oslo' }]);
    const finished = await agent.invoke({
      threadId: action.threadId,
      runId: action.runId,
      toolOutputs: [{ tool_call_id: action.toolCallId, output: '4 degrees in Oslo' }],
    });
    equal(finished.returnValues.output, ANSWER);
  });

  await doing('as an agent in an AgentExecutor', async () => {
    const agent = await OpenAIAssistantRunnable.createAssistant({ model: MODEL, tools: [weather], asAgent: true });
    agent.pollIntervalMs = 50;
    const executor = AgentExecutor.fromAgentAndTools({ agent, tools: [weather] });
    equal((await executor.invoke({ content: ASKS_WEATHER })).output, ANSWER);
  });

  await doing('a failed run is an error', async () => {
    const error = await refused(plain.invoke({ content: 'fail: server_error Sorry.' }));
    ok(error.message.includes('Unexpected run status failed.'), error.message);
  });

  await doing('getAssistant, modifyAssistant, deleteAssistant', async () => {
    equal((await plain.modifyAssistant({ instructions: 'Be long.' })).instructions, 'Be long.');
    equal((await plain.getAssistant()).name, 'Helper');
    equal((await plain.deleteAssistant()).deleted, true);
  });
});
