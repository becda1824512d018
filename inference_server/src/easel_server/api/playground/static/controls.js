// ControlNets: which net, the image that holds the result to it, and what the net sees of that image.

import { ApiError } from "./api.js";
import { button, byId, choices, labelled, make, numberWithSlider } from "./dom.js";
import { ImageField, toBlob } from "./images.js";

const WEIGHTS = { min: 0, max: 2, step: 0.05, value: 1 };
const NONE = "none"; // the image is what the net takes already
const SETTLED_MILLISECONDS = 400; // after the last move of a threshold, the preview is asked for

export class Controls {
  name = "controlnet";
  title = "ControlNet";
  #units = [];
  #count = 0; // of all that there were: ids are used once

  // ``readBegun()`` gives the image to begin with, or null.
  constructor(api, readBegun) {
    this.api = api;
    this.readBegun = readBegun;
    document.addEventListener("input-image", () => {
      for (const unit of this.#units.filter(({ field }) => !field.image)) unit.preview();
    });
    document.addEventListener("second-pass", () => {
      for (const unit of this.#units) unit.showPasses();
    });
    byId("add-control").addEventListener("click", () => {
      if (this.#units.length < this.offer.limits.max_controls) this.#add().net.focus();
    });
  }

  apply(offer) {
    this.offer = offer;
    this.isOffered = offer.control_nets.length > 0 && offer.limits.max_controls > 0;
    byId("part-controlnet").hidden = !this.isOffered;
    this.#render();
  }

  // A unit without an image of its own looks at the input image, as ``find`` makes sure.
  read() {
    return this.#units.length ? { controlnet: this.#units.map((unit) => unit.read()) } : {};
  }

  find(input) {
    const reading = this.#units.findIndex(({ field }) => field.isReading);
    if (reading >= 0) return [{ field: `input.controlnet[${reading}].image`, description: "is still being read; try again in a moment" }];
    const isLacking = ({ field }) => !field.image && !input.image;
    const faults = this.#units.some(isLacking) ? [{ field: "input.controlnet", description: "needs an image; choose one, or remove it" }] : [];
    return [...faults, ...this.#units.flatMap((unit, index) => unit.find(`input.controlnet[${index}]`))];
  }

  fill({ controlnet = [], image: begun }) {
    for (const unit of [...this.#units]) this.#remove(unit);
    const notes = [];
    const asked = this.isOffered ? controlnet : [];
    for (const one of asked.slice(0, this.offer.limits.max_controls)) {
      if (!this.offer.control_nets.includes(one.model)) notes.push(`the ControlNet ${one.model} is none of this service’s`);
      else notes.push(...this.#add().fill(one));
    }
    if (controlnet.length && !this.isOffered) notes.push("this service has no ControlNets");
    if (this.#units.some(({ isFilled }) => !isFilled) && !begun) notes.push("the ControlNet’s image is not in it: choose it again");
    if (this.#units.length) byId("part-controlnet").open = true;
    return notes;
  }

  titleOf(field) {
    return this.#units[Number(/controlnet\[(\d+)\]/.exec(field)?.[1])]?.title ?? this.title;
  }

  findControl(field) {
    const [, index, name] = /controlnet\[(\d+)\](?:\.(\w+))?/.exec(field) ?? [];
    const unit = this.#units[Number(index)];
    return unit?.findControl(name) ?? this.#units.find(({ field: own }) => !own.image)?.field.input ?? byId("add-control");
  }

  focus(field = "") {
    byId("part-controlnet").open = true;
    this.findControl(field).focus();
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
    const { max_controls: most } = this.offer.limits;
    byId("add-control").setAttribute("aria-disabled", String(this.#units.length >= most));
    byId("controlnet-hint").textContent = `${this.#units.length} of at most ${most} in use.`;
  }
}

class Unit {
  #asking = null; // AbortController of the preview that is on its way
  #thresholds = []; // {field, number, set} of the preprocessor's numbers
  isFilled = false; // with an image that is still being read

  constructor(number, { offer, api, readBegun }, onRemove) {
    const { control_nets: nets, preprocessors, control_modes: modes, control_fits: fits, limits } = offer;
    const { control_types: kinds, control_passes: passes } = offer;
    Object.assign(this, { api, readBegun, title: `ControlNet ${number}`, id: (name) => `control-${number}-${name}` });
    this.offered = preprocessors;
    this.net = this.#choice("net", nets);
    this.mode = this.#choice("mode", modes);
    this.fit = this.#choice("fit", fits);
    if (fits.includes("Crop and Resize")) this.fit.value = "Crop and Resize"; // as the service does without being told
    this.kind = this.#choice("kind", kinds);
    this.kind.prepend(new Option("As the preprocessor makes it", "", true, true));
    this.passes = this.#choice("passes", passes);
    this.passesField = labelled("In which pass", this.passes);
    this.preprocessor = this.#choice("preprocessor", preprocessors.map(({ name }) => name).filter((name) => name !== NONE));
    this.preprocessor.prepend(new Option("None: it is a control image", NONE, true, true));
    this.field = new ImageField(this.id("image"), "Control image", limits, () => this.preview());
    this.weight = numberWithSlider(this.id("weight"), "Weight", WEIGHTS);
    [this.start, this.end] = [["start", 0], ["end", 1]].map(([name, value]) =>
      make("input", { id: this.id(name), type: "number", min: 0, max: 1, step: "any", value, inputmode: "decimal" }));
    this.numbers = make("div", { class: "rows" });
    this.seen = make("img", { alt: "What the ControlNet sees" });
    this.figure = make("figure", { hidden: true }, this.seen, make("figcaption", {}, "What the net sees"));
    this.state = make("p", { class: "hint", role: "status" });
    this.preprocessor.addEventListener("change", () => { this.#showThresholds(); this.preview(); });
    this.showPasses();
    this.element = make(
      "fieldset", { class: "unit" }, make("legend", {}, this.title),
      labelled("Net", this.net), labelled("Preprocessor", this.preprocessor), this.numbers, this.field.element, this.state,
      this.figure, this.weight.field,
      make("div", { class: "grid" }, labelled("From (share of steps)", this.start), labelled("To (share of steps)", this.end)),
      labelled("What counts for more", this.mode), labelled("Other proportions", this.fit),
      labelled("Kind of control image (for a union net)", this.kind), this.passesField,
      button("Remove this ControlNet", onRemove, { "aria-label": `Remove ControlNet ${number}` }));
  }

  read() {
    const [a, b] = this.#thresholds.map(({ number }) => read(number));
    const unit = {
      model: this.net.value,
      image: this.field.image?.url,
      preprocessor: this.preprocessor.value,
      threshold_a: a,
      threshold_b: b,
      weight: read(this.weight.number),
      start: read(this.start),
      end: read(this.end),
      mode: this.mode.selectedIndex > 0 ? this.mode.value : undefined,
      resize_mode: this.fit.value === "Crop and Resize" ? undefined : this.fit.value,
      control_type: this.kind.value || undefined,
      hr_option: this.passesField.hidden || this.passes.selectedIndex <= 0 ? undefined : this.passes.value,
    };
    return Object.fromEntries(Object.entries(unit).filter(([, value]) => value !== undefined));
  }

  find(field) {
    const names = ["weight", "start", "end", "threshold_a", "threshold_b"];
    return names.filter((name) => this.findControl(name)?.validity.badInput)
      .map((name) => ({ field: `${field}.${name}`, description: "is not a number" }));
  }

  findControl(name) {
    const [a, b] = this.#thresholds.map(({ number }) => number);
    const { net: model, preprocessor, mode, fit: resize_mode, start, end, kind: control_type, passes: hr_option } = this;
    const controls = { model, preprocessor, mode, resize_mode, start, end, control_type, hr_option, threshold_a: a, threshold_b: b };
    return { ...controls, weight: this.weight.number, image: this.field.input }[name];
  }

  // What of it can't be had here, in sentences.
  fill({ model, image, preprocessor, weight, start, end, mode, resize_mode: fit, control_type: kind, hr_option: passes, ...thresholds }) {
    this.net.value = model;
    const isKnown = !preprocessor || this.offered.some(({ name }) => name === preprocessor);
    this.preprocessor.value = isKnown ? preprocessor ?? NONE : NONE;
    this.#showThresholds([thresholds.threshold_a, thresholds.threshold_b]);
    this.weight.set(weight ?? WEIGHTS.value);
    this.start.value = start ?? 0;
    this.end.value = end ?? 1;
    for (const [select, value] of [[this.mode, mode], [this.fit, fit], [this.kind, kind], [this.passes, passes]]) {
      if ([...select.options].some((option) => option.value === value)) select.value = value;
    }
    this.isFilled = Boolean(image?.startsWith?.("data:image/"));
    if (this.isFilled) this.field.take(new File([toBlob(image)], "control image", { type: toBlob(image).type }));
    return isKnown ? [] : [`the preprocessor ${preprocessor} is none of this service’s: choose a control image, or another one`];
  }

  discard() {
    this.#asking?.abort();
    this.field.discard();
    this.element.remove();
  }

  // There is a choice beside a second pass only.
  showPasses() {
    this.passesField.hidden = !byId("hires").checked;
  }

  #choice(name, values) {
    const select = make("select", { id: this.id(name) });
    choices(select, values);
    return select;
  }

  #showThresholds(values = []) {
    const chosen = this.offered.find(({ name }) => name === this.preprocessor.value);
    this.#thresholds = (chosen?.thresholds ?? []).map(({ name, default: usual, min, max }, index) =>
      numberWithSlider(this.id(`threshold-${index}`), name, { min, max, step: "any", value: values[index] ?? usual }, () => this.preview(true)));
    this.numbers.replaceChildren(...this.#thresholds.map(({ field }) => field));
  }

  async preview(isMoving = false) {
    this.#asking?.abort();
    const image = this.field.image ?? this.readBegun();
    if (!image || this.preprocessor.value === NONE) {
      this.figure.hidden = true;
      this.state.textContent = image && !this.field.image ? "It looks at the input image." : "";
      return;
    }
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    if (isMoving) await new Promise((resume) => setTimeout(resume, SETTLED_MILLISECONDS));
    if (signal.aborted) return;
    this.state.textContent = "Looking at the image…";
    try {
      const [seen] = await this.api.detect(this.preprocessor.value, image.url, this.#thresholds.map(({ number }) => read(number)), signal);
      this.seen.src = `data:image/png;base64,${seen}`;
      this.figure.hidden = false;
      this.state.textContent = "The preview is there.";
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      this.figure.hidden = true;
      this.state.textContent = `No preview: ${error.message}`;
    }
  }
}

function read(control) {
  return control.value.trim() ? Number(control.value) : undefined;
}
