# Gateway and worker: one image, two roles. torch's wheel brings its CUDA libraries; the node brings the driver.
FROM python:3.13-slim AS build
COPY requirements/server.txt /tmp/requirements.txt
RUN python -m venv /opt/easel && /opt/easel/bin/pip install --no-cache-dir --require-hashes -r /tmp/requirements.txt
COPY . /src
RUN /opt/easel/bin/pip install --no-cache-dir --no-deps /src

FROM python:3.13-slim
COPY --from=build /opt/easel /opt/easel
ENV PATH=/opt/easel/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080 9090
# What reaches a container is for whoever runs it to say; nothing but itself reaches its loopback.
ENTRYPOINT ["easel-server", "--host", "0.0.0.0"]
