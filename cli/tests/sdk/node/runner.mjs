// Runs the functions given to `check` in the order they stand in, and says `ok NAME` for each that holds.
//
// The client under test finds its base URL and key where every program has them: in OPENAI_BASE_URL and OPENAI_API_KEY.
// Further keys, by what is special about them, come as JSON in KEYFORGE_TEST_KEYS.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";

export const MODEL = "gpt-4o-mini";
export const HELLO = [{ role: "user", content: "Hello there" }];
export const KEYS = JSON.parse(process.env.KEYFORGE_TEST_KEYS ?? "{}");

const checks = [];

/** Notes a named function, plain or async, as one to run. */
export function check(run) {
  checks.push(run);
}

/** A client, and the list that the status of every answer it gets is added to, retries included. */
export function counted(key, options = {}) {
  const statuses = [];
  const counting = async (...request) => {
    const response = await fetch(...request);
    statuses.push(response.status);
    return response;
  };
  return { client: new OpenAI({ apiKey: KEYS[key], fetch: counting, ...options }), statuses };
}

/** The error that `call` throws; it must be of exactly this class. */
export async function thrown(kind, call) {
  let outcome;
  try {
    outcome = await call();
  } catch (error) {
    assert.equal(error.constructor, kind, `${error.constructor.name} instead of ${kind.name}: ${error.stack}`);
    return error;
  }
  return assert.fail(`no ${kind.name} but ${JSON.stringify(outcome)}`);
}

/**
 * Runs `call` with waits that a client would not choose by itself cut to nothing, and gives their lengths in milliseconds.
 * Its own waits are 8 s at most; what is longer than a minute is no wait but a time limit.
 */
export async function withoutWaiting(call) {
  const waits = [];
  const real = globalThis.setTimeout;
  globalThis.setTimeout = (then, wait, ...rest) => {
    const cut = wait > 8_000 && wait <= 60_000;
    if (cut) waits.push(wait);
    return real(then, cut ? 0 : wait, ...rest);
  };
  try {
    await call();
  } finally {
    globalThis.setTimeout = real;
  }
  return waits;
}

/** Collects a stream; what came before an error is in `into`. */
export async function collect(stream, into = []) {
  for await (const piece of stream) into.push(piece);
  return into;
}

/** Runs every check; the process ends with status 0 if there were some and all of them held. */
export async function run() {
  let failed = 0;
  for (const one of checks) {
    try {
      await one();
      console.log(`ok ${one.name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${one.name}\n${error.stack}`);
    }
  }
  console.log(`openai ${VERSION}: ${checks.length} checks, ${failed} failed`);
  process.exit(failed > 0 || checks.length === 0 ? 1 : 0);
}
