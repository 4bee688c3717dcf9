// What is refused throws the client's own error of that kind, is tried again only where that can help, and says why.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { HELLO, KEYS, MODEL, check, collect, counted, run, thrown, withoutWaiting } from "./runner.mjs";

const chat = (client, options = {}) => client.chat.completions.create({ model: MODEL, messages: HELLO, ...options });

check(async function anUnknownKeyIsAnAuthenticationError() {
  for (const key of ["unknown", "mistyped", "foreign"]) {
    const { client, statuses } = counted(key);
    const error = await thrown(OpenAI.AuthenticationError, () => chat(client));
    assert.deepEqual([error.code, error.type, statuses], ["invalid_api_key", "invalid_request_error", [401]]);
    assert.ok(error.requestID && !JSON.stringify(error).includes(KEYS[key]));
  }
});

check(async function aRevokedKeyIsAnAuthenticationError() {
  const { client, statuses } = counted("revoked");
  for (const stream of [false, true]) {
    const error = await thrown(OpenAI.AuthenticationError, () => chat(client, { stream }));
    assert.equal(error.code, "invalid_api_key");
    assert.match(error.message, /revoked/);
  }
  await thrown(OpenAI.AuthenticationError, () => client.models.list());
  assert.deepEqual(statuses, [401, 401, 401]);
});

check(async function aModelOutsideThePolicyIsAPermissionError() {
  const { client, statuses } = counted("narrow");
  const error = await thrown(OpenAI.PermissionDeniedError, () => chat(client, { model: "gpt-4o" }));
  assert.deepEqual([error.code, error.param, statuses], ["model_not_allowed", "model", [403]]);
  assert.ok((await chat(client)).choices);
});

check(async function aUsedUpQuotaSaysWhatIsLeft() {
  const { client, statuses } = counted("quota");
  assert.ok((await chat(client)).choices);
  for (const stream of [false, true]) {
    const failed = await thrown(OpenAI.APIError, () => chat(client, { stream }));
    assert.deepEqual([failed.status, failed.type, failed.code], [402, "insufficient_quota", "budget_exceeded"]);
    const { dimension, window, limit, spent, held, reset_at } = failed.error;
    assert.deepEqual([dimension, window, limit, spent, held], ["requests", "month", 1, 1, 0]);
    assert.match(reset_at, /-01T00:00:00Z$/);
  }
  assert.deepEqual(statuses, [200, 402, 402]);
});

check(async function aUsedUpBudgetSaysWhatIsLeft() {
  const { client, statuses } = counted("poor");
  const failed = await thrown(OpenAI.APIError, () => chat(client));
  assert.deepEqual([failed.status, failed.code, statuses], [402, "budget_exceeded", [402]]);
  const { dimension, unit, limit, spent, held, needed, reset_at } = failed.error;
  assert.deepEqual([dimension, unit, Number(limit), Number(spent), Number(held)], ["spend", "usd", 0.000001, 0, 0]);
  assert.ok(Number(needed) > Number(limit), needed);
  assert.match(reset_at, /-01T00:00:00Z$/);
});

check(async function whatARunningRequestHoldsIsTold() {
  const { client, statuses } = counted("once", { maxRetries: 0 });
  const calls = await Promise.allSettled([1, 2].map(() => chat(client, { model: "slow-to-answer" })));
  const [refused, ...others] = calls.filter((call) => call.status === "rejected").map((call) => call.reason);
  assert.deepEqual([refused.status, refused.code, others, statuses.sort()], [429, "limit_settling", [], [200, 429]]);
  const { held, spent, limit } = refused.error;
  assert.deepEqual([held, spent, limit], [1, 0, 1]);
  const { status, error } = await thrown(OpenAI.APIError, () => chat(client));
  assert.deepEqual([status, error.held, error.spent], [402, 0, 1]);
});

check(async function aFullMinuteIsARateLimitError() {
  const { client, statuses } = counted("slow", { maxRetries: 0 });
  assert.ok((await chat(client)).choices && (await chat(client)).choices);
  const error = await thrown(OpenAI.RateLimitError, () => chat(client));
  assert.deepEqual([error.code, error.type], ["rate_limit_exceeded", "rate_limit_error"]);
  assert.deepEqual(statuses, [200, 200, 429]);
  const millis = Number(error.headers.get("retry-after-ms"));
  assert.ok(millis > 0 && millis <= 60_000, `${millis}`);
  assert.equal(Number(error.headers.get("retry-after")), Math.ceil(millis / 1000));
});

check(async function aFullMinuteIsWaitedFor() {
  const { client, statuses } = counted("slow");
  const waits = await withoutWaiting(() => thrown(OpenAI.RateLimitError, () => chat(client)));
  assert.deepEqual(statuses, [429, 429, 429]);
  assert.ok(waits.length === 2 && waits.every((wait) => wait > 30_000 && wait <= 60_000), `${waits}`);
});

check(async function aBusyProviderIsWaitedFor() {
  const { client, statuses } = counted("free");
  const model = "busy-every-second-time";
  // One that says that it has no time; for others KeyForge waits itself.
  const headers = { "x-stainless-timeout": "0.1" };
  const inHaste = () => client.chat.completions.create({ model, messages: HELLO }, { headers });
  assert.ok((await inHaste()).choices);
  const started = performance.now();
  assert.ok((await inHaste()).choices);
  assert.deepEqual(statuses, [200, 429, 200]);
  // Timers may fire a millisecond early.
  assert.ok(performance.now() - started >= 295);
});

check(async function aRequestThatIsTooLargeIsNotTriedAgain() {
  const { client, statuses } = counted("free");
  const error = await thrown(OpenAI.RateLimitError, () => chat(client, { model: "too-large" }));
  assert.deepEqual([error.code, statuses], ["rate_limit_exceeded", [429]]);
  assert.match(error.message, /Request too large/);
  assert.doesNotMatch(error.message, /org-/);
});

check(async function aFieldThatCannotBeServedIsNamed() {
  const { client, statuses } = counted("free");
  for (const [field, value] of [["max_tokens", -1], ["messages", []], ["n", 0]]) {
    const error = await thrown(OpenAI.BadRequestError, () => chat(client, { [field]: value }));
    assert.deepEqual([error.param, error.code], [field, "invalid_request"]);
  }
  assert.deepEqual(statuses, [400, 400, 400]);
});

check(async function aCostWithoutBoundIsNamed() {
  const { client, statuses } = counted("poor");
  const error = await thrown(OpenAI.BadRequestError, () => chat(client, { web_search_options: {} }));
  assert.deepEqual([error.param, error.code, statuses], ["web_search_options", "cost_unbounded", [400]]);
});

check(async function aFieldThatTheProviderRefusesIsNamed() {
  const { client, statuses } = counted("free");
  for (const stream of [false, true]) {
    const error = await thrown(OpenAI.BadRequestError, () => chat(client, { model: "refused-field", stream }));
    const said = [error.param, error.code, error.type];
    assert.deepEqual(said, ["temperature", "unsupported_value", "invalid_request_error"]);
    assert.match(error.message, /temperature/);
  }
  assert.deepEqual(statuses, [400, 400]);
});

check(async function anUnknownModelIsNotFound() {
  const { client, statuses } = counted("free");
  const error = await thrown(OpenAI.NotFoundError, () => chat(client, { model: "no-such-model" }));
  assert.deepEqual([error.code, error.param, statuses], ["model_not_found", "model", [404]]);
  const legacy = await thrown(OpenAI.NotFoundError, () => client.completions.create({ model: MODEL, prompt: "Hello" }));
  assert.equal(legacy.code, "unknown_path");
});

check(async function aFailingProviderIsTriedAgain() {
  const { client, statuses } = counted("free");
  const error = await thrown(OpenAI.InternalServerError, () => chat(client, { model: "always-failing" }));
  assert.deepEqual([error.code, statuses], ["upstream_error", [502, 502, 502]]);
});

check(async function anErrorInsideAStreamIsThrown() {
  for (const [model, code] of [["error-in-stream", "upstream_error"], ["broken-stream", "upstream_broken"]]) {
    const { client, statuses } = counted("free");
    const chunks = [];
    const error = await thrown(OpenAI.APIError, async () => collect(await chat(client, { model, stream: true }), chunks));
    assert.deepEqual([chunks.length, statuses], [3, [200]]);
    assert.deepEqual([error.type, error.code], ["server_error", code]);
    assert.ok(error.message);
  }
});

check(async function aRefusedProviderKeyIsNotTheClientsBusiness() {
  const { client, statuses } = counted("free");
  const error = await thrown(OpenAI.InternalServerError, () => chat(client, { model: "dead-credential" }));
  assert.deepEqual([error.status, error.code, statuses], [502, "upstream_credentials_exhausted", [502]]);
  assert.doesNotMatch(JSON.stringify(error.error), /sk-|\*/);
});

await run();
