// Larger images: a second pass over what is generated, and results made larger as they are.

import { button, byId, choices } from "./dom.js";

export class Hires {
  name = "hires";
  title = "Second pass";
  isOffered = false;

  constructor() {
    for (const id of ["hires", "hires-scale", "width", "height"]) byId(id).addEventListener("input", () => this.#show());
  }

  apply({ upscalers, features }) {
    this.isOffered = features.includes("Hires") && upscalers.length > 0;
    byId("part-hires").hidden = !this.isOffered;
    choices(byId("hires-upscaler"), upscalers);
    this.#show();
  }

  read() {
    if (!this.isOffered || !byId("hires").checked) return {};
    const [scale, strength, steps] = ["scale", "strength", "steps"].map((name) => byId(`hires-${name}`).value.trim());
    return {
      hires: {
        upscaler: byId("hires-upscaler").value,
        ...(scale && { scale: Number(scale) }),
        ...(strength && { strength: Number(strength) }),
        ...(steps && { steps: Number(steps) }),
      },
    };
  }

  fill({ hires }) {
    byId("hires").checked = Boolean(hires) && this.isOffered;
    for (const name of ["scale", "strength", "steps"]) byId(`hires-${name}`).value = hires?.[name] ?? byId(`hires-${name}`).defaultValue;
    const names = [...byId("hires-upscaler").options].map(({ value }) => value);
    if (names.includes(hires?.upscaler)) byId("hires-upscaler").value = hires.upscaler;
    this.#show();
    if (!hires) return [];
    if (!this.isOffered) return ["this service has no second pass"];
    return names.includes(hires.upscaler ?? names[0]) ? [] : [`the upscaler ${hires.upscaler} is none of this service’s`];
  }

  focus() {
    byId("part-hires").open = true;
    byId("hires").focus();
  }

  #show() {
    byId("hires-fields").hidden = !byId("hires").checked;
    const [width, height, scale] = ["width", "height", "hires-scale"].map((id) => Number(byId(id).value));
    const sides = [width, height].map((side) => Math.floor((side * scale) / 8) * 8);
    byId("hires-size").textContent = width && height && scale ? `The image has about ${sides.join(" × ")} pixels then.` : "";
  }
}

// What is set for upscaling results; a button on each of them asks for it.
export class Upscaling {
  apply({ upscalers, features, tasks }) {
    this.isOffered = upscalers.length > 0 && features.includes("Upscale") && tasks.includes("Upscale");
    choices(byId("upscaler"), upscalers);
  }

  // For the results' line.
  show() {
    byId("upscaling").hidden = !this.isOffered;
  }

  read() {
    const factor = byId("upscale-factor").value.trim();
    return { upscaler: byId("upscaler").value, ...(factor && { scale: Number(factor) }) };
  }

  buildButton(index, count, onclick) {
    if (!this.isOffered) return [];
    return [button("Upscale", onclick, { class: "link", "aria-label": count > 1 ? `Upscale image ${index + 1}` : undefined })];
  }
}
