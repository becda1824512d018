// The prediction API, as the page uses it. Addresses are relative to the page, so that a path prefix does no harm.

const RECONNECT_ATTEMPTS = 8; // in a row, without any event between them
const RECONNECT_MILLISECONDS = 500; // before the first of them, doubled each time
const RECONNECT_LIMIT_MILLISECONDS = 10_000;
const PASSING = new Set([429, 502, 503, 504]); // worth another attempt

// An answer that is no success, or none at all (status 0).
export class ApiError extends Error {
  constructor(status, message, fields = []) {
    super(message);
    this.status = status;
    this.fields = fields; // of {field, description}
  }

  // Whether the same may succeed a little later.
  get isPassing() {
    return !this.status || PASSING.has(this.status);
  }
}

export function addressOf(path) {
  return new URL(path, document.baseURI).href;
}

export class Api {
  constructor(readKey) {
    this.readKey = readKey;
  }

  async config() {
    return this.#json("playground/config", { isKeyNeeded: false });
  }

  async create(body, signal) {
    return this.#json("v1/predictions", { method: "POST", body, signal, headers: { "Content-Type": "application/json" } });
  }

  async get(id, signal) {
    return this.#json(`v1/predictions/${id}`, { signal });
  }

  async cancel(id) {
    return this.#json(`v1/predictions/${id}/cancel`, { method: "POST" });
  }

  async output(id, index, signal) {
    return (await this.#request(`v1/predictions/${id}/output/${index}`, { signal })).blob();
  }

  async preview(id, index, signal) {
    return (await this.#request(`v1/predictions/${id}/previews/${index}`, { signal })).blob();
  }

  // What an image says of how it was made.
  async describe(image) {
    return this.#post("sdapi/v1/png-info", { image });
  }

  // What a ControlNet's preprocessor makes of an image: PNGs as base64.
  async detect(preprocessor, image, [a, b], signal) {
    const body = {
      controlnet_module: preprocessor,
      controlnet_input_images: [image],
      ...(a !== undefined && { controlnet_threshold_a: a }),
      ...(b !== undefined && { controlnet_threshold_b: b }),
    };
    return (await this.#post("controlnet/detect", body, signal)).images;
  }

  // Events {name, data, id} until "done". Takes up a broken stream again; throws ApiError when it can't.
  async *follow(id, signal) {
    let last = "";
    let failures = 0;
    while (failures <= RECONNECT_ATTEMPTS) {
      try {
        const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
        const response = await this.#request(`v1/predictions/${id}/stream?progress=true`, { headers, signal });
        for await (const event of readEvents(response.body)) {
          failures = 0;
          last = event.id || last;
          yield event;
          if (event.name === "done") return;
        }
      } catch (error) {
        if (signal.aborted || (error.status && !PASSING.has(error.status))) throw error;
      }
      await pause(Math.min(RECONNECT_MILLISECONDS * 2 ** failures, RECONNECT_LIMIT_MILLISECONDS));
      failures += 1;
    }
    throw new ApiError(0, "The connection was lost. The image may still be generated: reload the page to look again.");
  }

  async #post(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    return this.#json(path, { method: "POST", body: JSON.stringify(body), signal, headers });
  }

  async #json(path, options) {
    return (await this.#request(path, options)).json();
  }

  async #request(path, { headers = {}, isKeyNeeded = true, ...options } = {}) {
    const sent = this.#addKey(headers, isKeyNeeded);
    let response;
    try {
      response = await fetch(addressOf(path), { ...options, headers: sent, credentials: "same-origin" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ApiError(0, "The service can’t be reached. Check the connection, then try again.");
    }
    if (!response.ok) throw await readError(response);
    return response;
  }

  #addKey(headers, isKeyNeeded) {
    const key = this.readKey();
    const isSendable = /^[!-~]+$/.test(key);
    if (!key || !(isSendable || isKeyNeeded)) return headers;
    if (!isSendable) throw new ApiError(401, "The API key holds a character that no key has.");
    return { ...headers, Authorization: `Bearer ${key}` };
  }
}

async function readError(response) {
  const text = await response.text();
  try {
    const { detail, errors, invalid_fields: fields } = JSON.parse(text);
    const sentence = [errors, detail, text].find((said) => typeof said === "string" && said); // the first is AUTOMATIC1111's
    return new ApiError(response.status, sentence, fields ?? []);
  } catch {
    return new ApiError(response.status, `The service answered ${response.status} ${response.statusText}.`);
  }
}

// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
async function* readEvents(stream) {
  let rest = "";
  let event = { name: "message", data: [], id: "" };
  for await (const chunk of pieces(stream.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + chunk).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = { name: "message", data: [], id: "" };
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") event.name = value;
      if (field === "data") event.data.push(value);
      if (field === "id") event.id = value;
    }
  }
}

async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function pause(milliseconds) {
  return new Promise((resume) => setTimeout(resume, milliseconds));
}
