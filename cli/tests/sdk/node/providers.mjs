// The same program against three providers, by openai-node and by the Vercel AI SDK: nothing but the name of the model differs.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { HELLO, check, collect, run } from "./runner.mjs";

const MODELS = ["gpt-4o-mini", "claude-sonnet-4-5", "claude-3-7-sonnet", "gemini-2.5-flash", "gemini-3-pro-preview"];
const client = new OpenAI();
const keyforge = createOpenAICompatible({
  name: "keyforge",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const Place = z.object({ name: z.string(), people: z.number().int() });
const WEATHER = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false },
  },
};

for (const model of MODELS) {
  const named = (name, body) => {
    Object.defineProperty(body, "name", { value: `${name} ${model}` });
    check(body);
  };

  named("openai-node chats and streams", async () => {
    const whole = await client.chat.completions.create({ model, messages: HELLO });
    const chunks = await collect(await client.chat.completions.create({ model, messages: HELLO, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), whole.choices[0].message.content);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  });

  named("openai-node runs tools and parses answers", async () => {
    const messages = [...HELLO];
    const stream = client.chat.completions.stream({ model, messages, tools: [WEATHER] });
    const { message } = (await stream.finalChatCompletion()).choices[0];
    const [call] = message.tool_calls;
    assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
    messages.push(message, { role: "tool", tool_call_id: call.id, content: "sunny" });
    assert.ok((await client.chat.completions.create({ model, messages, tools: [WEATHER] })).choices[0].message.content);
    const format = zodResponseFormat(Place, "place");
    const parsed = await client.chat.completions.parse({ model, messages: HELLO, response_format: format });
    Place.parse(parsed.choices[0].message.parsed);
  });

  named("ai-sdk generates and streams", async () => {
    const { text, usage, finishReason } = await generateText({ model: keyforge(model), prompt: "Hello there" });
    assert.ok(text && usage.inputTokens > 0 && usage.outputTokens > 0);
    assert.equal(finishReason, "stop");
    const stream = streamText({ model: keyforge(model), prompt: "Hello there", onError: ({ error }) => { throw error; } });
    assert.equal((await collect(stream.textStream)).join(""), text);
    assert.equal((await stream.usage).outputTokens, usage.outputTokens);
  });

  named("ai-sdk runs tools", async () => {
    const asked = [];
    const weather = tool({
      description: "The weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => {
        asked.push(city);
        return { sky: "clear" };
      },
    });
    const options = { model: keyforge(model), tools: { weather }, prompt: "The weather in Oslo?", stopWhen: stepCountIs(3) };
    assert.ok((await generateText(options)).text);
    assert.equal(asked.length, 1);
    assert.ok(await streamText(options).text);
    assert.equal(asked.length, 2);
  });

  named("ai-sdk structures its output", async () => {
    const output = Output.object({ schema: Place });
    Place.parse((await generateText({ model: keyforge(model), prompt: "Which place?", output })).output);
  });
}

run();
