// The form's request as a shell command and as a Python program. Neither holds the key: both read EASEL_API_KEY.

import { addressOf } from "./api.js";
import { toJson } from "./settings.js";

const MAX_ARGUMENT = 30_000; // characters; Linux takes 128 KiB, whatever they are
const WAIT_SECONDS = 60; // the longest that the API allows

export function toCurl(input, { needsKey }) {
  const lines = [
    `curl -sS ${quote(addressOf("v1/predictions"))}`,
    ...(needsKey ? ['-H "Authorization: Bearer $EASEL_API_KEY"'] : []),
    "-H 'Content-Type: application/json'",
    `-H 'Prefer: wait=${WAIT_SECONDS}'`,
  ];
  const body = toJson({ input });
  if (body.length <= MAX_ARGUMENT) return `${[...lines, `-d ${quote(body)}`].join(" \\\n  ")}\n`;
  // An image is more than a program's argument may be; no line of the body is the last one's word.
  return `${[...lines, "-d @- <<'END'"].join(" \\\n  ")}\n${body}\nEND\n`;
}

// A POSIX shell takes everything between single quotes as it is, except a single quote.
function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// JSON of strings and numbers is Python of the same meaning.
export function toPython(input, { needsKey }) {
  const imports = needsKey ? "import json\nimport os\nimport time" : "import json\nimport time";
  const authorization = needsKey ? '\n    "Authorization": f"Bearer {os.environ[\'EASEL_API_KEY\']}",' : "";
  return `${imports}
from pathlib import Path
from urllib.request import Request, urlopen

PREDICTIONS = ${JSON.stringify(addressOf("v1/predictions"))}
HEADERS = {
    "Content-Type": "application/json",
    "Prefer": "wait=${WAIT_SECONDS}",${authorization}
}
INPUT = ${toJson(input).replaceAll("\n  ", "\n    ").replace(/\n}$/, ",\n}")}


def call(url, body=None):
    with urlopen(Request(url, body, HEADERS)) as answer:
        return answer.read()


prediction = json.loads(call(PREDICTIONS, json.dumps({"input": INPUT}).encode()))
while prediction["status"] in ("starting", "processing"):
    time.sleep(1)
    prediction = json.loads(call(f"{PREDICTIONS}/{prediction['id']}"))
if prediction["status"] != "succeeded":
    raise SystemExit(f"{prediction['status']}: {prediction['error']}")
for number in range(len(prediction["output"])):
    file = Path(f"{prediction['id']}-{number}.{prediction['input']['output_format']}")
    file.write_bytes(call(f"{PREDICTIONS}/{prediction['id']}/output/{number}"))
    print(file)
`;
}

// Outside of https and localhost, pages get no clipboard: there a selection is copied, as in the days before.
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!copied) throw new Error("the browser doesn’t allow it");
}
