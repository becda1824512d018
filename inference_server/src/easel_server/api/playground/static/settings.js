// The form: what is to be generated, its bounds as the server gives them, and faults beside the fields that they concern.
// Plain fields are here; a part (``adapters.js`` and such) has one of its own kind, with a name, a title and a line for faults.

import { byId } from "./dom.js";

const WHOLE = ["width", "height", "num_inference_steps", "num_outputs"];
const OPTIONAL = ["clip_skip", "eta"]; // shown where they have a meaning
const NUMBERS = [...WHOLE, "guidance_scale", ...OPTIONAL];
const TEXTS = ["prompt", "negative_prompt", "scheduler", "output_format"];
const FIELDS = ["prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "seed", "num_outputs", "scheduler", "output_format", ...OPTIONAL];
const OWN = [...FIELDS, "repeats"]; // that faults are shown beside
const MAX_REPEATS = 20;
const NAMES = { clip_skip: "clip skip", eta: "eta" }; // within a sentence
const MEANT_ANYWAY = { clip_skip: (value) => Number(value) <= 2, eta: (value) => Number(value) === 0 };
const PART_OF = { mask: "image", prompt_strength: "image", strength: "image" };

export class Settings {
  constructor(parts) {
    this.parts = parts;
    this.defaults = {};
    this.touched = new Set(); // fields that were written into before the service's defaults arrived
    byId("swap").addEventListener("click", () => {
      [byId("width").value, byId("height").value] = [byId("height").value, byId("width").value];
    });
    byId("scheduler").addEventListener("input", () => this.#showOptional());
    for (const field of [...OWN, "key"]) {
      byId(field).addEventListener("input", () => {
        this.touched.add(field);
        this.#mark(field, "");
      });
    }
  }

  // Bounds, choices and defaults of the service. What somebody has typed while they were on their way stays.
  apply(config) {
    const { bounds, defaults, samplers, formats } = config;
    this.defaults = defaults;
    const { min, max, step } = bounds.width;
    const same = max === bounds.height.max;
    byId("size-hint").textContent =
      `Multiples of ${step} from ${min} to ${same ? max : `${max} wide, ${bounds.height.max} high`} pixels`;
    byId("scheduler").append(...samplers.map((name) => new Option(name, name)));
    byId("output_format").append(...formats.map((name) => new Option(name.toUpperCase(), name)));
    for (const field of FIELDS.filter((name) => !this.touched.has(name))) this.#put(field, {});
    this.offer(config);
  }

  // What the service can do: more for those who have a key.
  offer(config) {
    this.config = config;
    for (const [field, { min, max, step }] of Object.entries(config.bounds)) {
      Object.assign(byId(field), { min, max, ...(step && { step }) });
      const hint = byId(`${field}-hint`);
      if (hint) hint.textContent = min === max ? `Always ${min}` : `${min} to ${max}`;
    }
    this.#showOptional();
    for (const part of this.parts) part.apply(config);
  }

  #showOptional() {
    const { bounds, eta_samplers: samplers } = this.config ?? { bounds: {}, eta_samplers: [] };
    for (const field of OPTIONAL) {
      const isMeant = field in bounds && (field !== "eta" || samplers.includes(byId("scheduler").value));
      byId(field).closest(".field").hidden = !isMeant;
    }
  }

  #isShown(field) {
    return !OPTIONAL.includes(field) || !byId(field).closest(".field").hidden;
  }

  // The request's input, with a BigInt where a number of ours may not hold the value, and faults found right here.
  read() {
    const input = {};
    const faults = [];
    for (const field of FIELDS.filter((name) => this.#isShown(name))) {
      const control = byId(field);
      const value = control.value.trim();
      if (field === "seed" && value) {
        if (/^[+-]?\d+$/.test(value)) input.seed = BigInt(value);
        else faults.push({ field: "input.seed", description: `is ${JSON.stringify(value)}, which is no whole number` });
      } else if (NUMBERS.includes(field) && control.validity.badInput) {
        faults.push({ field: `input.${field}`, description: "is not a number" });
      } else if (NUMBERS.includes(field) && value) {
        input[field] = Number(value);
      } else if (TEXTS.includes(field) && (value || field === "prompt")) {
        input[field] = field.endsWith("prompt") ? control.value : value;
      }
    }
    for (const part of this.parts.filter(({ isOffered }) => isOffered)) {
      Object.assign(input, part.read());
      faults.push(...(part.find?.(input) ?? []));
    }
    return { input, faults };
  }

  // How many requests of this kind are wanted, with faults as in ``read``.
  readRepeats() {
    const { value, validity } = byId("repeats");
    const repeats = Number(value.trim() || 1);
    if (!validity.badInput && Number.isInteger(repeats) && repeats >= 1 && repeats <= MAX_REPEATS) return { repeats, faults: [] };
    return { repeats: 1, faults: [{ field: "input.repeats", description: `is ${value || "no number"}, allowed are 1 to ${MAX_REPEATS}` }] };
  }

  // Fields that ``input`` doesn't name get the service's defaults. What of it can't be had here, in sentences.
  fill(input) {
    for (const field of FIELDS) this.#put(field, input);
    this.clear();
    const notes = [];
    if (input.scheduler && byId("scheduler").value !== input.scheduler) {
      byId("scheduler").value = "";
      notes.push(`the sampler ${input.scheduler} is none of this service’s`);
    }
    this.#showOptional();
    for (const field of OPTIONAL.filter((name) => input[name] !== undefined && !this.#isShown(name))) {
      byId(field).value = "";
      if (!MEANT_ANYWAY[field](input[field])) notes.push(`${NAMES[field]} has no effect here`);
    }
    return [...notes, ...this.parts.flatMap((part) => part.fill(input))];
  }

  #put(field, input) {
    byId(field).value = input[field] ?? this.defaults[field] ?? "";
  }

  setSeed(seed) {
    byId("seed").value = seed;
    this.#mark("seed", "");
  }

  clear() {
    for (const field of [...OWN, "key"]) this.#mark(field, "");
    for (const { name } of this.parts) this.#write(name, "");
    for (const control of document.querySelectorAll("#settings .part [aria-invalid]")) control.removeAttribute("aria-invalid");
    showBanner("form-error", "");
  }

  // Put each fault beside its field, the others into the banner, and the focus on the first.
  show(error) {
    this.clear();
    if (error.status === 401) {
      byId("key-field").hidden = false;
      this.#mark("key", byId("key").value ? sentence(error.message) : "Enter an API key: this service asks for one.");
      byId("key").focus();
      return;
    }
    const ofParts = error.fields.filter(({ field }) => this.#partOf(field));
    for (const { field, description } of ofParts) {
      const part = this.#partOf(field);
      const control = part.findControl?.(field);
      if (control) control.setAttribute("aria-invalid", "true");
      const title = part.titleOf?.(field) ?? part.title;
      const label = nameOf(field) !== part.name || /[.[]/.test(field.replace(/^input\./, "")) ? control?.labels?.[0]?.textContent : title;
      this.#write(part.name, `${label && label !== title ? `${title}, ${label}` : title} ${description}`);
    }
    const own = error.fields.filter(({ field }) => OWN.includes(nameOf(field)));
    for (const { field, description } of own) {
      const name = nameOf(field);
      this.#mark(name, `${byId(name).labels[0].textContent} ${description}`);
    }
    if (own.length + ofParts.length < Math.max(1, error.fields.length)) showBanner("form-error", sentence(error.message));
    const first = OWN.find((field) => own.some((fault) => nameOf(fault.field) === field));
    if (first) {
      if (byId("more").contains(byId(first))) byId("more").open = true;
      byId(first).focus();
    } else if (ofParts.length) this.#partOf(ofParts[0].field).focus(ofParts[0].field);
  }

  #partOf(field) {
    const name = PART_OF[nameOf(field)] ?? nameOf(field);
    return this.parts.find((part) => part.name === name && part.isOffered);
  }

  #write(field, message) {
    const line = byId(`${field}-error`);
    line.hidden = !message;
    line.textContent = message;
  }

  #mark(field, message) {
    this.#write(field, message);
    if (message) byId(field).setAttribute("aria-invalid", "true");
    else byId(field).removeAttribute("aria-invalid");
  }
}

export function showBanner(id, message) {
  byId(id).textContent = message;
  byId(id).hidden = !message;
}

// JSON with whole numbers of any size.
export function toJson(value, indent = "") {
  if (typeof value === "bigint") return String(value);
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    return `[\n${value.map((item) => `${inner}${toJson(item, inner)}`).join(",\n")}\n${indent}]`;
  }
  const lines = Object.entries(value).map(([name, item]) => `${inner}${JSON.stringify(name)}: ${toJson(item, inner)}`);
  return `{\n${lines.join(",\n")}\n${indent}}`;
}

function sentence(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

function nameOf(path) {
  return path.replace(/^input\./, "").replace(/[.[].*$/, ""); // of a list's member: the list
}
