// Puts the page's parts together: one job at a time, from the form to the image and into the history.

import { Api, ApiError, addressOf } from "./api.js";
import { History, toThumbnail } from "./history.js";
import { Settings, showBanner, toJson } from "./settings.js";
import { copy, toCurl, toPython } from "./snippets.js";
import { Stage } from "./stage.js";

const KEY = "easel.key"; // in sessionStorage: gone with the tab
const PREVIEWS = 3; // the most that the API gives
const NARROW = "(max-width: 820px)"; // as in style.css: there the image comes below the form
const COPIED_MILLISECONDS = 2000;

const byId = (id) => document.getElementById(id);

const settings = new Settings();
const stage = new Stage();
const api = new Api(() => byId("key").value.trim());
const history = new History((entry) => show(entry));
let needsKey = false;
let running = null; // {id, controller} of the job that is followed
let cancelPressed = false;
let shown = null; // the history's entry whose image is on the stage

async function start() {
  byId("more").open = !matchMedia(NARROW).matches;
  byId("key").value = sessionStorage.getItem(KEY) ?? "";
  const response = await fetch(addressOf("playground/config"));
  if (!response.ok) throw new ApiError(response.status, `The service answered ${response.status}: reload the page.`);
  const config = await response.json();
  byId("model").textContent = config.model;
  byId("synthetic").hidden = !config.is_synthetic;
  needsKey = config.needs_key;
  byId("key-field").hidden = !needsKey;
  settings.apply(config);
  document.documentElement.dataset.ready = "true";
  if (history.unfinished && !running) await follow(history.unfinished);
}

async function generate() {
  if (running) return;
  const { input, faults } = settings.read();
  if (faults.length) {
    settings.show(new ApiError(422, "", faults));
    return;
  }
  settings.clear();
  const controller = occupy();
  let prediction;
  try {
    prediction = await api.create(toJson({ input: { ...input, previews: PREVIEWS } }), controller.signal);
  } catch (error) {
    release();
    settings.show(error);
    return;
  }
  // What was sent, so that a seed beyond 2^53 keeps its digits; the rest as the service filled it in.
  const { previews: _, priority: __, ...filled } = prediction.input;
  const entry = {
    id: prediction.id,
    status: prediction.status,
    input: { ...filled, seed: String(input.seed ?? filled.seed) },
  };
  history.add(entry);
  await follow(entry);
}

function note(entry, changes) {
  Object.assign(entry, changes);
  history.update(entry.id, changes);
}

// Bring a job to its end on the stage.
async function follow(entry) {
  const { signal } = occupy(entry.id);
  shown = entry;
  history.choose(entry.id);
  stage.begin(entry.input);
  byId("stage").scrollIntoView({ block: "nearest" });
  try {
    let { status } = entry;
    if (!isFinal(status)) status = await watch(entry, signal);
    const prediction = await api.get(entry.id, signal);
    await settle(entry, prediction, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 404) note(entry, { status: "expired" });
    stage.end("No image.", error.message);
  } finally {
    release();
  }
}

async function watch(entry, signal) {
  let previews = 0;
  for await (const { name, data } of api.follow(entry.id, signal)) {
    if (name !== "progress") continue;
    const progress = JSON.parse(data);
    if (isFinal(progress.status)) continue; // "done" comes next
    if (byId("cancel").getAttribute("aria-disabled") !== "true") stage.progress(progress);
    if (progress.status !== entry.status) note(entry, { status: progress.status });
    if (progress.previews.length > previews) {
      previews = progress.previews.length;
      // They go when the job is over, so one that isn't there any more is no error.
      const blob = await api.preview(entry.id, previews - 1, signal).catch(() => null);
      if (blob) stage.preview(blob);
    }
  }
}

async function settle(entry, prediction, signal) {
  const { metrics, logs } = prediction;
  note(entry, { status: prediction.status, seconds: metrics.predict_time, warnings: listWarnings(logs) });
  if (prediction.status === "canceled") {
    stage.end("Cancelled.");
    stage.announce("Cancelled");
  } else if (prediction.status !== "succeeded") {
    stage.end("No image.", prediction.error ?? "The image could not be generated.");
  } else {
    const images = await display(entry, signal);
    const count = images.length === 1 ? "1 image" : `${images.length} images`;
    stage.announce(`Finished: ${count}, seed ${entry.input.seed}`);
    note(entry, { thumbnail: await toThumbnail(images[0]) });
  }
}

// What was done otherwise than asked; the lines of a prediction's log that aren't progress.
function listWarnings(logs) {
  return Array.from(logs.matchAll(/^warning: (.*)$/gm), ([, warning]) => warning);
}

async function display(entry, signal) {
  const { input, seconds, warnings = [] } = entry;
  const indexes = Array.from({ length: input.num_outputs ?? 1 }, (_, index) => index);
  const images = await Promise.all(indexes.map((index) => api.output(entry.id, index, signal)));
  const facts = [
    ["Seed", input.seed],
    ["Size", `${input.width} × ${input.height}`],
    ["Steps", input.num_inference_steps],
    ["Guidance", input.guidance_scale],
    ...(input.scheduler ? [["Sampler", input.scheduler]] : []),
    ...(seconds ? [["Time", `${seconds.toFixed(1)} s`]] : []),
    ...warnings.map((warning) => ["Note", warning]),
  ];
  stage.finish({ prompt: input.prompt, seed: input.seed, format: input.output_format, images, facts });
  return images;
}

// A choice in the history. While a job runs, the stage is its own, and only the form changes.
async function show(entry) {
  if (running) {
    settings.fill(entry.input);
    stage.announce("Its settings are in the form.");
    return;
  }
  if (entry.status === "starting" || entry.status === "processing") {
    await follow(entry);
    return;
  }
  shown = entry;
  history.choose(entry.id);
  if (entry.status !== "succeeded") {
    settings.fill(entry.input);
    stage.end("There is no image of this one; its settings are in the form again.");
    return;
  }
  try {
    await display(entry, undefined);
  } catch (error) {
    settings.fill(entry.input);
    const gone = "The service has forgotten this image; its settings are in the form, and its seed generates it again.";
    stage.end(error.status === 404 ? gone : "No image.", error.status === 404 ? "" : error.message);
  }
  byId("stage").scrollIntoView({ block: "nearest" });
}

async function cancel() {
  if (!running?.id || byId("cancel").getAttribute("aria-disabled") === "true") return;
  cancelPressed = true;
  stage.cancelling();
  try {
    await api.cancel(running.id);
  } catch (error) {
    byId("cancel").removeAttribute("aria-disabled");
    showBanner("job-error", error.message);
  }
}

function occupy(id = null) {
  running = { id, controller: running?.controller ?? new AbortController() };
  byId("generate").setAttribute("aria-disabled", "true");
  return running.controller;
}

function release() {
  running = null;
  byId("generate").removeAttribute("aria-disabled");
  // The button to cancel goes with the job; whoever pressed it goes on where the next one begins.
  const isAdrift = [document.body, byId("cancel")].includes(document.activeElement);
  if (cancelPressed && isAdrift) byId("generate").focus();
  cancelPressed = false;
}

function isFinal(status) {
  return status === "succeeded" || status === "failed" || status === "canceled";
}

async function copyAs(button, build) {
  const { input, faults } = settings.read();
  if (faults.length) {
    settings.show(new ApiError(422, "", faults));
    return;
  }
  button.dataset.label ??= button.textContent;
  try {
    await copy(build(input, { needsKey }));
    button.textContent = "Copied";
    stage.announce("Copied");
  } catch (error) {
    showBanner("form-error", `Nothing was copied: ${error.message}.`);
  }
  setTimeout(() => { button.textContent = button.dataset.label; }, COPIED_MILLISECONDS);
}

byId("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
byId("settings").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  }
});
byId("cancel").addEventListener("click", cancel);
byId("key").addEventListener("input", () => sessionStorage.setItem(KEY, byId("key").value.trim()));
byId("forget-key").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  byId("key").value = "";
  byId("key").focus();
});
byId("reuse").addEventListener("click", () => {
  settings.fill(shown.input);
  byId("prompt").focus();
});
byId("reuse-seed").addEventListener("click", () => {
  settings.setSeed(shown.input.seed);
  byId("more").open = true;
  byId("seed").focus();
});
byId("copy-curl").addEventListener("click", (event) => copyAs(event.currentTarget, toCurl));
byId("copy-python").addEventListener("click", (event) => copyAs(event.currentTarget, toPython));

start().catch((error) => showBanner("form-error", error.message));
