// Puts the page's parts together.

import { Adapters } from "./adapters.js";
import { Api, ApiError } from "./api.js";
import { Controls } from "./controls.js";
import { byId } from "./dom.js";
import { Hires, Upscaling } from "./enlarging.js";
import { Gallery } from "./gallery.js";
import { ImageError, NO_FILE, fieldWithFocus, imageIn } from "./images.js";
import { InputImage } from "./input_image.js";
import { Jobs } from "./jobs.js";
import { readRecipe } from "./recipes.js";
import { Settings, showBanner } from "./settings.js";
import { copy, toCurl, toPython } from "./snippets.js";
import { Stage } from "./stage.js";

const KEY = "easel.key"; // in sessionStorage: gone with the tab
const NARROW = "(max-width: 820px)"; // as in style.css: there the image comes below the form
const RETRY_MILLISECONDS = 3000;
const COPIED_MILLISECONDS = 2000;

const api = new Api(() => byId("key").value.trim());
const inputImage = new InputImage((file) => offerRecipe(file));
const settings = new Settings([inputImage, new Adapters(), new Controls(api, () => inputImage.image), new Hires()]);
const stage = new Stage();
const upscaling = new Upscaling();
const gallery = new Gallery((entry) => jobs.show(entry));
const jobs = new Jobs({ api, settings, stage, gallery, upscaling, inputImage });
let needsKey = false;
let limits = { max_lone_bytes: 0 };

async function start() {
  byId("more").open = !matchMedia(NARROW).matches;
  byId("key").value = keepKey();
  const [config] = await Promise.all([loadConfig(), gallery.open()]);
  byId("model").textContent = config.model;
  byId("synthetic").hidden = !config.is_synthetic;
  needsKey = config.needs_key;
  byId("key-field").hidden = !needsKey;
  settings.apply(config);
  upscaling.apply(config);
  ({ limits } = config);
  document.documentElement.dataset.ready = "true";
  await followUnfinished();
}

async function followUnfinished() {
  const { unfinished } = gallery;
  if (unfinished.length && !jobs.isBusy) await jobs.follow(unfinished);
}

// The key of this tab, changed beforehand where one is given; a browser that keeps nothing has none.
function keepKey(key = null) {
  try {
    if (key === "") sessionStorage.removeItem(KEY);
    else if (key !== null) sessionStorage.setItem(KEY, key);
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

// A service that is away for a moment is asked again, as soon as there is a network.
async function loadConfig() {
  for (let wasAway = false; ; wasAway = true) {
    try {
      const config = await api.config();
      if (wasAway) showBanner("form-error", "");
      return config;
    } catch (error) {
      if (!error.isPassing) throw error;
      showBanner("form-error", `${error.message} The page tries again by itself.`);
    }
    await new Promise((resume) => {
      addEventListener("online", resume, { once: true });
      setTimeout(resume, RETRY_MILLISECONDS);
    });
  }
}

// Of a file: into the form, and what of it can't be had here said. Whether it says anything.
async function fillFrom(file) {
  const note = byId("recipe-note");
  note.textContent = "Reading…";
  try {
    const { input, notes } = await readRecipe(api, file, limits.max_lone_bytes);
    if (!input) {
      note.textContent = `${[`${file.name} says nothing of how it was made`, ...notes].join("; ")}.`;
      return false;
    }
    const missing = settings.fill(input);
    note.textContent = `${[`The settings of ${file.name} are in the form`, ...notes, ...missing].join("; ")}.`;
    return true;
  } catch (error) {
    if (!(error instanceof ApiError || error instanceof ImageError)) throw error;
    note.textContent = `${file.name} can’t be read: ${error.message}`;
    return false;
  }
}

let offered = null; // the input image's file, for its settings

function offerRecipe(file) {
  offered = file;
  byId("use-recipe").hidden = !file;
}

// Dropped beside all places for images: its settings; one without any is what to begin with.
async function takeDropped(file) {
  if (!(await fillFrom(file)) && inputImage.isOffered) await inputImage.take(file);
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
  jobs.generate();
});
byId("settings").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    jobs.generate();
  }
});
byId("cancel").addEventListener("click", () => jobs.cancel());
byId("key").addEventListener("change", async () => {
  // What the service offers is told to who has a key; a wrong one is said with the next request.
  const config = await api.config().catch(() => null);
  if (!config) return;
  settings.offer(config);
  upscaling.apply(config);
  await followUnfinished();
});
byId("key").addEventListener("input", () => keepKey(byId("key").value.trim()));
byId("forget-key").addEventListener("click", () => {
  keepKey("");
  byId("key").value = "";
  byId("key").focus();
});
byId("reuse").addEventListener("click", async () => {
  const notes = await jobs.reuse(jobs.shown);
  byId("recipe-note").textContent = notes.join("; ");
  byId("prompt").focus();
});
byId("reuse-seed").addEventListener("click", () => {
  settings.setSeed(jobs.shown.input.seed);
  byId("more").open = true;
  byId("seed").focus();
});
byId("recipe").addEventListener("change", async ({ currentTarget: control }) => {
  const [file] = control.files;
  if (file) await fillFrom(file);
  control.value = "";
});
byId("use-recipe").addEventListener("click", () => fillFrom(offered));
byId("copy-curl").addEventListener("click", (event) => copyAs(event.currentTarget, toCurl));
byId("copy-python").addEventListener("click", (event) => copyAs(event.currentTarget, toPython));
// Else the browser leaves for the file or the address. A text may be dropped into a field, as anywhere.
function isForField({ target, dataTransfer }) {
  return target.matches?.("textarea, input:not([type=file])") && !dataTransfer?.types.includes("Files");
}

document.addEventListener("dragover", (event) => {
  if (!isForField(event)) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (isForField(event)) return;
  event.preventDefault();
  const file = imageIn(event.dataTransfer);
  if (file) takeDropped(file);
  else byId("recipe-note").textContent = NO_FILE;
});
document.addEventListener("paste", (event) => {
  const file = imageIn(event.clipboardData);
  if (!file || !inputImage.isOffered) return;
  // Office programs offer an image of the text that was copied beside it: whoever writes wants the text.
  const isWriting = event.target.matches?.("textarea, input") && event.clipboardData.getData("text/plain");
  if (isWriting) return;
  event.preventDefault();
  (fieldWithFocus() ?? inputImage).take(file);
});

start().catch((error) => showBanner("form-error", error.message));
