# The operator: no torch, no model code. Built from the repository's root by scripts/images.sh.
FROM python:3.13-slim AS build
COPY requirements/operator.txt /tmp/requirements.txt
RUN python -m venv /opt/easel && /opt/easel/bin/pip install --no-cache-dir --require-hashes -r /tmp/requirements.txt
COPY . /src
RUN /opt/easel/bin/pip install --no-cache-dir --no-deps /src

FROM python:3.13-slim
COPY --from=build /opt/easel /opt/easel
ENV PATH=/opt/easel/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["easel-operator"]
