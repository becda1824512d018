// What was generated in this browser: settings, seeds and small images in localStorage, the newest first.

const STORAGE = "easel.history.1";
const MAX_ENTRIES = 24;
const THUMBNAIL_PIXELS = 160;
const UNFINISHED = new Set(["starting", "processing"]);

export class History {
  // ``onChoose(entry)`` is called when one is chosen.
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.chosen = null;
    this.entries = load();
    this.isStored = true; // what is in the storage is what is here
    document.getElementById("clear-history").addEventListener("click", () => this.clear());
    window.addEventListener("storage", ({ key }) => {
      if (key === STORAGE) this.#reload(); // another tab generated something
    });
    this.#render();
  }

  // The newest, if it wasn't over when the page was left.
  get unfinished() {
    const [newest] = this.entries;
    return newest && UNFINISHED.has(newest.status) ? newest : null;
  }

  add(entry) {
    this.#reload();
    this.entries = [entry, ...this.entries.filter(({ id }) => id !== entry.id)].slice(0, MAX_ENTRIES);
    this.choose(entry.id);
    this.#save();
  }

  update(id, changes) {
    this.#reload();
    const entry = this.entries.find((candidate) => candidate.id === id);
    if (!entry) return; // cleared meanwhile
    Object.assign(entry, changes);
    this.#save();
    this.#render();
  }

  choose(id) {
    this.chosen = id;
    this.#render();
  }

  clear() {
    this.entries = [];
    this.#save();
    this.#render();
    document.getElementById("prompt").focus();
  }

  // Other tabs write too; each change is made to what all have.
  #reload() {
    if (this.isStored) this.entries = load();
    this.#render();
  }

  #save() {
    // A full or forbidden storage costs images first, and never the page.
    this.isStored = false;
    for (let images = this.entries.length; images >= 0; images -= 1) {
      const kept = this.entries.map((entry, index) => (index < images ? entry : { ...entry, thumbnail: undefined }));
      try {
        localStorage.setItem(STORAGE, JSON.stringify(kept));
        this.isStored = true;
        return;
      } catch {
        continue;
      }
    }
  }

  #render() {
    const list = document.getElementById("history");
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    list.replaceChildren(...this.entries.map((entry) => this.#build(entry)));
    document.getElementById("history-empty").hidden = this.entries.length > 0;
    document.getElementById("clear-history").hidden = this.entries.length === 0;
    if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  #build(entry) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = entry.id;
    button.title = entry.input.prompt;
    if (entry.id === this.chosen) button.setAttribute("aria-current", "true");
    const caption = document.createElement("span");
    caption.className = "caption";
    caption.textContent = entry.input.prompt;
    const seed = document.createElement("span");
    seed.className = "caption";
    seed.textContent = entry.status === "succeeded" ? `Seed ${entry.input.seed}` : WORDS[entry.status] ?? entry.status;
    button.append(buildImage(entry), caption, seed);
    button.addEventListener("click", () => this.onChoose(entry));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }
}

const WORDS = { starting: "Waiting", processing: "Generating", failed: "Failed", canceled: "Cancelled", expired: "Expired" };

function buildImage(entry) {
  if (!entry.thumbnail) {
    const blank = document.createElement("span");
    blank.className = "blank";
    blank.setAttribute("aria-hidden", "true");
    return blank;
  }
  const image = document.createElement("img");
  image.src = entry.thumbnail;
  image.alt = "";
  return image;
}

function load() {
  try {
    const entries = JSON.parse(localStorage.getItem(STORAGE)) ?? [];
    return entries.filter((entry) => typeof entry?.id === "string" && typeof entry.input?.prompt === "string");
  } catch {
    return [];
  }
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
