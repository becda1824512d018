// What an image says of how it was made, as the form takes it. All of it is somebody else's text.

import { toDataUrl, toDescribing } from "./images.js";

const NAMES = { // of Easel's own recipe
  prompt: "prompt", negativePrompt: "negative_prompt", widthPixels: "width", heightPixels: "height",
  steps: "num_inference_steps", guidanceScale: "guidance_scale", sampler: "scheduler", imageFormat: "output_format",
  strength: "prompt_strength", clipSkip: "clip_skip", eta: "eta",
};
const FIELDS = { // as AUTOMATIC1111's clients have them, which the service makes of its text
  prompt: "prompt", negative_prompt: "negative_prompt", width: "width", height: "height", steps: "num_inference_steps",
  cfg_scale: "guidance_scale", sampler_name: "scheduler", denoising_strength: "prompt_strength",
};
const MAX_TEXT = 100_000;
const MAX_ADD_ONS = 32; // of a kind that are looked at
const NUMBER = /^-?\d{1,4}(?:\.\d{1,17})?$/;
const CONTROL = /^ControlNet \d{1,2}$/;
const SAID = /(\w[\w ]{0,40}): ([^,]*)/g;
const UNIT = ["weight", "start", "end", "mode", "hr_option", "control_type"]; // of a ControlNet
const NETWORK = /<lora:([^:<>]{1,200}):(-?[0-9.]{1,10})(?::[^<>]{0,50})?>/g;

// {input, notes}; ``input`` is null where the image says nothing of how it was made. Throws ApiError and ImageError.
export async function readRecipe(api, file, maxBytes) {
  const { info, items, parameters } = await api.describe(await toDataUrl(await toDescribing(file, maxBytes)));
  const own = typeof items?.easel === "string" ? read(items.easel) : null;
  if (own) return fromRecipe(own, items.easel);
  return info && parameters ? fromInfotext(parameters) : { input: null, notes: [] };
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
  const { upscale, hires } = parameters;
  if (upscale && typeof upscale === "object") return enlarged(`${upscale.widthPixels} × ${upscale.heightPixels}`, upscale.upscaler);
  const input = take(parameters, NAMES);
  // A number of ours holds no more than 2^53; within a JSON string a quote is escaped, so this is the number.
  const seed = /"seed":(\d{1,19})[,}]/.exec(text)?.[1];
  if (seed) input.seed = seed;
  if (Array.isArray(parameters.adapters)) input.loras = parameters.adapters.slice(0, MAX_ADD_ONS).filter(isNamed).map(pick("name", "weight"));
  if (Array.isArray(parameters.controls)) {
    input.controlnet = parameters.controls.slice(0, MAX_ADD_ONS).filter(isNamed)
      .map(({ name, passes: hr_option, controlType: control_type, ...unit }) => (
        { model: name, preprocessor: "none", ...pick(...UNIT)({ ...unit, hr_option, control_type }) }));
  }
  if (hires && typeof hires === "object") {
    input.hires = { ...take(hires, { widthPixels: "width", heightPixels: "height" }), ...pick("upscaler", "steps", "strength")(hires) };
  }
  const notes = parameters.imageDigest ? ["it was made from an image: add that one again"] : [];
  if (parameters.maskDigest) notes.push("and its mask: paint that one again");
  return { input, notes };
}

function fromInfotext(parameters) {
  const upscaler = parameters["Postprocess upscaler"];
  if (upscaler && !parameters.Steps) return enlarged(parameters["Postprocess upscale to"]?.replace("x", " × "), upscaler);
  const input = take(parameters, FIELDS);
  const schedule = parameters["Schedule type"];
  if (input.scheduler && typeof schedule === "string" && schedule !== "Automatic" && !input.scheduler.endsWith(schedule)) {
    input.scheduler += ` ${schedule}`;
  }
  if (/^\d{1,19}$/.test(parameters.Seed)) input.seed = parameters.Seed;
  const loras = [...(input.prompt ?? "").matchAll(NETWORK)].slice(0, MAX_ADD_ONS);
  if (loras.length) {
    input.loras = loras.map(([, name, weight]) => ({ name, weight: Number(weight) }));
    input.prompt = input.prompt.replaceAll(NETWORK, "").replace(/ {2,}/g, " ").trim();
  }
  for (const [name, field] of [["Clip skip", "clip_skip"], ["Eta DDIM", "eta"]]) {
    if (NUMBER.test(parameters[name])) input[field] = Number(parameters[name]);
  }
  const units = Object.entries(parameters).filter(([name, said]) => CONTROL.test(name) && typeof said === "string");
  if (units.length) input.controlnet = units.slice(0, MAX_ADD_ONS).map(([, said]) => readControl(said)).filter(({ model }) => model);
  if (parameters.enable_hr === true) { // as the service reads what the text says of a second pass
    const sized = take(parameters, { hr_resize_x: "width", hr_resize_y: "height", hr_upscaler: "upscaler" });
    input.hires = { ...sized, strength: input.prompt_strength, steps: parameters.hr_second_pass_steps || undefined };
    delete input.prompt_strength;
  }
  return { input, notes: [] };
}

// A ControlNet as AUTOMATIC1111's extension writes it, which holds no image.
function readControl(text) {
  const said = Object.fromEntries(Array.from(text.slice(0, 1000).matchAll(SAID), ([, name, value]) => [name, value.trim()]));
  const number = (name) => (NUMBER.test(said[name]) ? Number(said[name]) : undefined);
  return {
    model: said.Model?.replace(/ \[[0-9a-f]{4,64}\]$/, ""),
    preprocessor: said.Module?.toLowerCase() ?? "none",
    weight: number("Weight"),
    start: number("Guidance Start"),
    end: number("Guidance End"),
    mode: said["Control Mode"],
    resize_mode: said["Resize Mode"],
    control_type: said["Union Control Type"],
    hr_option: said["Hr Option"],
    threshold_a: number("Threshold A"),
    threshold_b: number("Threshold B"),
  };
}

function enlarged(size, upscaler) {
  const how = [size && `to ${size}`, typeof upscaler === "string" && `by ${upscaler}`].filter(Boolean).join(" ");
  return { input: null, notes: [`it was only enlarged${how && ` ${how}`}`] };
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
