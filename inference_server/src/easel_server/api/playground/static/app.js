// Puts the page's parts together.

import { Adapters } from "./adapters.js";
import { Api, ApiError } from "./api.js";
import { Controls } from "./controls.js";
import { byId } from "./dom.js";
import { Hires, Upscaling } from "./enlarging.js";
import { Gallery } from "./gallery.js";
import { fieldWithFocus, imageIn } from "./images.js";
import { InputImage } from "./input_image.js";
import { Jobs } from "./jobs.js";
import { readRecipe } from "./recipes.js";
import { Settings, showBanner } from "./settings.js";
import { copy, toCurl, toPython } from "./snippets.js";
import { Stage } from "./stage.js";

const KEY = "easel.key"; // in sessionStorage: gone with the tab
const NARROW = "(max-width: 820px)"; // as in style.css: there the image comes below the form
const COPIED_MILLISECONDS = 2000;

const api = new Api(() => byId("key").value.trim());
const inputImage = new InputImage((file) => offerRecipe(file));
const settings = new Settings([inputImage, new Adapters(), new Controls(api), new Hires()]);
const stage = new Stage();
const upscaling = new Upscaling();
const gallery = new Gallery((entry) => jobs.show(entry));
const jobs = new Jobs({ api, settings, stage, gallery, upscaling });
let needsKey = false;

async function start() {
  byId("more").open = !matchMedia(NARROW).matches;
  byId("key").value = sessionStorage.getItem(KEY) ?? "";
  const [config] = await Promise.all([api.config(), gallery.open()]);
  byId("model").textContent = config.model;
  byId("synthetic").hidden = !config.is_synthetic;
  needsKey = config.needs_key;
  byId("key-field").hidden = !needsKey;
  settings.apply(config);
  upscaling.apply(config);
  document.documentElement.dataset.ready = "true";
  const { unfinished } = gallery;
  if (unfinished.length && !jobs.isBusy) await jobs.follow(unfinished);
}

// Of a file: into the form, and what of it can't be had here said. Whether it says anything.
async function fillFrom(file) {
  const note = byId("recipe-note");
  note.textContent = "Reading…";
  try {
    const found = await readRecipe(api, file);
    if (!found) {
      note.textContent = `${file.name} says nothing of how it was made.`;
      return false;
    }
    const notes = [...found.notes, ...settings.fill(found.input)];
    note.textContent = [`The settings of ${file.name} are in the form`, ...notes].join("; ") + ".";
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
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
  if (config) for (const part of [...settings.parts, upscaling]) part.apply(config);
});
byId("key").addEventListener("input", () => sessionStorage.setItem(KEY, byId("key").value.trim()));
byId("forget-key").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
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
document.addEventListener("dragover", (event) => event.preventDefault()); // else the browser leaves for the file
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = imageIn(event.dataTransfer);
  if (file) takeDropped(file);
});
document.addEventListener("paste", (event) => {
  const file = imageIn(event.clipboardData);
  if (!file || !inputImage.isOffered) return;
  event.preventDefault();
  (fieldWithFocus() ?? inputImage).take(file);
});

start().catch((error) => showBanner("form-error", error.message));
