// Larger images: a second pass over what is generated, and results made larger as they are.

import { button, byId, choices } from "./dom.js";

const NUMBERS = ["scale", "strength", "steps"]; // of a second pass
const SAME = { None: "Lanczos" }; // other clients' names for what is on the list
const ROUNDING = 1e-6; // as the service has it: a side times a factor isn't always whole in floating point
const SCALE_DIGITS = 4;

export class Hires {
  name = "hires";
  title = "Second pass";
  isOffered = false;
  #exact = null; // {width, height, scale, first} of a recipe whose size no scale gives

  constructor() {
    for (const id of ["hires", "hires-scale", "hires-strength", "hires-steps", "width", "height"]) {
      byId(id).addEventListener("input", () => {
        if (byId(id).getAttribute("aria-invalid")) byId(id).removeAttribute("aria-invalid");
        this.#show();
      });
    }
    document.addEventListener("input-image", () => this.#show());
  }

  apply({ hires_upscalers: upscalers, limits, bounds }) {
    Object.assign(this, { limits, bounds });
    this.isOffered = upscalers.length > 0;
    byId("part-hires").hidden = !this.isOffered;
    choices(byId("hires-upscaler"), upscalers);
    byId("hires-scale").placeholder = limits.default_factor;
    byId("hires-strength").placeholder = `Default: ${limits.default_hires_strength}`;
    byId("hires-steps").max = bounds.num_inference_steps.max;
    this.#show();
  }

  read() {
    if (!byId("hires").checked) return {};
    const [scale, strength, steps] = NUMBERS.map((name) => byId(`hires-${name}`).value.trim());
    const { width, height } = this.#exactSize() ?? {};
    return {
      hires: {
        upscaler: byId("hires-upscaler").value,
        ...(width ? { width, height } : scale && { scale: Number(scale) }),
        ...(strength && { strength: Number(strength) }),
        ...(steps && { steps: Number(steps) }),
      },
    };
  }

  find() {
    if (!byId("hires").checked) return [];
    return NUMBERS.filter((name) => byId(`hires-${name}`).validity.badInput)
      .map((name) => ({ field: `input.hires.${name}`, description: "is not a number" }));
  }

  // ``hires`` has a scale, or both sides in pixels, as recipes have it.
  fill({ hires, width, height }) {
    byId("hires").checked = Boolean(hires) && this.isOffered;
    if (byId("hires").checked) byId("part-hires").open = true;
    this.#exact = null;
    const isSized = hires && hires.width && hires.height && width && height;
    const scale = isSized ? roundUp(hires.width / width) : hires?.scale;
    byId("hires-scale").value = scale ?? (hires ? "" : byId("hires-scale").defaultValue);
    for (const name of ["strength", "steps"]) byId(`hires-${name}`).value = hires?.[name] ?? "";
    if (isSized && String(this.#scaled(width, height, scale)) !== String([hires.width, hires.height])) {
      this.#exact = { width: hires.width, height: hires.height, scale: String(scale), first: String([width, height]) };
    }
    const note = hires && this.isOffered ? pick(byId("hires-upscaler"), hires.upscaler) : "";
    this.#show();
    if (!hires) return [];
    if (!this.isOffered) return ["this service has no second pass"];
    return note ? [note] : [];
  }

  // The control that a fault of ``field`` is of.
  findControl(field) {
    const name = /\.hires\.(\w+)/.exec(field)?.[1];
    return byId(`hires-${name}`) ?? byId("hires");
  }

  focus(field = "") {
    byId("part-hires").open = true;
    this.findControl(field).focus();
  }

  // As long as nothing that it follows from was changed.
  #exactSize() {
    const first = String([byId("width").value, byId("height").value]);
    const isStill = this.#exact && this.#exact.scale === byId("hires-scale").value && this.#exact.first === first;
    return isStill ? this.#exact : null;
  }

  #scaled(width, height, scale) {
    const { step } = this.bounds.width;
    return [width, height].map((side) => Math.floor(Math.floor(side * scale + ROUNDING) / step) * step);
  }

  #show() {
    byId("hires-fields").hidden = !byId("hires").checked;
    document.dispatchEvent(new Event("second-pass"));
    if (!this.limits || !byId("hires").checked) return;
    const [width, height, scale] = ["width", "height", "hires-scale"].map((id) => Number(byId(id).value));
    const hint = byId("hires-size");
    hint.classList.toggle("error", !byId("image-fields").hidden);
    if (!byId("image-fields").hidden) {
      hint.textContent = "A second pass is for images from a text alone: remove the input image, or leave out the pass.";
      return;
    }
    const { max_width: widest, max_height: highest, max_hires_pixels: most, default_factor: usual } = this.limits;
    const bound = `at most ${widest} × ${highest} and ${megapixels(most)} are allowed`;
    const exact = this.#exactSize();
    const sides = exact ? [exact.width, exact.height] : this.#scaled(width, height, scale || usual);
    const isTooLarge = sides[0] > widest || sides[1] > highest || sides[0] * sides[1] > most;
    const size = width && height ? `The image has ${sides.join(" × ")} pixels then; ${bound}.` : `The image is larger then; ${bound}.`;
    hint.textContent = isTooLarge ? `Too large. ${size}` : size;
    hint.classList.toggle("error", isTooLarge);
  }
}

// What is set for upscaling results; a button on each of them asks for it.
export class Upscaling {
  #size = null; // of the result that is shown, in pixels

  constructor() {
    for (const id of ["upscaler", "upscale-factor"]) byId(id).addEventListener("input", () => this.#describe());
  }

  apply({ upscalers, limits }) {
    this.limits = limits;
    this.isOffered = upscalers.length > 0;
    const chosen = byId("upscaler").value;
    choices(byId("upscaler"), upscalers);
    if (upscalers.includes(chosen)) byId("upscaler").value = chosen;
    byId("upscale-factor").placeholder = limits.default_factor;
    byId("upscale-factor").max = limits.max_factor;
  }

  // For the results' line; ``size``: of the first of them.
  show(size) {
    this.#size = size;
    byId("upscaling").hidden = !this.isOffered;
    this.#describe();
  }

  read() {
    const factor = byId("upscale-factor").value.trim();
    return { upscaler: byId("upscaler").value, ...(factor && { scale: Number(factor) }) };
  }

  // Of something that was upscaled: the same again. What of it can't be had here, in sentences.
  fill({ upscaler, scale }) {
    byId("upscale-factor").value = scale ?? "";
    const note = this.isOffered ? pick(byId("upscaler"), upscaler) : "this service enlarges no images";
    this.#describe();
    return note ? [note] : [];
  }

  find() {
    const isNumber = !byId("upscale-factor").validity.badInput;
    return isNumber ? [] : [{ field: "input.scale", description: "is not a number" }];
  }

  // Whether the error is of what is set here, and said here.
  refuse({ fields, message }) {
    const own = fields.filter(({ field }) => ["input.scale", "input.upscaler", "input.image"].includes(field));
    if (!own.length) {
      this.say(message);
      return;
    }
    const titles = { "input.scale": "Upscale by", "input.upscaler": "Upscaler", "input.image": "The image" };
    this.say(own.map(({ field, description }) => `${titles[field]}: ${description}.`).join(" "));
    const control = byId(own[0].field === "input.upscaler" ? "upscaler" : "upscale-factor");
    control.setAttribute("aria-invalid", "true");
    control.focus();
  }

  say(text) {
    byId("upscaling-error").textContent = text;
    byId("upscaling-error").hidden = !text;
    for (const id of ["upscaler", "upscale-factor"]) byId(id).removeAttribute("aria-invalid");
  }

  buildButton(index, count, onclick) {
    if (!this.isOffered) return [];
    return [button("Upscale", onclick, { class: "link", "aria-label": count > 1 ? `Upscale image ${index + 1}` : undefined })];
  }

  #describe() {
    this.say("");
    if (!this.#size || !this.isOffered) return;
    const { max_upscaled_pixels: most, max_upscaled_side: side, default_factor: usual } = this.limits;
    const scale = Number(byId("upscale-factor").value) || usual;
    const sides = this.#size.map((pixels) => Math.floor(pixels * scale + ROUNDING));
    const isTooLarge = sides.some((pixels) => pixels > side) || sides[0] * sides[1] > most;
    const bound = `at most ${megapixels(most)} and ${side} pixels a side are allowed`;
    byId("upscaling-size").textContent = `${isTooLarge ? "Too large. " : ""}It has ${sides.join(" × ")} pixels then; ${bound}.`;
    byId("upscaling-size").classList.toggle("error", isTooLarge);
  }
}

// Chooses a name of the list, or says why not.
function pick(select, asked) {
  const names = [...select.options].map(({ value }) => value);
  const name = names.includes(asked) ? asked : SAME[asked] ?? asked ?? names[0];
  if (!names.includes(name)) return `the upscaler ${name} is none of this service’s`;
  select.value = name;
  return "";
}

function roundUp(scale) {
  return Math.ceil(scale * 10 ** SCALE_DIGITS - ROUNDING) / 10 ** SCALE_DIGITS;
}

function megapixels(pixels) {
  return `${(pixels / 1e6).toFixed(1)} megapixels`;
}
