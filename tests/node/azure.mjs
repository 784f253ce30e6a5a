// Azure's client of the openai SDK for Node: `node azure.mjs ENDPOINT KEY MODEL`. Prints what it got, as JSON.
import { AzureOpenAI } from "openai";

const [, , endpoint, apiKey, model] = process.argv;
const client = new AzureOpenAI({ endpoint, apiKey, apiVersion: "2024-05-01-preview", maxRetries: 0 });

const assistant = await client.beta.assistants.create({ model });
const thread = await client.beta.threads.create({ messages: [{ role: "user", content: "Hi" }] });
const stream = client.beta.threads.runs.stream(thread.id, { assistant_id: assistant.id });
const events = [];
stream.on("event", (event) => events.push(event.event));
const streamed = await stream.finalRun();
const polled = await client.beta.threads.runs.createAndPoll(
  thread.id,
  { assistant_id: assistant.id },
  { pollIntervalMs: 50 },
);
const texts = [];
for await (const message of client.beta.threads.messages.list(thread.id, { order: "asc" })) {
  texts.push(message.content[0].text.value);
}
console.log(JSON.stringify({ events, streamed: streamed.status, polled: polled.status, texts }));
