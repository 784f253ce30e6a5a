// One story of function calling with the openai SDK for Node: `node story.mjs BASE_URL KEY MODEL`.
// Prints what the SDK's stream told, as one JSON object.
import OpenAI from "openai";

const [, , baseURL, apiKey, model] = process.argv;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const threads = client.beta.threads;

function record(stream) {
  const heard = [];
  const events = [];
  stream
    .on("event", (event) => events.push(event.event))
    .on("runStepCreated", (step) => heard.push(["step created", step.type]))
    .on("runStepDone", (step) => heard.push(["step done", step.status]))
    .on("toolCallCreated", (call) => heard.push(["call created", call.function.name]))
    .on("toolCallDelta", (delta, call) => heard.push(["call delta", call.function.arguments]))
    .on("toolCallDone", (call) => heard.push(["call done", call.function.arguments]))
    .on("messageCreated", (message) => heard.push(["message created", message.status]))
    .on("messageDone", (message) => heard.push(["message done", message.status]))
    .on("textCreated", () => heard.push(["text created", null]))
    .on("textDelta", (delta, text) => heard.push(["text delta", [delta.value, text.value]]))
    .on("textDone", (text) => heard.push(["text done", text.value]))
    .on("end", () => heard.push(["end", null]));
  return { heard, events };
}

const assistant = await client.beta.assistants.create({
  model,
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      },
    },
  ],
});
const thread = await threads.create({ messages: [{ role: "user", content: "Weather?" }] });

const asking = threads.runs.stream(thread.id, { assistant_id: assistant.id });
const asked = record(asking);
const waiting = await asking.finalRun();
const calls = waiting.required_action.submit_tool_outputs.tool_calls;

const answering = threads.runs.submitToolOutputsStream(waiting.id, {
  thread_id: thread.id,
  tool_outputs: calls.map((call) => ({ tool_call_id: call.id, output: `${call.function.arguments}: sun` })),
});
const answered = record(answering);
const run = await answering.finalRun();
const messages = await answering.finalMessages();

const steps = [];
for await (const step of threads.runs.steps.list(run.id, { thread_id: thread.id, order: "asc", limit: 1 })) {
  steps.push(step.type);
}

console.log(
  JSON.stringify({
    asked,
    waiting: waiting.status,
    calls: calls.map((call) => call.function),
    answered,
    run: run.status,
    text: messages.map((message) => message.content[0].text.value),
    steps,
  }),
);
