// From the form to the service, to the stage and into the gallery: requests that are under way, one after another.

import { ApiError } from "./api.js";
import { byId } from "./dom.js";
import { toThumbnail } from "./gallery.js";
import { ImageError, measure, toDataUrl, toFitting } from "./images.js";
import { showBanner, toJson } from "./settings.js";

const PREVIEWS = 3; // the most that the API gives
const SENT_IMAGES = ["image", "mask"]; // which the service doesn't answer with

export class Jobs {
  #running = null; // {entries, controller} of those that are followed
  #cancelPressed = false;
  shown = null; // the gallery's entry whose image is on the stage

  constructor({ api, settings, stage, gallery, upscaling, inputImage }) {
    Object.assign(this, { api, settings, stage, gallery, upscaling, inputImage });
  }

  get isBusy() {
    return this.#running !== null;
  }

  async generate() {
    if (this.isBusy) return;
    const { input, faults } = this.settings.read();
    const { repeats, faults: more } = this.settings.readRepeats();
    if (faults.length + more.length) {
      this.settings.show(new ApiError(422, "", [...faults, ...more]));
      return;
    }
    const inputs = Array.from({ length: repeats }, (_, index) => input.seed === undefined || !index ? input :
      { ...input, seed: input.seed + BigInt(index * (input.num_outputs ?? 1)) });
    await this.#submit(inputs);
  }

  // A result larger as it is. Its entry says how the image was made that it was made of.
  async upscale(entry, blob, index) {
    const { upscaling } = this;
    if (this.isBusy) {
      upscaling.say("Something is still being generated: ask again when it is there.");
      return;
    }
    const faults = upscaling.find();
    if (faults.length) {
      upscaling.refuse(new ApiError(422, "", faults));
      return;
    }
    const asked = upscaling.read();
    const { num_outputs: _, upscale: __, ...made } = entry.input;
    const about = { ...made, seed: String(BigInt(made.seed) + BigInt(index)) };
    try {
      const sent = await toFitting(blob, upscaling.limits.max_lone_bytes);
      const image = await toDataUrl(sent);
      const source = entry.source ?? entry.id;
      await this.#submit([{ ...asked, output_format: made.output_format, image }], { about, source });
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      upscaling.say(error.message);
    }
  }

  // All are sent at once, so that the service may generate them together, and followed in turn. ``origin``: of what is
  // upscaled, {about, source}.
  async #submit(inputs, origin = null) {
    this.settings.clear();
    const { signal } = this.#occupy([]);
    const entries = [];
    let refusal = null;
    for (const input of inputs) {
      if (this.#cancelPressed) break;
      this.stage.send({ index: entries.length, count: inputs.length });
      try {
        entries.push(await this.#send(input, signal, origin));
        this.#running.entries = [...entries];
      } catch (error) {
        refusal = error;
        break;
      }
    }
    const wasCancelled = this.#cancelPressed;
    if (!entries.length) {
      this.stage.unsend();
      this.#release();
      if (wasCancelled) this.stage.announce("Cancelled");
    }
    if (refusal && origin && refusal.status !== 401) this.upscaling.refuse(refusal);
    else if (refusal) this.settings.show(refusal);
    if (!entries.length) return;
    if (wasCancelled) await this.#cancelAll(entries);
    await this.follow(entries);
  }

  async #send(input, signal, origin) {
    const previews = origin ? {} : { previews: PREVIEWS };
    const prediction = await this.api.create(toJson({ input: { ...input, ...previews } }), signal);
    // What was sent, so that a seed beyond 2^53 keeps its digits; the rest as the service filled it in.
    const { previews: _, priority: __, ...filled } = prediction.input;
    const entry = { id: prediction.id, status: prediction.status };
    if (origin) {
      const { scale, upscaler, output_format } = { ...input, ...filled };
      Object.assign(entry, { source: origin.source, input: { ...origin.about, output_format, upscale: { scale, upscaler } } });
      await this.gallery.add(entry);
      return entry;
    }
    const sent = Object.fromEntries(SENT_IMAGES.filter((name) => input[name]).map((name) => [name, input[name]]));
    entry.input = { ...filled, seed: String(input.seed ?? filled.seed), ...(input.loras && !filled.loras && { loras: input.loras }) };
    if (input.controlnet) {
      sent.controlnet = input.controlnet;
      entry.input.controlnet = input.controlnet.map(({ image, ...unit }) => unit); // with images where those are kept
    }
    await this.gallery.add(entry, sent);
    return entry;
  }

  // Bring jobs to their ends on the stage.
  async follow(entries) {
    const { signal } = this.#occupy(entries);
    byId("stage").scrollIntoView({ block: "nearest" });
    try {
      for (const [index, entry] of entries.entries()) {
        await this.#followOne(entry, { index, count: entries.length }, signal);
        if (signal.aborted) return;
      }
    } finally {
      this.#release();
    }
  }

  async #followOne(entry, place, signal) {
    this.shown = entry;
    this.gallery.choose(entry.id);
    const { hires, upscale } = entry.input;
    this.stage.begin(hires?.width ? hires : entry.input, place, { inShares: Boolean(hires || upscale), verb: upscale ? "Upscaling" : "Generating" });
    try {
      if (!isFinal(entry.status)) await this.#watch(entry, signal);
      const prediction = await this.api.get(entry.id, signal);
      await this.#settle(entry, prediction, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) await this.#note(entry, { status: "expired" });
      this.stage.end("No image.", error.message);
      if (error.status === 401) this.settings.show(error);
    }
  }

  async #watch(entry, signal) {
    let previews = 0;
    for await (const { name, data } of this.api.follow(entry.id, signal)) {
      if (name === "logs") for (const warning of listWarnings(data)) this.stage.warn(warning);
      if (name !== "progress") continue;
      const progress = JSON.parse(data);
      if (isFinal(progress.status)) continue; // "done" comes next
      if (byId("cancel").getAttribute("aria-disabled") !== "true") this.stage.progress(progress);
      if (progress.status !== entry.status) await this.#note(entry, { status: progress.status });
      if (progress.previews.length > previews) {
        previews = progress.previews.length;
        // They go when the job is over, so one that isn't there any more is no error.
        const blob = await this.api.preview(entry.id, previews - 1, signal).catch(() => null);
        if (blob) this.stage.preview(blob);
      }
    }
  }

  async #settle(entry, { status, metrics, logs, error }, signal) {
    if (status !== "succeeded") {
      await this.#note(entry, { status });
      this.stage.end(status === "canceled" ? "Cancelled." : "No image.", status === "canceled" ? "" : error ?? "The image could not be generated.");
      if (status === "canceled") this.stage.announce("Cancelled");
      return;
    }
    await this.#note(entry, { status, seconds: metrics.predict_time, warnings: listWarnings(logs) });
    const images = await this.#fetch(entry, signal);
    const size = await measure(images[0]); // what can't be shown isn't kept
    await this.#note(entry, { thumbnail: await toThumbnail(images[0]) });
    await this.gallery.keep(entry.id, images);
    // Last: whoever sees the images may press their buttons, which must find the job over.
    this.#display(entry, images, size);
    const count = images.length === 1 ? "1 image" : `${images.length} images`;
    this.stage.announce(`Finished: ${count}, seed ${entry.input.seed}`);
  }

  async #note(entry, changes) {
    Object.assign(entry, changes);
    await this.gallery.update(entry.id, changes);
  }

  #fetch(entry, signal) {
    const indexes = Array.from({ length: entry.input.num_outputs ?? 1 }, (_, index) => index);
    return Promise.all(indexes.map((index) => this.api.output(entry.id, index, signal)));
  }

  #display(entry, images, size) {
    const { input } = entry;
    const more = (blob, index) => [
      ...this.upscaling.buildButton(index, images.length, () => this.upscale(entry, blob, index)),
      ...this.inputImage.buildButton(index, images.length, blob),
    ];
    const name = input.upscale ? "-upscaled" : "";
    this.stage.finish({ prompt: input.prompt, seed: input.seed, format: input.output_format, images, facts: listFacts(entry, size), more, name });
    this.upscaling.show(size);
  }

  // A choice in the gallery. While a job runs, the stage is its own, and only the form changes.
  async show(entry) {
    if (this.isBusy) {
      await this.reuse(entry);
      this.stage.announce("Its settings are in the form.");
      return;
    }
    if (!isFinal(entry.status) && entry.status !== "expired") {
      await this.follow([entry]);
      return;
    }
    this.shown = entry;
    this.gallery.choose(entry.id);
    if (entry.status !== "succeeded") {
      await this.reuse(entry);
      this.stage.end("There is no image of this one; its settings are in the form again.");
      return;
    }
    try {
      const kept = (await this.gallery.read(entry.id))?.images ?? [];
      const images = kept.length ? kept : await this.#fetch(entry, undefined);
      if (this.shown === entry) this.#display(entry, images, await measure(images[0]));
    } catch (error) {
      await this.reuse(entry);
      const again = entry.input.upscale ? "what it was made of" : "it";
      const gone = `The service has forgotten this image; its settings are in the form, and its seed generates ${again} again.`;
      this.stage.end(error.status === 404 ? gone : "No image.", error.status === 404 ? "" : error.message);
    }
    byId("stage").scrollIntoView({ block: "nearest" });
  }

  // Its settings in the form, with the images that were sent, as far as they are kept.
  async reuse(entry) {
    const { inputs = {} } = (await this.gallery.read(entry.source ?? entry.id)) ?? {};
    const notes = this.settings.fill({ ...entry.input, ...inputs });
    return entry.input.upscale ? [...notes, ...this.upscaling.fill(entry.input.upscale)] : notes;
  }

  // While requests are still sent, no more are, and those that were are cancelled as soon as the last one's id is known.
  async cancel() {
    if (!this.isBusy || byId("cancel").getAttribute("aria-disabled") === "true") return;
    this.#cancelPressed = true;
    this.stage.cancelling();
    await this.#cancelAll(this.#running.entries);
  }

  async #cancelAll(entries) {
    const open = entries.filter(({ status }) => !isFinal(status));
    const ends = await Promise.allSettled(open.reverse().map(({ id }) => this.api.cancel(id)));
    const failed = ends.find(({ status, reason }) => status === "rejected" && reason.status !== 404);
    if (failed) {
      byId("cancel").removeAttribute("aria-disabled");
      showBanner("job-error", failed.reason.message);
    }
  }

  #occupy(entries) {
    this.#running = { entries, controller: this.#running?.controller ?? new AbortController() };
    byId("generate").setAttribute("aria-disabled", "true");
    return this.#running.controller;
  }

  #release() {
    this.#running = null;
    byId("generate").removeAttribute("aria-disabled");
    // The button to cancel goes with the job; whoever pressed it goes on where the next one begins.
    const isAdrift = [document.body, byId("cancel")].includes(document.activeElement);
    if (this.#cancelPressed && isAdrift) byId("generate").focus();
    this.#cancelPressed = false;
  }
}

function isFinal(status) {
  return status === "succeeded" || status === "failed" || status === "canceled";
}

// What was done otherwise than asked; the lines of a prediction's log that aren't progress.
function listWarnings(logs) {
  return Array.from(logs.matchAll(/^warning: (.*)$/gm), ([, warning]) => warning);
}

function listFacts({ input, seconds, warnings = [] }, size) {
  const { hires, upscale } = input;
  const facts = [
    ["Seed", input.seed],
    ["Size", size.join(" × ")],
    ["Steps", input.num_inference_steps],
    ["Guidance", input.guidance_scale],
    ["Sampler", input.scheduler],
    ["Adapters", input.loras?.map?.(({ name, weight }) => `${name} ${weight ?? ""}`.trim()).join(", ")],
    ["ControlNets", input.controlnet?.map?.(({ model, weight }) => `${model} ${weight ?? ""}`.trim()).join(", ")],
    ["Second pass", hires && `${hires.upscaler}, from ${input.width} × ${input.height}`],
    ["Upscaled", upscale && `${upscale.scale ?? ""} × by ${upscale.upscaler}`.trim()],
    ["Clip skip", input.clip_skip],
    ["Eta", input.eta],
    ["Time", seconds && `${seconds.toFixed(1)} s`],
    ...warnings.map((warning) => ["Note", warning]),
  ];
  return facts.filter(([, value]) => value !== undefined && value !== "" && value !== 0 && value !== null);
}
