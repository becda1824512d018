// The image on its way and when it is there: queue position, progress, preview, result, and what went wrong.

import { byId, make } from "./dom.js";
import { showBanner } from "./settings.js";

const TITLE = document.title;
const TICK_MILLISECONDS = 1000;
const ANNOUNCED_SHARES = 4; // a screen reader hears of every quarter

export class Stage {
  constructor() {
    this.addresses = []; // object URLs that are shown now
    this.announced = "";
    this.batch = "";
    this.ticking = null; // the service says how long it takes when something changes; meanwhile the page counts
  }

  // Request number ``index`` of ``count`` is on its way; what is shown stays until the service has taken one.
  send({ index, count }) {
    byId("progress").hidden = false;
    byId("bar").removeAttribute("value");
    this.#place({ index, count });
    if (byId("cancel").getAttribute("aria-disabled") !== "true") byId("progress-text").textContent = `${this.batch}Sending…`;
  }

  // None was taken.
  unsend() {
    clearInterval(this.ticking);
    byId("progress").hidden = true;
    byId("cancel").removeAttribute("aria-disabled");
  }

  // A job of this size is under way. ``inShares``: what it counts are no steps of one pass; ``verb``: what is done.
  begin({ width, height }, place = { index: 0, count: 1 }, { inShares = false, verb = "Generating" } = {}) {
    this.#reset();
    this.#place(place);
    Object.assign(this, { inShares, verb, leastAhead: Infinity });
    const waiting = document.createElement("div");
    waiting.className = "waiting";
    waiting.style.setProperty("--ratio", width && height ? width / height : 1);
    byId("canvas").replaceChildren(waiting);
    byId("progress").hidden = false;
    this.progress({ status: "starting", steps: 1, steps_done: 0 });
  }

  #place({ index, count }) {
    this.batch = count > 1 ? `Request ${index + 1} of ${count} · ` : "";
  }

  progress({ status, queue_position: position, jobs_ahead: ahead, eta_seconds: eta, steps_done: done, steps, workers }) {
    const isGenerating = status === "processing";
    const bar = byId("bar");
    if (isGenerating) {
      bar.max = steps;
      bar.value = done;
    } else bar.removeAttribute("value");
    const place = ahead === undefined || ahead === null ? "Waiting" : ahead === 0 ? "Next in the queue" : `Number ${position} in the queue · ${ahead} ahead${this.#isPassed(ahead) ? ", others go first for now" : ""}`;
    const waiting = workers === 0 ? `${describeSleep(eta)} · ${place}` : place;
    const step = this.inShares ? `${this.verb}, ${Math.round((100 * done) / steps)} %` : `Step ${done} of ${steps}`;
    this.#count(this.batch + (isGenerating ? step : waiting), eta);
    document.title = `${isGenerating ? `${Math.round((100 * done) / steps)} %` : "Waiting"} – ${TITLE}`;
    this.#announceProgress(isGenerating, waiting, done, steps);
  }

  // Whether requests were put before this one since it came: a place that falls back would look like a fault.
  #isPassed(ahead) {
    this.leastAhead = Math.min(this.leastAhead, ahead);
    return ahead > this.leastAhead;
  }

  // ``text`` with the seconds that are left of ``eta``.
  #count(text, eta) {
    clearInterval(this.ticking);
    const began = performance.now();
    const show = () => {
      const seconds = eta - (performance.now() - began) / 1000;
      byId("progress-text").textContent = eta === null || eta === undefined ? text : `${text} · ${describeSeconds(seconds)} left`;
    };
    show();
    this.ticking = setInterval(show, TICK_MILLISECONDS);
  }

  #announceProgress(isGenerating, waiting, done, steps) {
    const share = Math.floor((ANNOUNCED_SHARES * done) / steps) * (100 / ANNOUNCED_SHARES);
    const text = this.batch + (isGenerating ? `${this.verb}, ${share} percent` : waiting);
    if (text === this.announced) return;
    this.announced = text;
    this.announce(text);
  }

  // What keeps it from beginning, or is done otherwise than asked.
  warn(text) {
    byId("progress-note").textContent = text;
    byId("progress-note").hidden = false;
  }

  cancelling() {
    clearInterval(this.ticking);
    byId("progress-text").textContent = "Cancelling…";
    byId("cancel").setAttribute("aria-disabled", "true");
  }

  preview(blob) {
    const image = document.createElement("img");
    image.className = "preview";
    image.alt = "Unfinished image";
    this.#show([image], [blob]);
  }

  // ``images``: blobs in order; ``facts``: pairs of a name and a value; ``more(blob, index)``: elements beside a download.
  finish({ prompt, seed, format, images, facts, more, name = "" }) {
    this.#reset();
    const figures = images.map(() => document.createElement("figure"));
    byId("canvas").style.setProperty("--columns", images.length > 1 ? 2 : 1);
    this.#show(figures, images, (figure, address, index) => {
      const image = document.createElement("img");
      image.src = address;
      image.alt = images.length > 1 ? `Image ${index + 1} of ${images.length}: ${prompt}` : prompt;
      const own = String(BigInt(seed) + BigInt(index));
      const link = document.createElement("a");
      link.href = address;
      link.download = `easel-${own}${name}.${format}`;
      link.textContent = "Download";
      const caption = document.createElement("figcaption");
      if (images.length > 1) {
        link.ariaLabel = `Download image ${index + 1}`;
        caption.append(`Seed ${own}`);
      }
      caption.append(link, ...more(images[index], index));
      figure.append(image, caption);
    });
    byId("facts").replaceChildren(
      ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
    byId("result").hidden = false;
  }

  // Nothing to see: why. ``error`` is read out at once.
  end(text, error = "") {
    this.#reset();
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = text;
    byId("canvas").replaceChildren(empty);
    showBanner("job-error", error);
  }

  announce(text) {
    byId("announcement").textContent = text;
  }

  #reset() {
    clearInterval(this.ticking);
    for (const address of this.addresses) URL.revokeObjectURL(address);
    this.addresses = [];
    this.announced = "";
    byId("canvas").style.removeProperty("--columns");
    byId("progress").hidden = byId("progress-note").hidden = true;
    byId("result").hidden = true;
    byId("cancel").removeAttribute("aria-disabled");
    showBanner("job-error", "");
    document.title = TITLE;
  }

  #show(elements, blobs, fill = (image, address) => { image.src = address; }) {
    const before = this.addresses;
    this.addresses = blobs.map((blob) => URL.createObjectURL(blob));
    elements.forEach((element, index) => fill(element, this.addresses[index], index));
    byId("canvas").replaceChildren(...elements);
    for (const address of before) URL.revokeObjectURL(address);
  }
}

function describeSleep(eta) {
  return eta === null || eta === undefined ? "No worker takes work now, and none is on its way" : "The service was asleep: a worker is being started";
}

function describeSeconds(seconds) {
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds))} s`;
  return `about ${Math.round(seconds / 60)} min`;
}
