// The gallery's database in this browser: what was asked for, and apart from it the images, which are read one at a time.

const NAME = "easel.gallery";
const VERSION = 1;
const ENTRIES = "entries";
const IMAGES = "images";

export class Store {
  #database = null;

  // Throws where the browser refuses.
  async open() {
    if (!globalThis.indexedDB) throw new Error("it has no database for pages");
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(ENTRIES, { keyPath: "id" });
      request.result.createObjectStore(IMAGES, { keyPath: "id" });
    };
    this.#database = await finished(request);
    this.#database.onversionchange = () => this.#database.close(); // a newer page in another tab goes first
  }

  async list() {
    return this.#do(ENTRIES, "readonly", ([entries]) => finished(entries.getAll()));
  }

  async put(entry) {
    await this.#do(ENTRIES, "readwrite", ([entries]) => finished(entries.put(entry)));
  }

  // Only what is still there: another tab may have deleted it. The entry as it is now, or undefined.
  async update(id, changes) {
    return this.#do(ENTRIES, "readwrite", async ([entries]) => {
      const entry = await finished(entries.get(id));
      if (entry) await finished(entries.put({ ...entry, ...changes }));
      return entry && { ...entry, ...changes };
    });
  }

  // {images: blobs, inputs: data URLs by name}, or undefined.
  async read(id) {
    return this.#do(IMAGES, "readonly", ([images]) => finished(images.get(id)));
  }

  async keep(id, content) {
    await this.#do(IMAGES, "readwrite", ([images]) => finished(images.put({ id, ...content })));
  }

  async drop(id) {
    await this.#do(IMAGES, "readwrite", ([images]) => finished(images.delete(id)));
  }

  async delete(id) {
    await this.#do([ENTRIES, IMAGES], "readwrite", (stores) => Promise.all(stores.map((store) => finished(store.delete(id)))));
  }

  async clear() {
    await this.#do([ENTRIES, IMAGES], "readwrite", (stores) => Promise.all(stores.map((store) => finished(store.clear()))));
  }

  // Resolves once the transaction is done: a full disk is said at its end.
  async #do(names, mode, work) {
    const transaction = this.#database.transaction(names, mode);
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser gave up"));
    });
    done.catch(() => {}); // a failed request is thrown below
    const result = await work([names].flat().map((name) => transaction.objectStore(name)));
    await done;
    return result;
  }
}

function finished(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version open"));
  });
}
