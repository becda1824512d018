"""What `helm test` runs: waits for a service of the synthetic engine, asks it for an image, and looks at what came."""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request

URL = os.environ["SERVICE_URL"] + "/v1/images/generations"
SECONDS = float(os.environ["TIMEOUT_SECONDS"])
PAUSE_SECONDS = 2
PNG = b"\x89PNG\r\n\x1a\n"


def ask() -> bytes:
    """The image. Raises OSError while the service isn't there."""
    body = json.dumps({"prompt": "an easel at the sea", "size": "256x256", "response_format": "b64_json"}).encode()
    request = urllib.request.Request(URL, body, {"Content-Type": "application/json"})  # noqa: S310 - the chart's own URL
    with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
        return base64.b64decode(json.load(response)["data"][0]["b64_json"])


def main() -> int:
    """0 once an image has come; 1 where none came in time, with the last answer."""
    give_up_at = time.monotonic() + SECONDS
    said = "nothing"
    while time.monotonic() < give_up_at:
        try:
            image = ask()
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read(2000).decode(errors='replace')}"
        except OSError as error:
            said = str(error)
        else:
            sys.stdout.write(f"An image of {len(image)} bytes from {URL}\n")
            return 0 if image.startswith(PNG) else 1
        time.sleep(PAUSE_SECONDS)
    sys.stderr.write(f"No image from {URL} in {SECONDS:.0f} s; the last answer was: {said}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
