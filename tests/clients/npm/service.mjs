// What checks know of the service, and how they look at images.
import assert from "node:assert/strict";

export const { SERVICE_URL, API_KEY, MODEL, WEBHOOK_SECRET, LORA, CONTROL_NET, UPSCALER } = process.env;

const MEDIA_TYPES = [
  ["png", Buffer.from("\x89PNG", "latin1")],
  ["jpeg", Buffer.from("\xff\xd8\xff", "latin1")],
  ["webp", Buffer.from("RIFF", "latin1")],
];

/** "png", "jpeg" or "webp", by an encoded image's first bytes. */
export function formatOf(bytes) {
  const data = Buffer.from(bytes);
  return MEDIA_TYPES.find(([, magic]) => data.subarray(0, magic.length).equals(magic))?.[0];
}

/** Width and height of a PNG, in pixels. */
export function sizeOf(bytes) {
  const data = Buffer.from(bytes);
  assert.equal(formatOf(data), "png");
  return [data.readUInt32BE(16), data.readUInt32BE(20)];
}

/** The bytes behind an address, asked for without a key: as a browser would. */
export async function fetchWithoutKey(url) {
  const answer = await fetch(url);
  assert.equal(answer.status, 200, `${url}: ${answer.status}`);
  return Buffer.from(await answer.arrayBuffer());
}

/** A blank PNG of 64 x 64 pixels, made by the service itself. */
export async function makeImage() {
  const answer = await fetch(`${SERVICE_URL}/v1/images/generations`, {
    method: "POST",
    headers: { Authorization: `Bearer ${API_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify({ prompt: "an image to begin with", size: "64x64", seed: 1 }),
  });
  assert.equal(answer.status, 200);
  return Buffer.from((await answer.json()).data[0].b64_json, "base64");
}

/** The pixels of a PNG as they are packed: without what is said of the image. */
export function pixelsOf(bytes) {
  const data = Buffer.from(bytes);
  assert.equal(formatOf(data), "png");
  const packed = [];
  for (let at = 8; at < data.length; at += 12 + data.readUInt32BE(at)) {
    if (data.toString("latin1", at + 4, at + 8) === "IDAT") packed.push(data.subarray(at + 8, at + 8 + data.readUInt32BE(at)));
  }
  return Buffer.concat(packed).toString("base64");
}

/** What an image says of how it was made, read by the service. */
export async function textOf(bytes) {
  const answer = await fetch(`${SERVICE_URL}/sdapi/v1/png-info`, {
    method: "POST",
    headers: { Authorization: `Bearer ${API_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify({ image: Buffer.from(bytes).toString("base64") }),
  });
  assert.equal(answer.status, 200);
  return (await answer.json()).info;
}

export const asDataUrl = (bytes) => `data:image/png;base64,${Buffer.from(bytes).toString("base64")}`;
