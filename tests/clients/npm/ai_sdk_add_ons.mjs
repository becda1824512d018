// Vercel's AI SDK: what its providers pass on of what they don't know.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createReplicate } from "@ai-sdk/replicate";
import { generateImage } from "ai";
import {
  API_KEY, CONTROL_NET, LORA, MODEL, SERVICE_URL, UPSCALER, asDataUrl, makeImage, pixelsOf, sizeOf, textOf,
} from "./service.mjs";

const baseURL = `${SERVICE_URL}/v1`;
const compatible = createOpenAICompatible({ name: "easel", apiKey: API_KEY, baseURL }).imageModel(MODEL);
const replicate = createReplicate({ apiToken: API_KEY, baseURL }).image(MODEL);
const generate = async (model, options, prompt = "a cat") => {
  const name = model === replicate ? "replicate" : "easel";
  const providerOptions = { [name]: { seed: 5, num_inference_steps: 3, ...options } };
  const { image } = await generateImage({ model, prompt, size: "64x64", maxRetries: 0, providerOptions });
  return image.uint8Array;
};

export async function the_provider_for_servers_like_openais_passes_all_on() {
  const hires = { scale: 1.5, upscaler: UPSCALER };
  const plain = await generate(compatible, { hires });
  const control = { model: CONTROL_NET, image: asDataUrl(await makeImage()) };
  const image = await generate(compatible, { hires, loras: { [LORA]: 0.8 }, controlnet: [control] });
  assert.deepEqual(sizeOf(image), [96, 96]);
  assert.notEqual(pixelsOf(image), pixelsOf(plain));
  const text = await textOf(image);
  for (const part of [`<lora:${LORA}:0.8>`, `Hires upscaler: ${UPSCALER}`, `Model: ${CONTROL_NET}`]) {
    assert.ok(text.includes(part), text);
  }
}

export async function an_edit_takes_them_as_json_since_its_forms_have_no_objects() {
  const prompt = { text: "a dog", images: [await makeImage()] };
  const fields = { loras: { [LORA]: 0.8 }, controlnet: [{ model: CONTROL_NET }] };
  const written = Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, JSON.stringify(value)]));
  const text = await textOf(await generate(compatible, written, prompt));
  for (const part of [`<lora:${LORA}:0.8>`, `Model: ${CONTROL_NET}`]) assert.ok(text.includes(part), text);
}

export async function the_provider_for_replicate_passes_all_on() {
  const options = { lora_weights: LORA, controlnet: CONTROL_NET, control_image: asDataUrl(await makeImage()) };
  const [plain, image] = [await generate(replicate, {}), await generate(replicate, options)];
  assert.notEqual(pixelsOf(image), pixelsOf(plain));
  assert.match(await textOf(image), new RegExp(`<lora:${LORA}:1>[^]*Model: ${CONTROL_NET}`));
  assert.deepEqual(sizeOf(await generate(replicate, { hires: { scale: 2 } })), [128, 128]);
}
