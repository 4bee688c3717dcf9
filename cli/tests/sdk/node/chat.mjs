// Chats: buffered and streamed, with and without usage, and the list of models.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { HELLO, KEYS, MODEL, check, collect, run, thrown } from "./runner.mjs";

const client = new OpenAI();
const chat = (options = {}) => client.chat.completions.create({ model: MODEL, messages: HELLO, ...options });
const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

check(async function aBufferedChat() {
  const completion = await chat();
  assert.equal(completion.object, "chat.completion");
  const [choice] = completion.choices;
  assert.deepEqual([choice.index, choice.finish_reason, choice.message.role], [0, "stop", "assistant"]);
  assert.ok(choice.message.content);
  const { prompt_tokens, completion_tokens, total_tokens } = completion.usage;
  assert.ok(prompt_tokens > 0 && completion_tokens > 0);
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
});

check(async function aStreamedChatHasNoUsageUnlessAsked() {
  const chunks = await collect(await chat({ stream: true }));
  assert.equal(text(chunks), (await chat()).choices[0].message.content);
  assert.ok(chunks.every((chunk) => chunk.choices.length === 1 && !("usage" in chunk)));
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
});

check(async function aStreamedChatEndsWithUsageWhenAsked() {
  const chunks = await collect(await chat({ stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.ok(chunks.every((chunk) => chunk.usage === null));
  assert.equal(last.usage.total_tokens, (await chat()).usage.total_tokens);
});

check(async function theStreamHelperBuildsTheCompletion() {
  const stream = client.chat.completions.stream({ model: MODEL, messages: HELLO });
  let seen = "";
  stream.on("content", (delta) => (seen += delta));
  const final = await stream.finalChatCompletion();
  assert.ok(seen);
  assert.equal(final.choices[0].message.content, seen);
  assert.equal(await stream.finalContent(), seen);
});

check(async function aStreamMayBeLeftEarly() {
  const stream = await chat({ stream: true });
  for await (const chunk of stream) {
    assert.ok(chunk.choices);
    break;
  }
  assert.ok(stream.controller.signal.aborted);
  assert.ok((await chat()).choices);
});

check(async function severalChoices() {
  assert.deepEqual((await chat({ n: 3 })).choices.map((choice) => choice.index), [0, 1, 2]);
  const chunks = await collect(await chat({ n: 3, stream: true }));
  const seen = new Set(chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.index)));
  assert.deepEqual([...seen].sort(), [0, 1, 2]);
});

check(async function anOutputLimitCutsTheAnswer() {
  const completion = await chat({ max_completion_tokens: 3 });
  assert.equal(completion.choices[0].finish_reason, "length");
  assert.equal(completion.usage.completion_tokens, 3);
});

check(async function anyTextArrivesAsItWasWritten() {
  const written = 'é ü 東京 \u{1f600} "quoted" \\ back\nline\ttab \u2028 end';
  const messages = [
    { role: "system", content: "Answer in JSON." },
    { role: "user", content: [{ type: "text", text: written }] },
  ];
  const completion = await chat({ messages, response_format: { type: "json_object" }, not_known_here: [1.5] });
  assert.equal(JSON.parse(completion.choices[0].message.content).echo, written);
});

check(async function headersTellWhatWasDone() {
  const { data, response, request_id } = await chat().withResponse();
  const headers = response.headers;
  assert.ok(request_id);
  assert.deepEqual([headers.get("x-request-id"), data._request_id], [request_id, request_id]);
  assert.equal(headers.get("x-keyforge-key-id"), client.apiKey.slice(0, 15));
  assert.equal(headers.get("x-keyforge-provider"), "openai");
  assert.equal(headers.get("x-keyforge-model"), MODEL);
  assert.equal(headers.get("x-keyforge-attempts"), "1");
  assert.match(headers.get("x-keyforge-cost-usd"), /^0\.\d+$/);
  assert.ok(Number(headers.get("x-keyforge-cost-usd")) > 0);
  assert.ok(Number(headers.get("x-keyforge-budget-remaining-usd")) > 0);
  const raw = await chat({ stream: true }).asResponse();
  assert.match(raw.headers.get("content-type"), /^text\/event-stream/);
  assert.ok((await raw.text()).endsWith("data: [DONE]\n\n"));
});

check(async function modelsAreListedAndRetrieved() {
  const names = (await collect(client.models.list())).map((model) => model.id);
  assert.ok(names.includes(MODEL));
  assert.equal(new Set(names).size, names.length);
  const model = await client.models.retrieve(MODEL);
  assert.deepEqual([model.id, model.object, model.owned_by], [MODEL, "model", "openai"]);
  await thrown(OpenAI.NotFoundError, () => client.models.retrieve("no-such-model"));
});

check(async function aKeySeesTheModelsOfItsPolicy() {
  const narrow = client.withOptions({ apiKey: KEYS.narrow });
  const names = (await collect(narrow.models.list())).map((model) => model.id);
  assert.ok(names.length > 0 && names.every((name) => name.startsWith(MODEL)), `${names}`);
  await thrown(OpenAI.NotFoundError, () => narrow.models.retrieve("gpt-4o"));
});

check(async function manyAtOnce() {
  const completions = await Promise.all(Array.from({ length: 8 }, () => chat()));
  assert.equal(new Set(completions.map((completion) => completion._request_id)).size, 8);
  const streams = await Promise.all(Array.from({ length: 8 }, async () => text(await collect(await chat({ stream: true })))));
  assert.deepEqual(new Set(streams), new Set([completions[0].choices[0].message.content]));
});

await run();
