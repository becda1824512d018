// ControlNets: which net, the image that holds the result to it, and what the net sees of that image.

import { ApiError } from "./api.js";
import { button, byId, choices, labelled, make, numberWithSlider } from "./dom.js";
import { ImageField, toBlob } from "./images.js";

const WEIGHTS = { min: 0, max: 2, step: 0.05, value: 1 };
const NONE = "none"; // the image is what the net takes already

export class Controls {
  name = "controlnet";
  title = "ControlNet";
  #units = [];
  #count = 0; // of all that there were: ids are used once

  constructor(api) {
    this.api = api;
    byId("add-control").addEventListener("click", () => {
      if (this.#units.length < this.limits.max_controls) this.#add().net.focus();
    });
  }

  apply({ control_nets: nets, preprocessors, limits, features }) {
    Object.assign(this, { nets, preprocessors, limits });
    this.isOffered = features.includes("ControlNets") && nets.length > 0 && limits.max_controls > 0;
    byId("part-controlnet").hidden = !this.isOffered;
    this.#render();
  }

  read() {
    const units = this.#units.filter(({ field }) => field.image);
    return units.length ? { controlnet: units.map((unit) => unit.read()) } : {};
  }

  // A unit without an image asks for nothing, which is a mistake.
  find() {
    const isEmpty = this.#units.some(({ field }) => !field.image);
    return isEmpty ? [{ field: "input.controlnet", description: "needs an image; choose one, or remove it" }] : [];
  }

  fill({ controlnet = [] }) {
    for (const unit of [...this.#units]) this.#remove(unit);
    const notes = [];
    for (const one of this.isOffered ? controlnet : []) {
      if (!this.nets.includes(one.model)) notes.push(`the ControlNet ${one.model} is none of this service’s`);
      else this.#add().fill(one);
    }
    if (controlnet.some(({ image }) => !image)) notes.push("the ControlNet’s image is not in it: choose it again");
    return notes;
  }

  focus() {
    byId("part-controlnet").open = true;
    (this.#units.find(({ field }) => !field.image)?.field.input ?? byId("add-control")).focus();
  }

  #add() {
    this.#count += 1;
    const unit = new Unit(this.#count, this, () => {
      this.#remove(unit);
      byId("add-control").focus();
    });
    this.#units.push(unit);
    byId("controls").append(unit.element);
    this.#render();
    return unit;
  }

  #remove(unit) {
    unit.discard();
    this.#units = this.#units.filter((other) => other !== unit);
    this.#render();
  }

  #render() {
    byId("add-control").setAttribute("aria-disabled", String(this.#units.length >= this.limits.max_controls));
    byId("controlnet-hint").textContent = `${this.#units.length} of at most ${this.limits.max_controls} in use.`;
  }
}

class Unit {
  #asking = null; // AbortController of the preview that is on its way

  constructor(number, { nets, preprocessors, limits, api }, onRemove) {
    const id = (name) => `control-${number}-${name}`;
    this.api = api;
    this.net = make("select", { id: id("net") });
    choices(this.net, nets);
    this.preprocessor = make("select", { id: id("preprocessor") });
    this.preprocessor.append(new Option("None: it is a control image", NONE));
    this.preprocessor.append(...preprocessors.filter((name) => name !== NONE).map((name) => new Option(name, name)));
    this.field = new ImageField(id("image"), "Control image", limits, () => this.#preview());
    this.weight = numberWithSlider(id("weight"), "Weight", WEIGHTS);
    this.start = make("input", { id: id("start"), type: "number", min: 0, max: 1, step: "any", value: 0, inputmode: "decimal" });
    this.end = make("input", { id: id("end"), type: "number", min: 0, max: 1, step: "any", value: 1, inputmode: "decimal" });
    this.seen = make("img", { alt: "What the ControlNet sees" });
    this.figure = make("figure", { hidden: true }, this.seen, make("figcaption", {}, "What the net sees"));
    this.state = make("p", { class: "hint", role: "status" });
    this.preprocessor.addEventListener("change", () => this.#preview());
    this.element = make(
      "fieldset", { class: "unit" }, make("legend", {}, `ControlNet ${number}`),
      labelled("Net", this.net), labelled("Preprocessor", this.preprocessor), this.field.element, this.state, this.figure,
      this.weight.field,
      make("div", { class: "grid" }, labelled("From (share of steps)", this.start), labelled("To (share of steps)", this.end)),
      button("Remove this ControlNet", onRemove, { "aria-label": `Remove ControlNet ${number}` }));
  }

  read() {
    const number = (control) => (control.value.trim() ? Number(control.value) : undefined);
    const unit = {
      model: this.net.value,
      image: this.field.image.url,
      preprocessor: this.preprocessor.value,
      weight: number(this.weight.number),
      start: number(this.start),
      end: number(this.end),
    };
    return Object.fromEntries(Object.entries(unit).filter(([, value]) => value !== undefined));
  }

  fill({ model, image, preprocessor, weight, start, end }) {
    this.net.value = model;
    if ([...this.preprocessor.options].some(({ value }) => value === preprocessor)) this.preprocessor.value = preprocessor;
    this.weight.set(weight ?? WEIGHTS.value);
    this.start.value = start ?? 0;
    this.end.value = end ?? 1;
    if (image?.startsWith?.("data:image/")) this.field.take(new File([toBlob(image)], "control image", { type: toBlob(image).type }));
  }

  discard() {
    this.#asking?.abort();
    this.field.discard();
    this.element.remove();
  }

  async #preview() {
    this.#asking?.abort();
    this.figure.hidden = true;
    this.state.textContent = "";
    const { image } = this.field;
    if (!image || this.preprocessor.value === NONE) return;
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    this.state.textContent = "Looking at the image…";
    try {
      const [seen] = await this.api.detect(this.preprocessor.value, image.url, signal);
      this.seen.src = `data:image/png;base64,${seen}`;
      this.figure.hidden = false;
      this.state.textContent = "The preview is there.";
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      this.state.textContent = `No preview: ${error.message}`;
    }
  }
}
