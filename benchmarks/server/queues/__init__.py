"""The task queues that durable jobs are measured against: of each a worker and a client, as its users write them."""
