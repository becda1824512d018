// The `openai` package, as its documentation uses it for images.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { API_KEY, MODEL, SERVICE_URL, fetchWithoutKey, formatOf, makeImage, sizeOf } from "./service.mjs";

const client = new OpenAI({ apiKey: API_KEY, baseURL: `${SERVICE_URL}/v1`, maxRetries: 0 });

export async function an_image_is_generated() {
  const answer = await client.images.generate({ model: MODEL, prompt: "a cat", n: 2, size: "64x64" });
  assert.equal(answer.data.length, 2);
  assert.deepEqual(sizeOf(Buffer.from(answer.data[0].b64_json, "base64")), [64, 64]);
}

export async function what_leaves_the_choice_to_the_service_is_accepted() {
  const answer = await client.images.generate({
    model: MODEL,
    prompt: "a cat",
    size: "auto",
    quality: "auto",
    background: "auto",
    moderation: "auto",
    style: null,
    n: null,
    response_format: null,
    user: "somebody",
  });
  assert.equal(answer.data.length, 1);
}

export async function an_image_is_compressed_as_asked() {
  const body = { model: MODEL, prompt: "a cat", size: "256x256", output_format: "jpeg" };
  const [coarse, fine] = await Promise.all(
    [10, 95].map(async (output_compression) => {
      const answer = await client.images.generate({ ...body, output_compression });
      return Buffer.from(answer.data[0].b64_json, "base64");
    }),
  );
  assert.deepEqual([formatOf(coarse), formatOf(fine)], ["jpeg", "jpeg"]);
  assert.ok(coarse.length < fine.length, `${coarse.length} bytes, ${fine.length} bytes`);
}

export async function an_address_in_place_of_the_image_needs_no_key() {
  const answer = await client.images.generate({ model: MODEL, prompt: "a cat", size: "64x64", response_format: "url" });
  assert.deepEqual(sizeOf(await fetchWithoutKey(answer.data[0].url)), [64, 64]);
}

export async function an_image_is_edited() {
  const image = await toFile(await makeImage(), "image.png", { type: "image/png" });
  const answer = await client.images.edit({ model: MODEL, image, prompt: "a dog" });
  assert.deepEqual(sizeOf(Buffer.from(answer.data[0].b64_json, "base64")), [64, 64]);
}

export async function images_are_edited_as_a_list_of_one() {
  const image = await toFile(await makeImage(), "image.png", { type: "image/png" });
  const answer = await client.images.edit({ model: MODEL, image: [image], prompt: "a dog", size: "64x64" });
  assert.equal(answer.data.length, 1);
}

export async function an_image_is_streamed_with_previews() {
  const stream = await client.images.generate({
    model: MODEL,
    prompt: "a streamed cat",
    size: "64x64",
    stream: true,
    partial_images: 2,
  });
  const types = [];
  let last;
  for await (const event of stream) {
    types.push(event.type);
    last = event;
  }
  assert.deepEqual(types.slice(-1), ["image_generation.completed"]);
  assert.ok(types.slice(0, -1).every((type) => type === "image_generation.partial_image"));
  assert.deepEqual(sizeOf(Buffer.from(last.b64_json, "base64")), [64, 64]);
}

export async function an_edit_is_streamed() {
  const image = await toFile(await makeImage(), "image.png", { type: "image/png" });
  const stream = await client.images.edit({ model: MODEL, image, prompt: "a streamed dog", stream: true });
  const types = [];
  for await (const event of stream) types.push(event.type);
  assert.equal(types.at(-1), "image_edit.completed");
}

export async function a_request_that_is_aborted_ends() {
  const controller = new AbortController();
  const body = { model: MODEL, prompt: "a slow cat", size: "512x512", num_inference_steps: 100 };
  const asked = client.images.generate(body, { signal: controller.signal });
  setTimeout(() => controller.abort(), 100);
  await assert.rejects(asked, OpenAI.APIUserAbortError);
}

export async function what_is_wrong_is_an_error_of_the_clients_own() {
  await assert.rejects(client.images.generate({ model: MODEL, prompt: "a cat", size: "65x65" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "size");
    return true;
  });
  await assert.rejects(client.images.generate({ model: "dall-e-3", prompt: "a cat" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ apiKey: "no key", baseURL: `${SERVICE_URL}/v1`, maxRetries: 0 });
  await assert.rejects(stranger.images.generate({ model: MODEL, prompt: "a cat" }), OpenAI.AuthenticationError);
}

export async function models_are_listed() {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.deepEqual(models, [MODEL]);
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
}
