// Vercel's AI SDK with its providers for OpenAI, for servers like OpenAI's, and for Replicate.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createReplicate } from "@ai-sdk/replicate";
import { generateImage } from "ai";
import { API_KEY, MODEL, SERVICE_URL, formatOf, makeImage, sizeOf } from "./service.mjs";

const openai = createOpenAI({ apiKey: API_KEY, baseURL: `${SERVICE_URL}/v1` });
const compatible = createOpenAICompatible({ name: "easel", apiKey: API_KEY, baseURL: `${SERVICE_URL}/v1` });
const replicate = createReplicate({ apiToken: API_KEY, baseURL: `${SERVICE_URL}/v1` });
const request = { prompt: "a cat", size: "64x64", maxRetries: 0 };

export async function an_image_is_generated_by_the_provider_for_openai() {
  const { image } = await generateImage({ ...request, model: openai.image(MODEL) });
  assert.deepEqual(sizeOf(image.uint8Array), [64, 64]);
}

export async function what_the_provider_for_openai_offers_is_accepted() {
  const { images } = await generateImage({
    ...request,
    model: openai.image(MODEL),
    n: 3,
    providerOptions: {
      openai: { quality: "auto", background: "auto", moderation: "auto", outputFormat: "webp", outputCompression: 50 },
    },
  });
  assert.deepEqual(images.map((image) => formatOf(image.uint8Array)), ["webp", "webp", "webp"]);
}

export async function an_image_is_edited_by_the_provider_for_openai() {
  const prompt = { text: "a dog", images: [await makeImage()] };
  const { image } = await generateImage({ ...request, model: openai.image(MODEL), prompt });
  assert.deepEqual(sizeOf(image.uint8Array), [64, 64]);
}

export async function an_image_is_generated_by_the_provider_for_servers_like_openais() {
  const { image } = await generateImage({ ...request, model: compatible.imageModel(MODEL), n: 1 });
  assert.deepEqual(sizeOf(image.uint8Array), [64, 64]);
}

export async function an_image_is_edited_by_the_provider_for_servers_like_openais() {
  const prompt = { text: "a dog", images: [await makeImage()] };
  const { image } = await generateImage({ ...request, model: compatible.imageModel(MODEL), prompt });
  assert.deepEqual(sizeOf(image.uint8Array), [64, 64]);
}

export async function an_image_is_generated_by_the_provider_for_replicate() {
  const { image } = await generateImage({ ...request, model: replicate.image(MODEL), seed: 5 });
  assert.deepEqual(sizeOf(image.uint8Array), [64, 64]);
}

export async function what_the_provider_for_replicate_offers_is_accepted() {
  const { image } = await generateImage({
    ...request,
    model: replicate.image(MODEL),
    prompt: { text: "a dog", images: [await makeImage()] },
    providerOptions: {
      replicate: {
        negative_prompt: "blurry",
        guidance_scale: 5,
        num_inference_steps: 4,
        output_format: "jpg",
        output_quality: 40,
        strength: 0.5,
        maxWaitTimeInSeconds: 20,
      },
    },
  });
  assert.equal(formatOf(image.uint8Array), "jpeg");
}

export async function a_wrong_key_is_said_to_be_wrong() {
  const stranger = createOpenAI({ apiKey: "no key", baseURL: `${SERVICE_URL}/v1` });
  const asked = generateImage({ ...request, model: stranger.image(MODEL) });
  await assert.rejects(asked, (error) => error.statusCode === 401 && /not known/.test(error.message));
}
