"""The ConfigMap with one configuration file per role, and the Secret with the address of Redis."""

import base64
import json
from typing import Any, Final

from easel_contract import names
from easel_contract.add_ons import (
    AdapterConfig,
    AddOnConfig,
    AddOnsConfig,
    ControlNetConfig,
    PreprocessorConfig,
    UpscalerConfig,
)
from easel_contract.gateway_config import GatewayConfig, QueueConfig, ResultsConfig, WebhookConfig
from easel_contract.redis_url import replace_login
from easel_contract.resource import AddOnSpec, ModelSource, ServiceDefaults, StableDiffusionServiceSpec
from easel_contract.resource.model import BucketSource, CacheFill
from easel_contract.server_config import (
    BucketConfig,
    BucketCopyConfig,
    ModelCacheConfig,
    ModelConfig,
    SafetyCheckerConfig,
    ServerConfig,
    SourceConfig,
    WorkerConfig,
)
from pydantic import ValidationError

from easel_operator.manifests.metadata import ChildContext, Owner, build_metadata, hash_json
from easel_operator.manifests.redis_user import build_user_url
from easel_operator.objects import Json

# Between the end of draining and the SIGKILL: time to release the jobs that are left and to close connections.
DRAIN_MARGIN_SECONDS: Final = 10
# A terminating gateway still gets requests until every node has taken it out of its routes: so long it isn't told.
STOP_DELAY_SECONDS: Final = 5

CLUSTER_DOMAIN: Final = "cluster.local"
LINK_FIELDS: Final = {"presign_seconds", "public_base_url"}  # of a bucket: gateways alone make links


def config_map_name(owner: Owner) -> str:
    """Name of the ConfigMap that holds both roles' files."""
    return f"{owner.name}-config"


def build_config_map(context: ChildContext, trial: ChildContext | None = None) -> Json:
    """The files of both roles, each with the sections that the role reads, and what gateways know of the queue; and
    that of workers that are on ``trial``."""
    config = build_server_config(context)
    files = {
        names.CONFIG_KEY_GATEWAY: _gateway_file(config),
        names.CONFIG_KEY_WORKER: _worker_file(config),
        names.CONFIG_KEY_QUEUE: _to_file(build_queue_config(context), {}),
        context.worker_file: _worker_file(config),
    }
    if trial is not None:
        files[trial.worker_file] = _worker_file(build_server_config(trial))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": build_metadata(context.owner, config_map_name(context.owner), "config"),
        "data": {key: json.dumps(value, indent=2, sort_keys=True) + "\n" for key, value in files.items()},
    }


def build_redis_secret(context: ChildContext) -> Json:
    """The address of Redis, with its password: kept out of ConfigMaps and pod specs."""
    url, owner, key = context.release.redis_url, context.owner, context.release.redis_users_key
    if key:
        url = build_user_url(url, key, names.redis_prefix(owner.namespace, owner.name, owner.uid))
    texts = {names.SECRET_KEY_REDIS_URL: url}
    if context.release.redis_authorities:
        texts[names.SECRET_KEY_AUTHORITIES] = context.release.redis_authorities
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": build_metadata(context.owner, names.redis_secret_name(context.owner.name), "redis"),
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()},
    }


def build_links_secret(owner: Owner) -> Json:
    """The keys of the service's links, but for the keys: whoever creates it makes one, once; then it is its users'.

    It isn't applied as the other children are, since a second apply would take back what was rotated by hand.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": build_metadata(owner, names.links_secret_name(owner.name), "links"),
    }


def gateway_config_hash(context: ChildContext) -> str:
    """Changes with what a gateway reads when it starts, the address of Redis among it.

    What it takes over while it runs (``gateway/live_config.py`` of the server) is no reason to end what waits there.
    """
    file = _gateway_file(build_server_config(context))
    started_with = {name: section for name, section in file.items() if name not in {"model", "engine", "addOns"}}
    started_with["gateway"] = {name: value for name, value in file.get("gateway", {}).items() if name != "maxWorkers"}
    return hash_json([started_with, replace_login(context.release.redis_url, "")])


def worker_config_hash(context: ChildContext) -> str:
    """Changes with what a worker reads when it starts; a change to a gateway's limits leaves it alone, and so the GPU
    pods, as does another add-on: jobs carry theirs, and a worker reads the list anew to look for what is on volumes."""
    file = _worker_file(build_server_config(context))
    started_with = {name: section for name, section in file.items() if name != "addOns"}
    return hash_json([started_with, replace_login(context.release.redis_url, "")])


def build_server_config(context: ChildContext) -> ServerConfig:
    """The server's whole configuration as the resource asks for it."""
    owner, spec = context.owner, context.spec
    gateway, worker = spec.gateway, spec.worker
    results = gateway.results
    # What the Service is called inside the cluster; of names outside, those of its Ingress and those that users allow.
    hosts = [owner.name, f"{owner.name}.{owner.namespace}"]
    hosts += [f"{hosts[-1]}.svc", f"{hosts[-1]}.svc.{CLUSTER_DOMAIN}"]
    return ServerConfig(
        namespace=owner.namespace,
        service=owner.name,
        uid=owner.uid,
        model=_model_config(owner, spec).model_copy(update={"cache": _cache_config(context)}),
        add_ons=build_add_ons(spec),
        engine=worker.engine,
        gateway=GatewayConfig(
            limits=gateway.limits,
            defaults=gateway.defaults,
            rate_limit=gateway.rate_limit,
            service_rate_limit=gateway.service_rate_limit,
            # A fixed number of workers may be scaled by hand, without a word to the gateways: they count the living.
            max_workers=spec.scaling.max_replicas if spec.scaling else None,
            results=ResultsConfig(ttl_seconds=results.ttl_seconds, max_bytes=results.max_bytes),
            cache=gateway.cache,
            webhook=WebhookConfig(allowed_networks=gateway.webhook.allowed_networks),
            inputs=gateway.inputs,
            public_url=gateway.public_url or gateway.secured_url,
            drain_seconds=max(0, gateway.termination_grace_period_seconds - STOP_DELAY_SECONDS - DRAIN_MARGIN_SECONDS),
            allowed_hosts=(*hosts, *gateway.allowed_hosts, *gateway.served_hosts),
            allowed_origins=gateway.allowed_origins,
            api_keys_directory=names.API_KEYS_DIRECTORY if gateway.api_keys_secret_name else None,
            link_keys_directory=names.LINK_KEYS_DIRECTORY if gateway.api_keys_secret_name else None,
        ),
        worker=WorkerConfig(
            drain_seconds=max(0, context.grace_seconds - DRAIN_MARGIN_SECONDS),
            max_batch_images=spec.batching.max_images,
            step_timeout_seconds=spec.batching.step_timeout_seconds,
            max_add_on_file_bytes=spec.downloads.max_file_bytes,
        ),
        bucket=(
            BucketConfig(**results.bucket.model_dump(exclude={"credentials_secret_name"})) if results.bucket else None
        ),
        tracing=spec.tracing,
    )


def build_queue_config(context: ChildContext) -> QueueConfig:
    """In which order requests are taken, and what a GPU costs. A service with a fixed number of workers has no target,
    and so no order."""
    scaling, defaults = context.spec.scaling, context.release.defaults
    price = find_price(context.spec, defaults)
    if scaling is None:
        return QueueConfig(price_per_gpu_hour=price, currency=defaults.currency)
    return QueueConfig(
        price_per_gpu_hour=price,
        currency=defaults.currency,
        target_seconds=scaling.target_latency_seconds,
        order=scaling.queue_order,
        max_overtaken_seconds=scaling.max_overtaken_seconds,
        cold_start_seconds=context.cold_start_seconds,
    )


def find_price(spec: StableDiffusionServiceSpec, defaults: ServiceDefaults) -> float | None:
    """Of one GPU for an hour: the service's own, else the installation's; None: nobody said one."""
    own = spec.worker.price_per_gpu_hour
    return defaults.worker.price_per_gpu_hour if own is None else own


def read_announced_cold_start_seconds(config_map: Json | None) -> float | None:
    """What gateways heard of the cold start; None if nothing, or nothing that can be read."""
    file = ((config_map or {}).get("data") or {}).get(names.CONFIG_KEY_QUEUE)
    try:
        config = QueueConfig.model_validate_json(file or "")
    except ValidationError:
        return None
    return config.cold_start_seconds if config.target_seconds is not None else None


def hash_record(context: ChildContext) -> str:
    """What a cache's record is called: it changes with what is fetched, and services that fetch the same share it."""
    model = context.spec.model
    wanted = {field: source.to_wire() for field, source in model.sources.items()}
    choices = [model.dtype, model.safety, model.allow_pickles, model.config_repository]
    return hash_json([wanted, choices, _is_on_gpu(context.spec)])


def _is_on_gpu(spec: StableDiffusionServiceSpec) -> bool:
    overlay = spec.worker.pod_template
    return spec.worker.gpu.count > 0 or (overlay is not None and "resourceClaims" in overlay.spec)


def _cache_config(context: ChildContext) -> ModelCacheConfig | None:
    cache = context.spec.model.cache
    if cache is None:
        return None
    return ModelCacheConfig(
        directory=names.MODEL_CACHE_DIRECTORY,
        record=hash_record(context) if cache.fill is CacheFill.JOB else None,
        copies=tuple(
            BucketCopyConfig(
                uri=each.uri,
                endpoint=each.endpoint,
                region=each.region,
                credentials_directory=(
                    None
                    if each.credentials_secret_name is None
                    else add_on_credentials_mount(each.credentials_secret_name)
                ),
                name=_name_copy(each),
            )
            for each in list_buckets(context.spec)
        ),
        is_on_gpu=_is_on_gpu(context.spec),
    )


def _model_config(owner: Owner, spec: StableDiffusionServiceSpec) -> ModelConfig:
    model = spec.model
    hub = model.source.hugging_face
    refiner, checker = model.refiner, model.safety_checker
    return ModelConfig(
        # A volume has no name that clients would know, so the model is called like its service.
        name=hub.repository if hub is not None else owner.name,
        dtype=model.dtype,
        quantization=model.quantization,
        step_cache=model.step_cache,
        safety=model.safety,
        allow_pickles=model.allow_pickles,
        config_repository=model.config_repository,
        safety_checker=(
            SafetyCheckerConfig(
                labels=checker.labels,
                threshold=checker.threshold,
                **_source_config(checker.source, names.SAFETY_CHECKER_DIRECTORY),
            )
            if checker
            else None
        ),
        refiner=SourceConfig(**_source_config(refiner.source, names.REFINER_DIRECTORY)) if refiner else None,
        vae=SourceConfig(**_source_config(model.vae.source, names.VAE_DIRECTORY)) if model.vae else None,
        scheduler=model.scheduler,
        **_source_config(model.source, names.MODEL_DIRECTORY),
    )


def _source_config(source: ModelSource, mount: str) -> dict[str, Any]:
    """The fields of a SourceConfig."""
    hub = source.hugging_face
    if hub is not None:
        return {"source": hub.repository, "revision": hub.revision, "variant": hub.variant, "file": hub.file}
    if (bucket := source.s3) is not None:
        return {"source": f"{names.MODEL_CACHE_DIRECTORY}/{names.MODEL_COPIES_DIRECTORY}/{_name_copy(bucket)}"}
    return {"source": f"{mount}/{source.path}" if source.path else mount}


def _name_copy(bucket: BucketSource) -> str:
    """Of the directory that a bucket's objects are copied to: services with the same share it."""
    return hash_json([bucket.uri, bucket.endpoint])


def list_buckets(spec: StableDiffusionServiceSpec) -> tuple[BucketSource, ...]:
    """The buckets that the model's parts lie in, each once."""
    found = {_name_copy(each.s3): each.s3 for each in spec.model.sources.values() if each.s3 is not None}
    return tuple(found.values())


def build_add_ons(spec: StableDiffusionServiceSpec) -> AddOnsConfig:
    """Each of the resource's, with all that a worker needs to fetch it; jobs carry those that they use."""
    return AddOnsConfig(
        adapters=tuple(
            AdapterConfig(default_weight=each.default_weight, models=each.models, **_add_on_source(each, spec))
            for each in spec.adapters
        ),
        control_nets=tuple(ControlNetConfig(**_add_on_source(each, spec)) for each in spec.control_nets),
        upscalers=tuple(UpscalerConfig(**_add_on_source(each, spec)) for each in spec.upscalers),
        preprocessors=tuple(PreprocessorConfig(**_add_on_source(each, spec)) for each in spec.preprocessors),
    )


def _add_on_source(add_on: AddOnSpec, spec: StableDiffusionServiceSpec) -> dict[str, Any]:
    """The fields of an AddOnConfig."""
    source = add_on.source
    if (hub := source.hugging_face) is not None:
        where = AddOnConfig(name=add_on.name, source=hub.repository, revision=hub.revision, file=hub.file)
    elif (volume := source.persistent_volume_claim) is not None:
        where = AddOnConfig(name=add_on.name, source=add_on_mount(volume.claim_name), file=volume.path)
    elif (bucket := source.s3) is not None:
        secret = bucket.credentials_secret_name
        where = AddOnConfig(
            name=add_on.name,
            source=bucket.uri,
            endpoint=bucket.endpoint,
            region=bucket.region,
            credentials_directory=add_on_credentials_mount(secret) if secret is not None else None,
        )
    elif (url := source.url) is not None:
        where = AddOnConfig(
            name=add_on.name,
            source=url.address,
            sha256=url.sha256,
            allowed_hosts=spec.downloads.allowed_hosts,
            allowed_networks=spec.downloads.allowed_networks,
        )
    else:
        raise AssertionError("the resource's rules let one of four be set")
    return where.model_dump()


def add_on_mount(claim: str) -> str:
    """Where workers have a claim with add-ons."""
    return f"{names.ADD_ONS_DIRECTORY}/{claim}"


def add_on_credentials_mount(secret: str) -> str:
    """Where workers have a bucket's credentials, as files."""
    return f"{names.ADD_ON_CREDENTIALS_DIRECTORY}/{secret}"


def _gateway_file(config: ServerConfig) -> Json:
    return _to_file(
        config, {"worker": True, "model": {"cache"}, "engine": {"compile", "offload", "add_on_memory", "synthetic"}}
    )


def _worker_file(config: ServerConfig) -> Json:
    return _to_file(config, {"gateway": True, "bucket": LINK_FIELDS})


def _to_file(config: ServerConfig | QueueConfig, left_out: dict[str, Any]) -> Json:
    """Without what is at its default: pods of the version before refuse a field that is new."""
    return config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True, exclude=left_out)
