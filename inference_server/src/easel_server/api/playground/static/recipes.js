// What an image says of how it was made, as the form takes it. All of it is somebody else's text.

import { toDataUrl } from "./images.js";

const NAMES = { // of Easel's own recipe
  prompt: "prompt", negativePrompt: "negative_prompt", widthPixels: "width", heightPixels: "height",
  steps: "num_inference_steps", guidanceScale: "guidance_scale", sampler: "scheduler", imageFormat: "output_format",
  strength: "prompt_strength",
};
const FIELDS = { // as AUTOMATIC1111's clients have them, which the service makes of its text
  prompt: "prompt", negative_prompt: "negative_prompt", width: "width", height: "height", steps: "num_inference_steps",
  cfg_scale: "guidance_scale", sampler_name: "scheduler", denoising_strength: "prompt_strength",
};
const MAX_TEXT = 100_000;
const NETWORK = /<lora:([^:<>]{1,200}):(-?[0-9.]{1,10})(?::[^<>]{0,50})?>/g;

// {input, notes}, or null where the image says nothing. Throws ApiError.
export async function readRecipe(api, file) {
  const { info, items, parameters } = await api.describe(await toDataUrl(file));
  const own = typeof items?.easel === "string" ? read(items.easel) : null;
  if (own) return fromRecipe(own, items.easel);
  return info && parameters ? fromInfotext(parameters) : null;
}

function read(text) {
  try {
    const { parameters } = JSON.parse(text);
    return parameters && typeof parameters === "object" ? parameters : null;
  } catch {
    return null;
  }
}

function fromRecipe(parameters, text) {
  const input = take(parameters, NAMES);
  // A number of ours holds no more than 2^53; within a JSON string a quote is escaped, so this is the number.
  const seed = /"seed":(\d{1,19})[,}]/.exec(text)?.[1];
  if (seed) input.seed = seed;
  if (Array.isArray(parameters.adapters)) input.loras = parameters.adapters.slice(0, 32).filter(isNamed).map(pick("name", "weight"));
  if (Array.isArray(parameters.controls)) {
    input.controlnet = parameters.controls.slice(0, 8).filter(isNamed)
      .map(({ name, weight, start, end }) => ({ model: name, preprocessor: "none", weight, start, end }));
  }
  const { hires } = parameters;
  if (hires && typeof hires === "object") {
    const scale = Math.round((100 * hires.widthPixels) / parameters.widthPixels) / 100;
    input.hires = { scale, ...pick("upscaler", "steps", "strength")(hires) };
  }
  const notes = parameters.imageDigest ? ["it was made from an image: add that one again"] : [];
  return { input, notes };
}

function fromInfotext(parameters) {
  const input = take(parameters, FIELDS);
  const schedule = parameters["Schedule type"];
  if (input.scheduler && typeof schedule === "string" && schedule !== "Automatic" && !input.scheduler.endsWith(schedule)) {
    input.scheduler += ` ${schedule}`;
  }
  if (/^\d{1,19}$/.test(parameters.Seed)) input.seed = parameters.Seed;
  const loras = [...(input.prompt ?? "").matchAll(NETWORK)].slice(0, 32);
  if (loras.length) {
    input.loras = loras.map(([, name, weight]) => ({ name, weight: Number(weight) }));
    input.prompt = input.prompt.replaceAll(NETWORK, "").replace(/ {2,}/g, " ").trim();
  }
  const scale = Number(parameters["Hires upscale"]);
  if (scale > 1) {
    const steps = Number(parameters["Hires steps"]) || undefined;
    const strength = Number(parameters["Denoising strength"]) || undefined;
    input.hires = { scale, upscaler: parameters["Hires upscaler"], steps, strength };
    delete input.prompt_strength;
  }
  return { input, notes: [] };
}

function take(values, names) {
  const taken = Object.entries(names)
    .map(([name, ours]) => [ours, values[name]])
    .filter(([, value]) => (typeof value === "string" && value.length <= MAX_TEXT) || typeof value === "number");
  return Object.fromEntries(taken);
}

function pick(...names) {
  return (values) => Object.fromEntries(names.filter((name) => ["string", "number"].includes(typeof values[name])).map((name) => [name, values[name]]));
}

function isNamed(value) {
  return typeof value?.name === "string";
}
