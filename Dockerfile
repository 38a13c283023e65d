# Any image with glibc and Python 3.11 to 3.13 (aiokafka has no wheels for musl); on Debian's own, python3-venv too.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
RUN python3 -m venv /app
WORKDIR /src
COPY requirements/run.txt requirements/
RUN /app/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY schemas schemas
# docker build --build-arg COMMIT="$(git describe --always --dirty)": what `charging-coupon --version` tells.
ARG COMMIT=
RUN if [ -n "$COMMIT" ]; then echo "$COMMIT" > consumer/COMMIT; fi && \
    /app/bin/pip install --no-cache-dir --no-deps .

FROM ${BASE}
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080
# Exec form: SIGTERM reaches the service itself, which drains and ends with 0.
ENTRYPOINT ["charging-coupon"]
CMD ["run"]
