// What was generated in this browser, the newest first: settings, seeds and images, over reloads and in all tabs.

import { button, byId, make } from "./dom.js";
import { Store } from "./store.js";

const BEFORE = "easel.history.1"; // in localStorage, of pages before this one
const MAX_ENTRIES = 100;
const MAX_BYTES = 200 * 1024 * 1024; // of images; the oldest go first
const THUMBNAIL_PIXELS = 160;
const UNFINISHED = new Set(["starting", "processing"]);
const WORDS = { starting: "Waiting", processing: "Generating", failed: "Failed", canceled: "Cancelled", expired: "Expired" };

export class Gallery {
  #store = new Store();
  #tabs = new BroadcastChannel("easel.gallery");
  #isStored = false;
  #unstored = new Map(); // images by id, where the browser keeps none

  // ``onChoose(entry)`` is called when one is chosen.
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.chosen = null;
    this.entries = [];
    byId("clear-history").addEventListener("click", () => this.clear());
    this.#tabs.onmessage = () => this.#reload();
  }

  async open() {
    try {
      await this.#store.open();
      this.#isStored = true;
      await this.#takeOver();
      await this.#reload();
    } catch (error) {
      this.#refuse(error);
    }
  }

  // Not over when the page was left, the oldest first.
  get unfinished() {
    return this.entries.filter(({ status }) => UNFINISHED.has(status)).reverse();
  }

  // ``inputs``: what was sent and the service doesn't answer with.
  async add(entry, inputs = {}) {
    const bytes = sizeOf({ inputs });
    const added = { ...entry, bytes, at: Math.max(Date.now(), (this.entries[0]?.at ?? 0) + 1) };
    this.entries = [added, ...this.entries.filter(({ id }) => id !== entry.id)];
    this.choose(entry.id);
    if (bytes) await this.#keep(entry.id, { images: [], inputs });
    await this.#write(() => this.#store.put(added));
    for (const { id } of this.entries.slice(MAX_ENTRIES)) await this.#forget(id);
    this.#render();
    this.#tell();
  }

  async update(id, changes) {
    const entry = this.entries.find((candidate) => candidate.id === id);
    if (!entry) return; // deleted meanwhile
    Object.assign(entry, changes);
    await this.#write(() => this.#store.update(id, changes));
    this.#render();
    this.#tell();
  }

  // The full images of one that is there.
  async keep(id, images) {
    if (!this.entries.some((entry) => entry.id === id)) return;
    const { inputs = {} } = (await this.read(id)) ?? {};
    await this.#keep(id, { images, inputs });
    await this.update(id, { bytes: sizeOf({ images, inputs }) });
    await this.#makeRoom(MAX_BYTES);
  }

  // {images, inputs} as far as they are kept, or undefined.
  async read(id) {
    if (this.#unstored.has(id)) return this.#unstored.get(id);
    return this.#isStored ? this.#store.read(id).catch(() => undefined) : undefined;
  }

  choose(id) {
    this.chosen = id;
    this.#render();
  }

  async remove(id) {
    const index = this.entries.findIndex((entry) => entry.id === id);
    await this.#forget(id);
    this.#render();
    this.#tell();
    const rest = byId("history").querySelectorAll(".delete");
    (rest[Math.min(index, rest.length - 1)] ?? byId("prompt")).focus();
  }

  async clear() {
    this.entries = [];
    this.#unstored.clear();
    await this.#write(() => this.#store.clear());
    this.#render();
    this.#tell();
    byId("prompt").focus();
  }

  async #forget(id) {
    this.entries = this.entries.filter((entry) => entry.id !== id);
    this.#unstored.delete(id);
    await this.#write(() => this.#store.delete(id));
  }

  // Images of a full storage: the oldest make room; without any left, they stay in this tab's memory only.
  async #keep(id, content) {
    while (this.#isStored) {
      try {
        await this.#store.keep(id, content);
        return;
      } catch (error) {
        if (await this.#dropOldest(id)) continue;
        this.#say(describeRefusal(error));
        break;
      }
    }
    this.#unstored.set(id, content);
  }

  async #makeRoom(bytes) {
    while (this.#bytes > bytes && (await this.#dropOldest(this.entries[0].id)));
    this.#render();
  }

  // Whether there was one; its settings stay. ``spared`` is the one that room is made for.
  async #dropOldest(spared) {
    const oldest = this.entries.findLast(({ id, bytes }) => bytes && id !== spared);
    if (!oldest) return false;
    oldest.bytes = 0;
    this.#unstored.delete(oldest.id);
    await this.#write(() => this.#store.drop(oldest.id));
    await this.#write(() => this.#store.update(oldest.id, { bytes: 0 }));
    return true;
  }

  get #bytes() {
    return this.entries.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);
  }

  async #write(work) {
    if (!this.#isStored) return;
    try {
      await work();
    } catch (error) {
      this.#say(describeRefusal(error));
    }
  }

  #refuse(error) {
    this.#isStored = false;
    this.#say(describeRefusal(error));
    this.#render();
  }

  #say(text) {
    byId("history-refused").textContent = text;
    byId("history-refused").hidden = !text;
  }

  #tell() {
    this.#tabs.postMessage("changed");
  }

  async #reload() {
    if (!this.#isStored) return;
    const entries = await this.#store.list().catch(() => this.entries);
    this.entries = entries.filter(isEntry).sort((one, other) => other.at - one.at);
    this.#render();
  }

  async #takeOver() {
    let entries;
    try {
      entries = JSON.parse(localStorage.getItem(BEFORE)) ?? [];
    } catch {
      entries = [];
    }
    if (!Array.isArray(entries)) entries = [];
    for (const [index, entry] of entries.filter(isEntry).slice(0, MAX_ENTRIES).entries()) {
      await this.#store.put({ ...entry, at: MAX_ENTRIES - index });
    }
    if (entries.length) localStorage.removeItem(BEFORE);
  }

  #render() {
    const list = byId("history");
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const { id, action } = focused?.dataset ?? {};
    list.replaceChildren(...this.entries.map((entry) => this.#build(entry)));
    const { length } = this.entries;
    byId("history-empty").hidden = length > 0;
    byId("clear-history").hidden = length === 0;
    const megabytes = (this.#bytes / 1024 / 1024).toFixed(1);
    byId("history-count").textContent = length
      ? `${length} of at most ${MAX_ENTRIES}, ${megabytes} of at most ${MAX_BYTES / 1024 / 1024} MiB; the oldest go first.`
      : "";
    if (focused) list.querySelector(`[data-id="${CSS.escape(id)}"][data-action="${action}"]`)?.focus();
  }

  #build(entry) {
    const { id, status, input } = entry;
    const state = status === "succeeded" ? describe(input) : WORDS[status] ?? status;
    const choose = button("", () => this.onChoose(entry), {
      class: "choose",
      title: input.prompt,
      "data-id": id,
      "data-action": "choose",
      "aria-current": id === this.chosen && "true",
    });
    choose.append(buildImage(entry), make("span", { class: "caption" }, input.prompt), make("span", { class: "caption" }, state));
    const label = `Delete ${input.prompt}`;
    const remove = button("×", () => this.remove(id), { class: "delete", "aria-label": label, "data-id": id, "data-action": "delete" });
    return make("li", {}, choose, remove);
  }
}

function describe({ seed, upscale }) {
  return upscale ? `Upscaled, seed ${seed}` : `Seed ${seed}`;
}

function buildImage({ thumbnail }) {
  if (!thumbnail?.startsWith?.("data:image/")) return make("span", { class: "blank", "aria-hidden": "true" });
  return make("img", { src: thumbnail, alt: "" });
}

function isEntry(entry) {
  return typeof entry?.id === "string" && typeof entry.input?.prompt === "string";
}

function describeRefusal(error) {
  const why = error?.name === "QuotaExceededError" ? "its storage is full" : error?.message || error?.name || "it says no";
  return `This browser doesn’t keep what is generated here (${why}): it is gone when the page is closed. Download what you need.`;
}

function sizeOf({ images = [], inputs = {} }) {
  const texts = JSON.stringify(inputs).length;
  return images.reduce((sum, { size }) => sum + size, 0) + (texts > 2 ? texts : 0);
}

// A data: URL of a few kilobytes.
export async function toThumbnail(blob) {
  const image = await createImageBitmap(blob);
  const scale = Math.min(1, THUMBNAIL_PIXELS / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
  return canvas.toDataURL("image/webp", 0.75);
}
