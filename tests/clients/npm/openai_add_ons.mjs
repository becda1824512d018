// The `openai` package with fields that OpenAI doesn't have, which it sends as they are given.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import {
  API_KEY, CONTROL_NET, LORA, MODEL, SERVICE_URL, UPSCALER, asDataUrl, makeImage, pixelsOf, sizeOf, textOf,
} from "./service.mjs";

const client = new OpenAI({ apiKey: API_KEY, baseURL: `${SERVICE_URL}/v1`, maxRetries: 0 });
const body = { model: MODEL, prompt: "a cat", size: "64x64", seed: 5, num_inference_steps: 3 };
const imageOf = (answer) => Buffer.from(answer.data[0].b64_json, "base64");
const generate = async (fields) => imageOf(await client.images.generate({ ...body, ...fields }));
const edit = async (fields) => {
  const image = await toFile(await makeImage(), "image.png", { type: "image/png" });
  return imageOf(await client.images.edit({ ...body, image, ...fields }));
};

export async function what_may_be_asked_for_is_listed_with_the_model() {
  const model = await client.models.retrieve(MODEL);
  assert.deepEqual(model.adapters.map((one) => one.name), [LORA]);
  assert.deepEqual([model.control_nets, model.upscalers], [[CONTROL_NET], [UPSCALER]]);
}

export async function a_lora_changes_the_image_and_is_said_in_it() {
  const [plain, inked] = [await generate({}), await generate({ loras: { [LORA]: 0.8 } })];
  assert.notEqual(pixelsOf(inked), pixelsOf(plain));
  assert.match(await textOf(inked), new RegExp(`<lora:${LORA}:0.8>`));
  assert.equal(pixelsOf(await generate({})), pixelsOf(plain));
}

export async function a_controlnet_holds_the_image_to_another_one() {
  const controlnet = [{ model: CONTROL_NET, image: asDataUrl(await makeImage()), preprocessor: "canny", weight: 0.7 }];
  const held = await generate({ controlnet });
  assert.notEqual(pixelsOf(held), pixelsOf(await generate({})));
  assert.match(await textOf(held), new RegExp(`Model: ${CONTROL_NET}, Weight: 0.7`));
}

export async function a_second_pass_makes_the_image_larger() {
  const image = await generate({ hires: { scale: 2, upscaler: UPSCALER, strength: 0.6 } });
  assert.deepEqual(sizeOf(image), [128, 128]);
  assert.match(await textOf(image), new RegExp(`Hires upscaler: ${UPSCALER}`));
}

export async function an_edit_takes_objects_though_it_is_a_form() {
  const fields = { loras: { [LORA]: 0.8 }, controlnet: [{ model: CONTROL_NET, weight: 0.5 }] };
  const [plain, edited] = [await edit({}), await edit(fields)];
  assert.notEqual(pixelsOf(edited), pixelsOf(plain));
  const text = await textOf(edited);
  for (const part of [`<lora:${LORA}:0.8>`, `Model: ${CONTROL_NET}, Weight: 0.5`]) assert.ok(text.includes(part), text);
  const listed = await edit({ ...fields, loras: [{ name: LORA, weight: 0.8 }] });
  assert.equal(pixelsOf(listed), pixelsOf(edited));
  await assert.rejects(edit({ hires: { scale: 2 } }), /hires: asks for a second pass, which is for images from a text/);
}

export async function an_image_is_enlarged_by_an_upscaler() {
  const images = [{ image_url: asDataUrl(await makeImage()) }];
  const [network, filter] = await Promise.all(
    [UPSCALER, "Lanczos"].map((upscaler) => client.post("/images/upscales", { body: { images, scale: 2, upscaler } })),
  );
  assert.deepEqual(sizeOf(imageOf(network)), [128, 128]);
  assert.notEqual(pixelsOf(imageOf(network)), pixelsOf(imageOf(filter)));
}

export async function what_there_isnt_is_refused_with_what_there_is() {
  for (const [fields, param, there] of [
    [{ loras: ["clay"] }, "loras", LORA],
    [{ controlnet: [{ model: "depth", image: asDataUrl(await makeImage()) }] }, "controlnet", CONTROL_NET],
    [{ hires: { upscaler: "Mine" } }, "hires", UPSCALER],
  ]) {
    await assert.rejects(client.images.generate({ ...body, ...fields }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, error);
      assert.equal(error.param, param);
      assert.ok(error.message.includes(there), error.message);
      return true;
    });
  }
}
