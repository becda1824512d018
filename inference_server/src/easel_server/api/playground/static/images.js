// Images that somebody brings: dropped, pasted or chosen, made small enough for the service, and said so.

import { button, make } from "./dom.js";

const MAX_FILE_BYTES = 64 * 1024 * 1024; // of what is decoded here
const MAX_PIXELS = 2 ** 28; // of a PNG: a gibibyte
const TAKEN_AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp"]);
// https://www.w3.org/TR/png-3/#5DataRep
const SIGNATURE_BYTES = 8;
const HEADER_BYTES = 33; // signature and IHDR
const PNG_MAGIC = 0x89504e47;
const TEXTS = new Set(["tEXt", "zTXt", "iTXt", "eXIf"]);
const MAX_TEXT_BYTES = 1024 * 1024;
const MAX_CHUNKS = 100_000; // an image of 64 MiB in pieces of a kilobyte has fewer
const PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==";
const QUALITY = 0.95; // of what would be too large without loss

export class ImageError extends Error {}

// {blob, url, name, width, height, note} within {max_width, max_height, max_pixels, max_bytes}; throws ImageError.
export async function readImage(file, limits) {
  const name = file.name || "The image";
  if (file.size > MAX_FILE_BYTES) {
    throw new ImageError(`${name} has ${mebibytes(file.size)}; at most ${mebibytes(MAX_FILE_BYTES)} are read here.`);
  }
  const announced = await readPngSize(file);
  if (announced && announced.width * announced.height > MAX_PIXELS) {
    const { width, height } = announced;
    throw new ImageError(`${name} has ${width} × ${height} pixels; at most ${Math.floor(MAX_PIXELS / 1e6)} megapixels are read here.`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new ImageError(`${name} can’t be read as an image. Choose a PNG, JPEG or WebP.`);
  }
  const { width, height } = bitmap;
  const scale = Math.min(
    1, limits.max_width / width, limits.max_height / height, Math.sqrt(limits.max_pixels / (width * height)));
  try {
    const [blob, size] = await fit(file, bitmap, scale, limits.max_bytes);
    const note = size[0] === width && size[1] === height ? "" :
      `Reduced from ${width} × ${height}: this service takes no larger ones.`;
    return { blob, url: await toDataUrl(blob), name, width: size[0], height: size[1], note };
  } finally {
    bitmap.close();
  }
}

// Of a PNG, whose few bytes may stand for more pixels than memory holds; null for others.
async function readPngSize(file) {
  const head = new DataView(await file.slice(0, HEADER_BYTES).arrayBuffer());
  if (head.byteLength < HEADER_BYTES || head.getUint32(0) !== PNG_MAGIC) return null;
  return { width: head.getUint32(16), height: head.getUint32(20) };
}

async function fit(file, bitmap, scale, maxBytes) {
  const own = [bitmap.width, bitmap.height];
  if (scale === 1 && TAKEN_AS_THEY_ARE.has(file.type) && file.size <= maxBytes) return [file, own];
  for (let share = scale; share > scale / 16; share /= Math.SQRT2) {
    const size = own.map((side) => Math.max(1, Math.floor(side * share)));
    const canvas = new OffscreenCanvas(...size);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, ...size);
    for (const options of [{ type: "image/png" }, { type: "image/webp", quality: QUALITY }]) {
      const blob = await canvas.convertToBlob(options);
      if (blob.size <= maxBytes) return [blob, size];
    }
  }
  throw new ImageError(`${file.name || "The image"} can’t be made small enough for this service.`);
}

// An image that is sent alone: as it is, or where it has more bytes than that, as a WebP of the same size.
export async function toFitting(blob, maxBytes) {
  if (blob.size <= maxBytes) return blob;
  const bitmap = await createImageBitmap(blob);
  try {
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    for (const quality of [1, QUALITY]) { // 1: without loss
      const smaller = await canvas.convertToBlob({ type: "image/webp", quality });
      if (smaller.size <= maxBytes) return smaller;
    }
  } finally {
    bitmap.close();
  }
  throw new ImageError(`The image has ${mebibytes(blob.size)}; this service takes at most ${mebibytes(maxBytes)}.`);
}

// What an image says of itself, without the rest: of a PNG its texts around a single pixel. Throws ImageError.
export async function toDescribing(file, maxBytes) {
  const head = new DataView(await file.slice(0, SIGNATURE_BYTES).arrayBuffer());
  const isPng = head.byteLength === SIGNATURE_BYTES && head.getUint32(0) === PNG_MAGIC;
  if (!isPng) {
    if (file.size > maxBytes) throw new ImageError(`it has ${mebibytes(file.size)}, at most ${mebibytes(maxBytes)} are read for settings`);
    return file;
  }
  const texts = [];
  let bytes = 0;
  for (let at = SIGNATURE_BYTES, count = 0; at + 12 <= file.size && count < MAX_CHUNKS; count += 1) {
    const chunk = new DataView(await file.slice(at, at + 8).arrayBuffer()); // its length and its type
    const length = chunk.getUint32(0) + 12;
    const type = String.fromCharCode(...new Uint8Array(chunk.buffer, 4, 4));
    if (TEXTS.has(type) && bytes + length <= MAX_TEXT_BYTES) {
      texts.push(file.slice(at, at + length));
      bytes += length;
    }
    if (type === "IEND") break;
    at += length;
  }
  const pixel = toBlob(PIXEL);
  return new Blob([pixel.slice(0, HEADER_BYTES), ...texts, pixel.slice(HEADER_BYTES)], { type: "image/png" });
}

// [width, height] in pixels. Throws ImageError.
export async function measure(blob) {
  try {
    const bitmap = await createImageBitmap(blob);
    const size = [bitmap.width, bitmap.height];
    bitmap.close();
    return size;
  } catch {
    throw new ImageError("The image that the service sent can’t be shown here.");
  }
}

export function toDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// Of a data: URL of ours; a page may not fetch it.
export function toBlob(url) {
  const [head, encoded] = url.split(",", 2);
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: /^data:([^;]*)/.exec(head)[1] });
}

// The image of what was dropped or pasted, else any file of it, so that it can be said what is wrong with it; or null.
export function imageIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find(({ type }) => type.startsWith("image/")) ?? files[0] ?? null;
}

// Of what is dropped without a file.
export const NO_FILE = "Nothing of it is a file: save the image first, then drop that file here.";

function mebibytes(bytes) {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

const fields = new Set(); // that are on the page: a pasted image goes to the one that has the focus

export function fieldWithFocus() {
  return [...fields].find(({ element }) => element.contains(document.activeElement)) ?? null;
}

// A place for one image. ``onChange(image or null, file or null)`` is called when there is another.
export class ImageField {
  constructor(id, label, limits, onChange) {
    this.image = null;
    this.turn = 0; // of files: the last one counts, however long others take to be read
    this.isReading = false;
    this.limits = limits;
    this.onChange = onChange;
    this.input = make("input", { id, type: "file", accept: "image/*", "aria-describedby": `${id}-hint ${id}-note` });
    this.input.addEventListener("change", () => this.take(this.input.files[0]));
    this.shown = make("img", { alt: "" });
    this.caption = make("figcaption", {});
    this.figure = make("figure", { hidden: true }, this.shown, this.caption);
    this.removal = button("Remove", () => { this.clear(); this.input.focus(); }, { "aria-label": `Remove: ${label}`, hidden: true });
    this.note = make("p", { id: `${id}-note`, class: "hint", role: "status" });
    const hint = make("p", { id: `${id}-hint`, class: "hint" }, "Choose a file, drop one here, or paste one.");
    this.element = make(
      "div", { class: "image-field" }, make("label", { for: id }, label), this.input, hint, this.figure, this.note, this.removal);
    this.element.addEventListener("dragover", (event) => this.#hover(event, true));
    this.element.addEventListener("dragleave", (event) => this.#hover(event, false));
    this.element.addEventListener("drop", (event) => {
      this.#hover(event, false);
      event.stopPropagation();
      const file = imageIn(event.dataTransfer);
      if (file) this.take(file);
      else this.#refuse(NO_FILE);
    });
    fields.add(this);
  }

  #hover(event, isOver) {
    event.preventDefault();
    this.element.classList.toggle("is-over", isOver);
  }

  async take(file) {
    if (!file) return;
    this.turn += 1;
    const { turn } = this;
    this.isReading = true;
    this.note.textContent = "Reading…";
    this.note.classList.remove("error");
    try {
      const image = await readImage(file, this.limits);
      if (turn === this.turn) this.set(image, file);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      if (turn === this.turn) this.#refuse(error.message);
    } finally {
      if (turn === this.turn) this.isReading = false;
      this.input.value = ""; // the same file may be chosen once more
    }
  }

  #refuse(text) {
    this.note.textContent = text;
    this.note.classList.add("error");
  }

  set(image, file = null) {
    this.image = image;
    this.shown.src = image.url;
    this.shown.alt = image.name;
    this.caption.textContent = `${image.name}, ${image.width} × ${image.height}`;
    this.figure.hidden = this.removal.hidden = false;
    this.note.textContent = image.note;
    this.note.classList.remove("error");
    this.onChange(image, file);
  }

  clear() {
    this.turn += 1; // what is still read comes too late
    this.isReading = false;
    this.shown.removeAttribute("src");
    this.figure.hidden = this.removal.hidden = true;
    this.note.textContent = "";
    this.note.classList.remove("error");
    const hadOne = this.image !== null;
    this.image = null;
    if (hadOne) this.onChange(null, null);
  }

  discard() {
    fields.delete(this);
    this.element.remove();
  }
}
