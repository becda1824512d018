"""Names of the metrics that server and operator export, and of the external metrics that the operator serves.

The unit comes last, as Prometheus asks: https://prometheus.io/docs/practices/naming/
"""

from enum import StrEnum
from typing import Final

# On every series of a gateway or a worker, and on those of the operator that are about one service.
LABEL_NAMESPACE: Final = "namespace"
LABEL_SERVICE: Final = "service"

BUILD_INFO: Final = "easel_build_info"  # gauge 1, of operator, gateways, workers: component, version, revision, python

# Read from Redis by every pod at scrape time: one shared number, so the reader takes the freshest, never a sum.
QUEUE_DEPTH: Final = "easel_queue_depth"  # gauge, label state=Waiting|Running
BACKLOG_GPU_SECONDS: Final = "easel_backlog_gpu_seconds"  # gauge, predicted, label state=Waiting|Running (the rest)
# The same, each job's work counted as at most what one pod can do of it within the target: a job isn't divisible.
BOUNDED_BACKLOG_GPU_SECONDS: Final = "easel_bounded_backlog_gpu_seconds"  # gauge, label state=Waiting|Running
OVERRUNNING_JOBS: Final = "easel_overrunning_jobs"  # gauge: that run for longer than the target, a pod each
OLDEST_WAITING_AGE_SECONDS: Final = "easel_oldest_waiting_age_seconds"  # gauge, 0 when nothing waits
WORKERS: Final = "easel_workers"  # gauge: workers that had a sign of life lately
ENGINE_FAILURES_TOTAL: Final = "easel_engine_failures_total"  # counter: attempts that an engine's error ended
REDIS_EVICTS: Final = "easel_redis_evicts"  # gauge, 0 or 1: Redis is refused, since its policy lets it drop keys
BROKER_UP: Final = "easel_broker_up"  # gauge, 0 or 1: whether the stores (Redis) can be reached; an older name
REDIS_FULL: Final = "easel_redis_full"  # gauge, 0 or 1: whether Redis had no memory for anything new lately

# A pod's own figures: the reader sums them over pods.
IN_FLIGHT: Final = "easel_jobs_in_flight"  # gauge, worker
JOBS_SUBMITTED_TOTAL: Final = "easel_jobs_submitted_total"  # counter, gateway
JOBS_TOTAL: Final = "easel_jobs_total"  # counter, worker, label outcome=Succeeded|Failed|Canceled
JOB_LATENCY_SECONDS: Final = "easel_job_latency_seconds"  # histogram, worker: submitted to finished
JOB_PHASE_SECONDS: Final = "easel_job_phase_seconds"  # histogram, worker, label phase=queue|load|run|encode
WORK_GPU_SECONDS_TOTAL: Final = "easel_work_gpu_seconds_total"  # counter, worker: time that its GPU was busy
BUSY_SECONDS_TOTAL: Final = "easel_worker_busy_seconds_total"  # counter, worker: its rate is the busy share
PREDICTED_GPU_SECONDS_TOTAL: Final = "easel_predicted_gpu_seconds_total"  # counter, gateway: work that was accepted
BOUNDED_GPU_SECONDS_TOTAL: Final = "easel_bounded_gpu_seconds_total"  # counter, gateway: of it, a target a job at most
FLAGGED_IMAGES_TOTAL: Final = "easel_flagged_images_total"  # counter, worker, label action=flagged|blurred|refused
BATCH_IMAGES: Final = "easel_batch_images"  # histogram, worker, at each step: images that take it together
GATHER_SECONDS: Final = "easel_gather_seconds"  # histogram, worker: until a job's add-ons are on its machine
GATHERED_BYTES_TOTAL: Final = "easel_gathered_bytes_total"  # counter, worker: downloaded of add-ons
GATHER_FAILURES_TOTAL: Final = "easel_gather_failures_total"  # counter, worker, label kind=permanent|transient|…
ADD_ON_UNAVAILABLE: Final = "easel_add_on_unavailable"  # gauge 1, worker, labels name, key, message: can't be used
FAILED_ATTEMPTS_TOTAL: Final = "easel_failed_attempts_total"  # counter, worker: jobs that failed on it, or are retried
JOB_WORKER_SECONDS: Final = "easel_job_worker_seconds"  # histogram, worker: claimed to finished, of succeeded jobs
LONGEST_JOB_SECONDS: Final = "easel_longest_job_seconds"  # gauge, worker: claimed to finished, of succeeded jobs
START_PHASE_SECONDS: Final = "easel_worker_start_phase_seconds"  # gauge, worker, label phase: of its last start
RESTARTS: Final = "easel_worker_restarts"  # gauge, worker: workers that ended before, in the same container
MODEL_LOAD_SECONDS: Final = "easel_model_load_seconds"  # gauge, worker
DROPPED_RECORDS_TOTAL: Final = "easel_dropped_records_total"  # counter, label kind: damaged ones in Redis
HTTP_REQUESTS_TOTAL: Final = "easel_http_requests_total"  # counter, gateway, labels route, code
HTTP_REQUEST_DURATION_SECONDS: Final = "easel_http_request_duration_seconds"  # histogram, gateway: route, method, code
CACHE_REQUESTS_TOTAL: Final = "easel_cache_requests_total"  # counter, gateway, label result=hit|miss|shared|bypass
STREAMS: Final = "easel_streams"  # gauge, gateway: event streams that are open
IMAGE_STORE_BYTES: Final = "easel_image_store_bytes"  # gauge, gateway, shared, label kind=used|reserved|budget|inputs|…
REFUSALS_TOTAL: Final = "easel_refusals_total"  # counter, gateway, label reason
INPUT_FETCHES_TOTAL: Final = "easel_input_fetches_total"  # counter, gateway, label result: images by their address
WEBHOOKS_TOTAL: Final = "easel_webhooks_total"  # counter, gateway, label outcome=delivered|retried|failed
WEBHOOK_DELIVERY_SECONDS: Final = "easel_webhook_delivery_seconds"  # histogram, gateway: due to delivered
# Of the ledger of usage, read by gateways: each customer's of the current UTC day, so it falls to 0 at midnight.
CUSTOMER_JOBS_TOTAL: Final = "easel_customer_jobs_total"  # counter, gateway, shared, label customer: the largest ones
CUSTOMER_GPU_SECONDS_TOTAL: Final = "easel_customer_gpu_seconds_total"  # counter, gateway, shared, label customer
TASK_FAILURES_TOTAL: Final = "easel_task_failures_total"  # counter, label task: failures that nobody foresaw
# Of the Job that fills a model's cache, which serves nothing else.
MODEL_CACHE_BYTES: Final = "easel_model_cache_bytes"  # gauge, label state=needed|fetched|verified
STATE_NEEDED: Final = "needed"  # as far as is known: a part's files are listed when it is looked at
STATE_FETCHED: Final = "fetched"
STATE_VERIFIED: Final = "verified"
ENGINE_INFO: Final = "easel_engine_info"  # gauge 1, worker, labels engine, device, dtype, model

# Of one service, by every replica of the operator: labels namespace and service, and what is said here.
SERVICE_CONDITION: Final = "easel_service_condition"  # gauge 1: type, status=True|False|Unknown, reason
SERVICE_MIN_REPLICAS: Final = "easel_service_min_replicas"  # gauge: scaling.minReplicas
SERVICE_MAX_REPLICAS: Final = "easel_service_max_replicas"  # gauge: scaling.maxReplicas
SERVICE_TARGET_LATENCY_SECONDS: Final = "easel_service_target_latency_seconds"  # gauge
SERVICE_WORKER_REPLICAS: Final = "easel_service_worker_replicas"  # gauge: worker pods that are ordered
SERVICE_WORKER_PODS: Final = "easel_service_worker_pods"  # gauge, label phase (PodPhase): worker pods that exist
SERVICE_GPUS_PER_WORKER: Final = "easel_service_gpus_per_worker"  # gauge: worker.gpu.count
SERVICE_GPU_HOUR_PRICE: Final = "easel_service_gpu_hour_price"  # gauge, label currency: worker.pricePerGpuHour
SERVICE_DECISION: Final = "easel_service_decision"  # gauge 1, label reason (DecisionReason): why so many workers
SERVICE_COLD_START_PHASE_SECONDS: Final = "easel_service_cold_start_phase_seconds"  # histogram, label phase
SERVICE_SCRAPE_FAILURES_TOTAL: Final = "easel_service_scrape_failures_total"  # counter: pods' pages not had
# Likewise, but counted by the replica that leads alone, so that a sum over the operator's pods is right.
SERVICE_HELD_GPU_SECONDS_TOTAL: Final = "easel_service_held_gpu_seconds_total"  # counter: worker pods on a node x GPUs
SERVICE_WORKED_GPU_SECONDS_TOTAL: Final = "easel_service_worked_gpu_seconds_total"  # counter: of them, generating
SERVICE_COST_TOTAL: Final = "easel_service_cost_total"  # counter, label currency: GPU-seconds held, at their price
SERVICE_WORKER_RESTARTS_TOTAL: Final = "easel_service_worker_restarts_total"  # counter: containers and processes
# Of the operator itself; those beside them are in its operator_metrics.py.
OPERATOR_API_REQUESTS_TOTAL: Final = "easel_operator_api_requests_total"  # counter, labels verb, code
OPERATOR_CERTIFICATE_EXPIRY: Final = "easel_operator_certificate_expiry_timestamp_seconds"  # gauge, Unix time

LABEL_CUSTOMER: Final = "customer"
OTHER_CUSTOMERS: Final = "(other)"  # those that aren't named, for there are too many; nobody can be called that


class PodPhase(StrEnum):
    """How far a worker pod has come."""

    PLACING = "Placing"  # waits for a node
    PREPARING = "Preparing"  # pulls its images, mounts its volumes or runs its init containers
    LOADING = "Loading"  # has started and isn't ready yet
    READY = "Ready"


class DecisionReason(StrEnum):
    """Why a service has as many workers as were decided, in one word; the sentence is in the status."""

    QUEUE = "Queue"  # signals: what waits
    LATENCY = "Latency"  # requests that are or will be late
    FORECAST = "Forecast"  # what is expected to arrive
    SCHEDULE = "Schedule"  # spec.scaling.schedules
    MIN_REPLICAS = "MinReplicas"  # guards: the bounds of the resource
    MAX_REPLICAS = "MaxReplicas"
    NO_CAPACITY = "NoCapacity"  # the cluster has no room for more
    NOT_YET_IDLE = "NotYetIdle"  # fewer are needed, but a worker is kept for some time without need of it
    IDLE = "Idle"  # nothing waited or ran for long enough
    DATA_MISSING = "DataMissing"  # everything stays as it is


LABEL_PHASE: Final = "phase"
LABEL_NAME: Final = "name"  # of an add-on, as clients say it
LABEL_KEY: Final = "key"  # of its configured source
LABEL_MESSAGE: Final = "message"  # a sentence; shortened


class ColdStartPhase(StrEnum):
    """What a worker's start is made of since its process began, in this order."""

    IMPORTED = "imported"  # libraries
    WEIGHTS = "weights"  # found or downloaded, read, and on their device
    COMPILED = "compiled"  # the model prepared for speed; what is compiled later isn't waited for
    WARM = "warm"  # a first image generated


LABEL_STATE: Final = "state"
STATE_WAITING: Final = "Waiting"
STATE_RUNNING: Final = "Running"

# Upper bounds in seconds: from a small image on a fast GPU to a long queue behind a cold start.
LATENCY_BUCKETS_SECONDS: Final = (
    0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0,
)  # fmt: skip

# Of requests: from an answer of the cache to one that waits for its image. Of webhooks: to the last of the retries.
HTTP_BUCKETS_SECONDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
WEBHOOK_BUCKETS_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)

# Of JOB_WORKER_SECONDS: each a quarter longer than the one before, so that two revisions of a worker can be told apart
# by a quantile. From 0.1 to about 600 seconds.
WORKER_BUCKETS_SECONDS: Final = tuple(round(0.1 * 1.25**power, 3) for power in range(40))

# external.metrics.k8s.io, selected by the label LABEL_SERVICE: raw figures for people's own autoscalers. The proposals
# that the HorizontalPodAutoscaler reads are named in the operator's list of signals.
EXTERNAL_QUEUE_DEPTH: Final = "easel_queue_depth"
EXTERNAL_BACKLOG_GPU_SECONDS: Final = "easel_backlog_gpu_seconds"
EXTERNAL_ARRIVING_GPU_SECONDS_PER_SECOND: Final = "easel_arriving_gpu_seconds_per_second"
EXTERNAL_LATENCY_P95_SECONDS: Final = "easel_job_latency_p95_seconds"
