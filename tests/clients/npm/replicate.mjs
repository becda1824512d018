// The `replicate` package, as its documentation uses it.
import assert from "node:assert/strict";
import Replicate, { parseProgressFromLogs } from "replicate";
import { API_KEY, MODEL, SERVICE_URL } from "./service.mjs";

const replicate = new Replicate({ auth: API_KEY, baseUrl: `${SERVICE_URL}/v1` });
const input = { prompt: "a cat", width: 64, height: 64, num_inference_steps: 4 };
const slow = { prompt: "a slow cat", width: 512, height: 512, num_inference_steps: 100 };

export async function run_polls_and_shows_progress() {
  const seen = [];
  const options = { input, wait: { mode: "poll", interval: 20 } };
  await replicate.run(`${MODEL}:${MODEL}`, options, (prediction) => seen.push(prediction));
  assert.equal(seen.at(-1).status, "succeeded");
  assert.deepEqual(parseProgressFromLogs(seen.at(-1)), { percentage: 1, current: 4, total: 4 });
}

export async function a_prediction_is_created_and_awaited() {
  const created = await replicate.predictions.create({ version: MODEL, input });
  const ended = await replicate.wait(created, { interval: 20 });
  assert.equal(ended.status, "succeeded");
  assert.equal((await replicate.predictions.get(created.id)).completed_at, ended.completed_at);
}

export async function a_prediction_is_awaited_in_the_request_that_creates_it() {
  const prediction = await replicate.predictions.create({ model: MODEL, input, wait: 10 });
  assert.equal(prediction.status, "succeeded");
}

export async function a_running_prediction_is_cancelled() {
  const created = await replicate.predictions.create({ model: MODEL, input: slow });
  await replicate.predictions.cancel(created.id);
  const ended = await replicate.wait(created, { interval: 20 });
  assert.equal(ended.status, "canceled");
}

export async function run_that_is_aborted_cancels() {
  const controller = new AbortController();
  const options = { input: slow, wait: { mode: "poll", interval: 20 }, signal: controller.signal };
  let id;
  await replicate.run(MODEL, options, (prediction) => {
    id = prediction.id;
    controller.abort();
  });
  assert.equal((await replicate.wait({ id }, { interval: 20 })).status, "canceled");
}

export async function run_throws_what_went_wrong() {
  await assert.rejects(replicate.run(MODEL, { input: { ...input, width: 65 } }), /input.width: is 65 pixels/);
  await assert.rejects(replicate.run("someone/else", { input }), /is not served here/);
}
