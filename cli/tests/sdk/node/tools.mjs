// Tool calls and answers bound to a schema: buffered, streamed, in parallel, and over several turns.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { MODEL, check, collect, run } from "./runner.mjs";

const client = new OpenAI();
const messages = [{ role: "user", content: "What is the weather in Tokyo, and what time is it there?" }];
const chat = (options) => client.chat.completions.create({ model: MODEL, messages, ...options });

function tool(name, properties) {
  const parameters = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  return { type: "function", function: { name, strict: true, parameters } };
}

const tools = [
  tool("weather", { city: { type: "string" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } }),
  tool("local_time", { zone: { type: "string" }, offsets: { type: "array", items: { type: "integer" } } }),
];

const Trip = z.object({
  title: z.string(),
  places: z.array(
    z.object({ city: z.string(), kind: z.enum(["capital", "harbour"]), people: z.number(), mayor: z.string().nullable() }),
  ),
  booked: z.boolean(),
});

/** The calls of a stream: name and id come once, arguments in pieces, and only the index tells calls apart. */
function assembled(chunks) {
  const calls = [];
  let finish;
  for (const choice of chunks.flatMap((chunk) => chunk.choices)) {
    finish = choice.finish_reason ?? finish;
    for (const piece of choice.delta.tool_calls ?? []) {
      const call = (calls[piece.index] ??= { arguments: "", pieces: 0 });
      call.id ??= piece.id;
      call.name ??= piece.function.name;
      call.arguments += piece.function.arguments ?? "";
      call.pieces += 1;
    }
  }
  return { calls, finish };
}

function fits(name, args) {
  const value = JSON.parse(args);
  if (name === "weather") {
    assert.equal(typeof value.city, "string");
    assert.equal(value.unit, "celsius");
  } else {
    assert.equal(name, "local_time");
    assert.equal(typeof value.zone, "string");
    assert.ok(value.offsets.length > 0 && value.offsets.every(Number.isInteger), args);
  }
}

check(async function oneCall() {
  const [choice] = (await chat({ tools })).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call, ...more] = choice.message.tool_calls;
  assert.deepEqual([call.type, more], ["function", []]);
  fits(call.function.name, call.function.arguments);
});

check(async function oneStreamedCall() {
  const { calls, finish } = assembled(await collect(await chat({ tools, stream: true })));
  assert.equal(finish, "tool_calls");
  assert.equal(calls.length, 1);
  assert.ok(calls[0].id && calls[0].pieces > 2);
  fits(calls[0].name, calls[0].arguments);
});

check(async function parallelCalls() {
  const asked = { tools, parallel_tool_calls: true };
  const { tool_calls } = (await chat(asked)).choices[0].message;
  const { calls } = assembled(await collect(await chat({ ...asked, stream: true })));
  for (const found of [tool_calls.map((call) => ({ id: call.id, ...call.function })), calls]) {
    assert.deepEqual(found.map((call) => call.name), ["weather", "local_time"]);
    assert.equal(new Set(found.map((call) => call.id)).size, 2);
    for (const call of found) fits(call.name, call.arguments);
  }
});

check(async function aForcedCall() {
  const choice = { type: "function", function: { name: "local_time" } };
  const [call] = (await chat({ tools, tool_choice: choice })).choices[0].message.tool_calls;
  fits("local_time", call.function.arguments);
});

check(async function severalTurnsWithResults() {
  const first = (await chat({ tools, parallel_tool_calls: true })).choices[0].message;
  const results = first.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: '{"temperature":21.5}' }));
  const history = [...messages, first, ...results];
  const second = await chat({ tools, messages: history });
  assert.equal(second.choices[0].finish_reason, "stop");
  history.push(second.choices[0].message, { role: "user", content: "And tomorrow?" });
  const { calls } = assembled(await collect(await chat({ tools, messages: history, stream: true })));
  fits(calls[0].name, calls[0].arguments);
});

check(async function theToolRunnerGoesThroughAllTurns() {
  const asked = [];
  const weather = {
    ...tools[0],
    function: { ...tools[0].function, parse: JSON.parse, function: (args) => (asked.push(args), "sunny") },
  };
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools({ model: MODEL, messages, tools: [weather], stream });
    assert.ok(await runner.finalContent());
    const roles = runner.messages.map((message) => message.role);
    assert.deepEqual(roles, ["user", "assistant", "tool", "assistant"]);
  }
  assert.deepEqual(asked.map((args) => args.unit), ["celsius", "celsius"]);
});

check(async function anAnswerParsedBySchema() {
  const format = zodResponseFormat(Trip, "trip");
  const completion = await client.chat.completions.parse({ model: MODEL, messages, response_format: format });
  const { parsed, content } = completion.choices[0].message;
  assert.ok(parsed.places.length > 0);
  assert.deepEqual(parsed, Trip.parse(JSON.parse(content)));
});

check(async function callsParsedBySchema() {
  const book = zodFunction({ name: "book", parameters: Trip });
  const completion = await client.chat.completions.parse({ model: MODEL, messages, tools: [book] });
  const [call] = completion.choices[0].message.tool_calls;
  assert.equal(call.function.name, "book");
  Trip.parse(call.function.parsed_arguments);
});

check(async function theStreamHelperParsesAnswersAndCalls() {
  const format = zodResponseFormat(Trip, "trip");
  const answer = client.chat.completions.stream({ model: MODEL, messages, response_format: format });
  Trip.parse((await answer.finalMessage()).parsed);

  const book = zodFunction({ name: "book", parameters: Trip });
  const calling = client.chat.completions.stream({ model: MODEL, messages, tools: [book] });
  let pieces = 0;
  calling.on("tool_calls.function.arguments.delta", () => (pieces += 1));
  const [call] = (await calling.finalMessage()).tool_calls;
  Trip.parse(call.function.parsed_arguments);
  assert.ok(pieces > 2);
});

await run();
