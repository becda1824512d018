// The image to begin with, how far the result may leave it, and the mask of what is generated anew.

import { button, byId } from "./dom.js";
import { ImageField, toBlob } from "./images.js";
import { MaskPainter } from "./mask.js";

export class InputImage {
  name = "image";
  title = "Input image";
  isOffered = false;
  #mask = null; // to be put over the image that is on its way

  // ``onImage(file)`` is called with a file that was chosen, dropped or pasted here.
  constructor(onImage) {
    this.painter = new MaskPainter();
    this.onImage = onImage;
  }

  apply({ tasks, limits, bounds, defaults }) {
    Object.assign(this, { bounds, defaults });
    this.isOffered = tasks.includes("ImageToImage");
    this.canMask = tasks.includes("Inpaint");
    byId("part-image").hidden = !this.isOffered;
    if (this.field) return;
    this.field = new ImageField("image", "Input image", limits, (image, file) => this.#change(image, file));
    byId("image-place").replaceChildren(this.field.element, this.painter.element);
  }

  get image() {
    return this.field?.image ?? null;
  }

  read() {
    if (!this.field?.image) return {};
    const mask = this.painter.read();
    const strength = byId("prompt_strength").value.trim();
    return { image: this.field.image.url, ...(mask && { mask }), ...(strength && { prompt_strength: Number(strength) }) };
  }

  fill({ image, mask, prompt_strength: strength }) {
    this.#mask = mask ?? null;
    byId("prompt_strength").value = strength ?? "";
    if (image?.startsWith?.("data:image/")) this.#takeAgain(image);
    else this.field?.clear();
    return strength !== undefined && !image ? ["the input image is not in it: add that one again"] : [];
  }

  take(file) {
    byId("part-image").open = true;
    return this.field.take(file);
  }

  find() {
    if (this.field.isReading) return [{ field: "input.image", description: "is still being read; try again in a moment" }];
    const isNumber = !this.image || !byId("prompt_strength").validity.badInput;
    return isNumber ? [] : [{ field: "input.prompt_strength", description: "is not a number" }];
  }

  focus(field = "") {
    byId("part-image").open = true;
    this.findControl(field).focus();
  }

  #takeAgain(url) {
    const blob = toBlob(url);
    this.isAgain = true; // the size is the form's already
    this.field.take(new File([blob], "the input image", { type: blob.type }));
    byId("part-image").open = true;
  }

  #change(image, file) {
    byId("image-fields").hidden = !image;
    const mask = this.#mask;
    this.#mask = null;
    this.painter.begin(this.canMask ? image : null, image && mask);
    if (image && !this.isAgain) {
      this.#follow(image);
      this.onImage(file);
    }
    this.isAgain = false;
    document.dispatchEvent(new Event("input-image")); // what goes with one or without looks again
  }

  findControl(field) {
    return field.includes("strength") ? byId("prompt_strength") : this.field.input;
  }

  // Of a result, which is what the next one begins with.
  buildButton(index, count, blob) {
    if (!this.isOffered) return [];
    const take = async () => {
      await this.take(new File([blob], `image ${index + 1}`, { type: blob.type }));
      this.focus();
    };
    return [button("Use as input", take, { class: "link", "aria-label": count > 1 ? `Use image ${index + 1} as input` : undefined })];
  }

  // The form's size in the image's proportions, with no more pixels than the service's own size has.
  #follow({ width, height }) {
    const scale = Math.min(1, Math.sqrt((this.defaults.width * this.defaults.height) / (width * height)));
    for (const [name, side] of [["width", width], ["height", height]]) {
      const { min, max, step } = this.bounds[name];
      const steps = Math.min(Math.round((side * scale) / step), Math.floor(max / step));
      byId(name).value = Math.max(min, steps * step);
      byId(name).dispatchEvent(new Event("input"));
    }
    this.field.note.textContent += " Width and height follow it.";
  }
}
