// The `replicate` package, with the inputs that Replicate's own models have for adapters, ControlNets and upscaling.
import assert from "node:assert/strict";
import Replicate from "replicate";
import {
  API_KEY, CONTROL_NET, LORA, MODEL, SERVICE_URL, UPSCALER, fetchWithoutKey, makeImage, pixelsOf, sizeOf, textOf,
} from "./service.mjs";

const replicate = new Replicate({ auth: API_KEY, baseUrl: `${SERVICE_URL}/v1` });
const common = { prompt: "a cat", width: 64, height: 64, num_inference_steps: 3, seed: 5 };
const run = async (fields) => {
  const [url] = await replicate.run(MODEL, { input: { ...common, ...fields } });
  return fetchWithoutKey(url);
};
const upload = async () => new Blob([await makeImage()], { type: "image/png" });

export async function a_lora_changes_the_image_by_either_field() {
  const plain = await run({});
  const inked = await run({ lora_weights: LORA, lora_scale: 0.8 });
  assert.notEqual(pixelsOf(inked), pixelsOf(plain));
  assert.equal(pixelsOf(await run({ loras: [{ path: LORA, scale: 0.8 }] })), pixelsOf(inked));
  assert.match(await textOf(inked), new RegExp(`<lora:${LORA}:0.8>`));
}

export async function a_control_image_is_uploaded_as_any_file() {
  const plain = await run({});
  const held = await run({ controlnet: CONTROL_NET, control_image: await upload(), controlnet_conditioning_scale: 0.7 });
  assert.notEqual(pixelsOf(held), pixelsOf(plain));
  assert.match(await textOf(held), new RegExp(`Model: ${CONTROL_NET}, Weight: 0.7`));
  const numbered = { controlnet_1: CONTROL_NET, controlnet_1_conditioning_scale: 0.7, controlnet_1_image: await upload() };
  assert.equal(pixelsOf(await run(numbered)), pixelsOf(held));
  const listed = { controlnet: [{ model: CONTROL_NET, weight: 0.7, image: await upload() }] };
  assert.equal(pixelsOf(await run(listed)), pixelsOf(held));
}

export async function a_second_pass_makes_the_image_larger() {
  const image = await run({ hires: { scale: 2, upscaler: UPSCALER } });
  assert.deepEqual(sizeOf(image), [128, 128]);
  assert.match(await textOf(image), new RegExp(`Hires upscaler: ${UPSCALER}`));
}

export async function an_uploaded_image_is_enlarged() {
  const images = [];
  for (const upscaler of [UPSCALER, "Lanczos"]) {
    const [url] = await replicate.run(MODEL, { input: { image: await upload(), scale: 2, upscaler } });
    images.push(await fetchWithoutKey(url));
  }
  assert.deepEqual(images.map(sizeOf), [[128, 128], [128, 128]]);
  assert.notEqual(pixelsOf(images[0]), pixelsOf(images[1]));
}

export async function what_there_isnt_is_refused_with_what_there_is() {
  await assert.rejects(run({ lora_weights: "clay" }), new RegExp(`input.loras: .*${LORA}`));
  await assert.rejects(run({ controlnet: "depth", control_image: await upload() }), new RegExp(CONTROL_NET));
  await assert.rejects(run({ lora_weights: "https://example.com/ink.safetensors" }), /input.loras/);
}
