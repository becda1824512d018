// The `replicate` package, as its documentation uses it.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import Replicate, { parseProgressFromLogs, validateWebhook } from "replicate";
import { API_KEY, MODEL, SERVICE_URL, WEBHOOK_SECRET, fetchWithoutKey, formatOf, makeImage, sizeOf } from "./service.mjs";

const replicate = new Replicate({ auth: API_KEY, baseUrl: `${SERVICE_URL}/v1` });
const input = { prompt: "a cat", width: 64, height: 64, num_inference_steps: 4 };
const slow = { prompt: "a slow cat", width: 512, height: 512, num_inference_steps: 100 };

export async function run_waits_for_the_images() {
  const output = await replicate.run(MODEL, { input: { ...input, num_outputs: 2 } });
  assert.equal(output.length, 2);
  assert.deepEqual(sizeOf(await fetchWithoutKey(output[0])), [64, 64]);
}

export async function run_polls_and_shows_progress() {
  const seen = [];
  const options = { input, wait: { mode: "poll", interval: 20 } };
  await replicate.run(`${MODEL}:${MODEL}`, options, (prediction) => seen.push(prediction));
  assert.equal(seen.at(-1).status, "succeeded");
  assert.deepEqual(parseProgressFromLogs(seen.at(-1)), { percentage: 1, current: 4, total: 4 });
}

export async function run_uploads_what_it_begins_with() {
  const image = new Blob([await makeImage()], { type: "image/png" });
  const output = await replicate.run(MODEL, { input: { prompt: "a dog", image, output_format: "jpg" } });
  assert.equal(formatOf(await fetchWithoutKey(output[0])), "jpeg");
}

export async function a_stream_gives_the_images_addresses_and_ends() {
  const events = [];
  for await (const event of replicate.stream(MODEL, { input })) events.push(event);
  assert.equal(events.at(-1).event, "done");
  const outputs = events.filter((event) => event.event === "output");
  assert.deepEqual(sizeOf(await fetchWithoutKey(outputs.at(-1).data)), [64, 64]);
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

export async function predictions_are_listed_page_by_page() {
  const created = [];
  for (let index = 0; index < 3; index += 1) {
    created.push((await replicate.predictions.create({ model: MODEL, input, wait: 10 })).id);
  }
  const listed = [];
  for await (const page of replicate.paginate(replicate.predictions.list)) listed.push(...page.map((one) => one.id));
  assert.deepEqual(listed.slice(0, 3), created.toReversed());
  assert.equal(new Set(listed).size, listed.length);
}

export async function a_webhook_is_verified_by_the_secret_that_the_service_gives() {
  const received = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    received.push({ headers: request.headers, body: Buffer.concat(chunks).toString() });
    response.writeHead(204).end();
    if (received.length === 2) server.emit("complete");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const webhook = `http://127.0.0.1:${server.address().port}/hook`;
  const complete = once(server, "complete");
  const created = await replicate.predictions.create({
    model: MODEL,
    input,
    webhook,
    webhook_events_filter: ["start", "completed"],
  });
  assert.equal(created.webhook, webhook);
  await complete;
  server.close();
  const { key } = await replicate.webhooks.default.secret.get();
  assert.match(key, /^whsec_/);
  assert.notEqual(key, WEBHOOK_SECRET, "the service's own would verify everybody's");
  for (const { headers, body } of received) {
    assert.equal(await validateWebhook({ headers, body }, key), true);
    assert.equal(await validateWebhook({ headers, body }, WEBHOOK_SECRET), true);
    assert.equal(await validateWebhook({ headers, body: body.replace("cat", "dog") }, key), false);
  }
  const last = received.map(({ body }) => JSON.parse(body)).find((one) => one.status === "succeeded");
  assert.equal(last.id, created.id);
  assert.deepEqual(sizeOf(await fetchWithoutKey(last.output[0])), [64, 64]);
}

export async function files_are_kept_listed_and_deleted() {
  const content = await makeImage();
  const file = await replicate.files.create(new Blob([content], { type: "image/png" }), { subject: "a cat" });
  assert.deepEqual([file.content_type, file.size, file.metadata], ["image/png", content.length, { subject: "a cat" }]);
  assert.equal((await replicate.files.get(file.id)).checksums.sha256, file.checksums.sha256);
  assert.ok((await replicate.files.list()).results.some((one) => one.id === file.id));
  assert.equal(await replicate.files.delete(file.id), true);
  await assert.rejects(replicate.files.get(file.id), /404/);
}

export async function the_model_and_the_account_are_described() {
  const [owner, name] = MODEL.split("/");
  const model = await replicate.models.get(owner, name);
  assert.deepEqual([model.owner, model.name, model.latest_version.id], [owner, name, MODEL]);
  const { results } = await replicate.models.versions.list(owner, name);
  assert.deepEqual(results.map((version) => version.id), [MODEL]);
  assert.equal((await replicate.accounts.current()).username, "alice");
}

export async function what_the_service_has_none_of_is_said_in_a_sentence() {
  await assert.rejects(replicate.trainings.list(), /there is no GET \/v1\/trainings here/);
  await assert.rejects(replicate.deployments.list(), /there is no GET \/v1\/deployments here/);
}
