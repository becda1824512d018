"""Why a request is not served, independent of the API it came by; each API's ``errors.py`` gives it a shape."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from easel_server.generation.messages import SHOWN_CHARACTERS, truncate_repr
from easel_server.stores.jobs.interface import QueueFullError


@dataclass(frozen=True)
class FieldFault:
    """One field of a request that can't be accepted."""

    field: str  # dotted path by the names on the wire, such as "input.width"
    message: str  # the value seen and the values allowed


@dataclass(eq=False)  # an exception is only ever equal to itself, and must stay hashable
class RefusalError(Exception):
    """A request that gets an error answer. The message is the client's: what, value seen, value allowed, next step."""

    status: int
    code: str  # one snake_case word, stable; also the label of the refusals metric
    message: str
    faults: tuple[FieldFault, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def refuse_fields(*faults: FieldFault) -> RefusalError:
    """Fields have values that aren't allowed. Each API's ``errors.py`` chooses 400 or 422."""
    # An API may have one field for what are two here, such as OpenAI's size, and both may be wrong alike.
    message = "; ".join(dict.fromkeys(f"{fault.field}: {fault.message}" for fault in faults))
    return RefusalError(422, "invalid_value", message, faults)


def refuse_field(name: str, message: str) -> RefusalError:
    """One field has a value that isn't allowed."""
    return refuse_fields(FieldFault(name, message))


def refuse_key(message: str) -> RefusalError:
    """No API key, or none that is known."""
    return RefusalError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})


def refuse_without_keys(problem: str) -> RefusalError:
    """Keys are asked for, and there are none to check by: nobody gets in."""
    return RefusalError(
        503,
        "api_keys_unavailable",
        f"this service asks for API keys and can't check any: {problem}; whoever runs it must mend the Secret that "
        f"spec.gateway.apiKeysSecretName names; try again in {KEYS_RETRY_SECONDS} s",
        headers={"Retry-After": str(KEYS_RETRY_SECONDS)},
    )


def refuse_private_path(path: str) -> RefusalError:
    """A path for whoever runs the service, asked for on the port of its clients."""
    return RefusalError(
        404,
        "not_found",
        f"{path} isn't served on the port of the APIs; it is on the port that --metrics-port names, which in "
        "Kubernetes is the pod's port `metrics`",
    )


def refuse_host(name: str) -> RefusalError:
    """A name that anybody could give this service's address."""
    return RefusalError(
        403,
        "host_not_allowed",
        f"the host {truncate_repr(name)} isn't known here, and without API keys a page in a browser could use such a "
        "name to read what it may not: call the service by localhost or its IP address, or allow the name "
        "(--allowed-host NAME, in Kubernetes spec.gateway.allowedHosts)",
    )


def refuse_origin(origin: str) -> RefusalError:
    """A browser asks for a page of another site."""
    page = f"a page of {truncate_repr(origin)}" if origin else "a page of another site"
    return RefusalError(
        403,
        "origin_not_allowed",
        f"{page} may not use this service: call it from a page of its own, from a program, or allow the origin "
        "(--allowed-origin ORIGIN, in Kubernetes spec.gateway.allowedOrigins)",
    )


def refuse_media_type(media_type: str, *others: str) -> RefusalError:
    """A body of a type that any page's form may send; ``others`` are taken besides JSON."""
    allowed = " or ".join(f"`Content-Type: {each}`" for each in ("application/json", *others))
    return RefusalError(
        415, "unsupported_media_type", f"the body is sent as {truncate_repr(media_type)}, allowed is {allowed}"
    )


def refuse_link(problem: str) -> RefusalError:
    """A link that gives no right."""
    return RefusalError(
        403, "invalid_link", f"the link is not valid: {problem}; ask for the prediction again, whose links are new"
    )


def refuse_unknown_model(name: str, served: str) -> RefusalError:
    """The model isn't the one that is served."""
    message = f"model {name!r} is not served here; this service serves {served!r}"
    return RefusalError(404, "model_not_found", message, (FieldFault("model", message),))


def refuse_unoffered(reason: str) -> RefusalError:
    """Something that clients of an API know and isn't offered here. No 5xx, which clients try again."""
    return RefusalError(404, "not_offered", reason)


def refuse_unknown_address(method: str, path: str) -> RefusalError:
    """Nothing is served there."""
    return RefusalError(404, "not_found", f"there is no {method} {_shorten(path)} here; /docs lists all that there is")


def refuse_method(method: str, path: str, headers: Mapping[str, str]) -> RefusalError:
    """Something is served there, by another method; ``headers`` of the answer say which, by ``Allow``."""
    allowed = f", but there is {headers['Allow']}" if headers.get("Allow") else ""
    message = f"there is no {method} {_shorten(path)} here{allowed}; /docs lists all that there is"
    return RefusalError(405, "method_not_allowed", message, headers=headers)


def _shorten(path: str) -> str:
    return path if len(path) <= SHOWN_CHARACTERS else f"{path[:SHOWN_CHARACTERS]}…"


def refuse_unknown_prediction(job_id: str) -> RefusalError:
    """No such job, or another key's: the two look the same on purpose."""
    return RefusalError(
        404, "not_found", f"prediction {job_id!r} does not exist, is not yours, or its result has expired"
    )


def refuse_body_size(limit_bytes: int) -> RefusalError:
    """The body is longer than it may be."""
    return RefusalError(
        413, "body_too_large", f"the request's body is longer than {limit_bytes} bytes, the most allowed"
    )


def refuse_slow_body() -> RefusalError:
    """The body trickles, or its end doesn't come."""
    return RefusalError(
        408,
        "body_too_slow",
        "the request's body came too slowly, or not at all; send it whole, without pauses of seconds",
    )


def refuse_for_bodies() -> RefusalError:
    """The bodies that are being read take as much memory as they may, or this client's take its part."""
    return RefusalError(
        503,
        "too_many_bodies",
        "as many large bodies as fit are being read here already, or as this client may send at a time; "
        f"try again in {OPEN_REQUESTS_RETRY_SECONDS} s",
        headers={"Retry-After": str(OPEN_REQUESTS_RETRY_SECONDS)},
    )


def refuse_for_fetches(waiting: int, bound: int) -> RefusalError:
    """As many requests wait for their input images to be fetched as may, or as many of this customer's."""
    return RefusalError(
        503,
        "too_many_fetches",
        f"{waiting} requests wait here already until their input images are fetched, at most {bound} may, and a part "
        f"of that is kept for other clients; send the image as a data: URL, or try again in {FETCHES_RETRY_SECONDS} s",
        headers={"Retry-After": str(FETCHES_RETRY_SECONDS)},
    )


CLIENT_LEFT_STATUS = 499  # nginx' number for it, in logs and metrics: nobody reads the answer


def refuse_to_nobody(before_what: str) -> RefusalError:
    """The client left, before something that it would have had to wait for."""
    return RefusalError(CLIENT_LEFT_STATUS, "client_disconnected", f"the client left before {before_what}")


NO_WORKERS_RETRY_SECONDS = 30  # about a worker's start; nothing better is known
MAX_RETRY_SECONDS = 3600  # that a prediction is believed
STORE_RETRY_SECONDS = 2
KEYS_RETRY_SECONDS = 10
STREAMS_RETRY_SECONDS = 5
FETCHES_RETRY_SECONDS = 5
OPEN_REQUESTS_RETRY_SECONDS = 1
ENDING_RETRY_SECONDS = 1  # another gateway takes requests already


def refuse_for_ending(job_id: str | None, *, goes_on: bool) -> RefusalError:
    """The process ends before the request is done; ``goes_on``: its job, if it has one, doesn't end with it."""
    headers = {"Retry-After": str(ENDING_RETRY_SECONDS)}
    if job_id is None or not goes_on:
        message = f"this server is ending; send the request again in {ENDING_RETRY_SECONDS} s"
        return RefusalError(503, "gateway_ending", message, headers=headers)
    return RefusalError(
        503,
        "gateway_ending",
        f"this server is ending, and prediction {job_id} goes on without it: send the request again with the same "
        f"Idempotency-Key to wait for it, or look at /v1/predictions/{job_id}; without a key, the request is a new one",
        headers={**headers, "X-Prediction-Id": job_id},
    )


def refuse_for_queue(full: QueueFullError, place_seconds: float) -> RefusalError:
    """As much waits as may, or as much of this customer; ``place_seconds``: when there is predicted to be a place."""
    seconds = NO_WORKERS_RETRY_SECONDS if math.isinf(place_seconds) else math.ceil(place_seconds)
    retry_seconds = max(1, min(seconds, MAX_RETRY_SECONDS))
    whose = f", {full.held} of them this API key's; what is left is kept for others" if full.is_shared else ""
    return RefusalError(
        429,
        "queue_full",
        f"{full.depth} requests wait already, at most {full.bound} may{whose}; try again in {retry_seconds} s",
        headers={"Retry-After": str(retry_seconds)},
    )


def refuse_for_room(message: str, retry_seconds: float | None) -> RefusalError:
    """There is no room for the images that the request asks for; ``retry_seconds``: when there may be, if known."""
    headers = {} if retry_seconds is None else {"Retry-After": str(max(1, math.ceil(retry_seconds)))}
    return RefusalError(507, "image_store_full", message, headers=headers)


FILES_RETRY_SECONDS = 60


def refuse_for_files() -> RefusalError:
    """Other customers' uploads take all the room there is. Replicate's client then sends its file with the request."""
    message = "there is no room for uploads at the moment; send the image as a data: URL instead, or try again later"
    return RefusalError(507, "files_full", message, headers={"Retry-After": str(FILES_RETRY_SECONDS)})


def refuse_unknown_file(file_id: str) -> RefusalError:
    """No such file, or another customer's."""
    message = f"file {truncate_repr(file_id)} does not exist, is not yours, or has expired"
    return RefusalError(404, "not_found", message)


def refuse_for_memory() -> RefusalError:
    """Redis takes nothing new, whichever of its services fills it. Its address is for the logs, not for clients."""
    return RefusalError(
        507,
        "out_of_memory",
        "the Redis that keeps this service's requests has no memory left for new ones; requests under way go on; try "
        "again when results have expired, or raise its maxmemory, or lower gateway.results and gateway.cache of the "
        "services that share it",
    )


def refuse_for_deletion(reason: str) -> RefusalError:
    """The resource is being deleted. Trying again would be in vain, and clients don't after this status."""
    return RefusalError(410, "service_deleted", f"{reason}; it takes no new requests")


def refuse_removed(job_id: str) -> RefusalError:
    """The images were delivered with the answer to their request, and not kept."""
    return RefusalError(
        404,
        "data_removed",
        f"the images of prediction {job_id!r} were delivered with its answer and removed then; "
        "with an Idempotency-Key, or links in the answer, they are kept",
    )


def refuse_for_streams(taken: int, bound: int, *, held: int | None = None) -> RefusalError:
    """As many event streams are open as may be, or as many of this customer, who has ``held`` of them."""
    whose = "" if held is None else f", {held} of them with this API key; what is left is kept for others"
    return RefusalError(
        429,
        "too_many_streams",
        f"{taken} event streams are open here already, at most {bound} may be{whose}; ask for the job instead, or try "
        f"again in {STREAMS_RETRY_SECONDS} s",
        headers={"Retry-After": str(STREAMS_RETRY_SECONDS)},
    )


def refuse_for_open_requests(bound: int) -> RefusalError:
    """As many requests are open as may be."""
    return RefusalError(
        503,
        "too_many_requests",
        f"{bound} requests are open here already, the most allowed; try again in {OPEN_REQUESTS_RETRY_SECONDS} s",
        headers={"Retry-After": str(OPEN_REQUESTS_RETRY_SECONDS)},
    )


def refuse_uncached() -> RefusalError:
    """The client wants a cached answer or none, and there is none. https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.7"""
    return RefusalError(
        504,
        "not_cached",
        "no cached answer, and Cache-Control: only-if-cached allows no other; leave it out to generate one",
    )


def refuse_lost(job_id: str) -> RefusalError:
    """A request that somebody waits for is unknown all of a sudden. Not 404: clients don't send that again."""
    return RefusalError(
        503,
        "request_lost",
        f"request {job_id} was lost while it was waited for, since what keeps this service's requests has lost data; "
        f"send it again in {STORE_RETRY_SECONDS} s",
        headers={"Retry-After": str(STORE_RETRY_SECONDS)},
    )


def refuse_for_store() -> RefusalError:
    """The shared state is away. Its address is for the logs, not for clients."""
    return RefusalError(
        503,
        "broker_unavailable",
        f"the service can't reach its queue at the moment; try again in {STORE_RETRY_SECONDS} s",
        headers={"Retry-After": str(STORE_RETRY_SECONDS)},
    )


LOAD_FAILED_RETRY_SECONDS = 30


def refuse_for_model(failure: str) -> RefusalError:
    """No worker holds the model, and the last that tried to load it couldn't, for the reason that its pod gives too."""
    return RefusalError(
        503,
        "model_load_failed",
        f"no worker can load the model: {failure}; try again when whoever runs this service has mended that",
        headers={"Retry-After": str(LOAD_FAILED_RETRY_SECONDS)},
    )
