# Any image with glibc (aiokafka has no wheels for musl), Python 3.11 to 3.13 with venv, certificates and time zones.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS dependencies
# What the base lacks is told here, not by the first call that fails.
RUN test -s /etc/ssl/certs/ca-certificates.crt && test -s /usr/share/zoneinfo/Asia/Shanghai
WORKDIR /src
RUN python3 -m venv /build && python3 -m venv --without-pip /app
COPY requirements/image.txt requirements/run.txt requirements/
# A package index of your own: --build-arg PIP_INDEX_URL=..., or, with a password in it, --secret id=pip,src=pip.conf.
# Behind a proxy with a CA of its own: --secret id=ca,src=bundle.pem --build-arg PIP_CERT=/run/secrets/ca.
# Neither gets into the image, of which this is another stage.
ARG PIP_INDEX_URL PIP_CERT
# Wheels only: what is built from source would ask for tools that no lock names.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /build/bin/pip install -r requirements/image.txt && \
    /build/bin/pip --python /app/bin/python3 install -r requirements/run.txt

FROM dependencies AS build
COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY schemas schemas
# What `charging-coupon --version` tells.
ARG COMMIT=
# To /service, so that a change of ours is a layer of its own, without the dependencies.
RUN if [ -n "$COMMIT" ]; then echo "$COMMIT" > consumer/COMMIT; fi && \
    /build/bin/hatchling build -t wheel -d /wheel && \
    PIP_REQUIRE_HASHES=0 /build/bin/pip --python /app/bin/python3 install --no-index --no-deps --prefix /service /wheel/*.whl
# The wheels with their licences; what BASE brings beside Python's packages, a scanner of images tells.
# Texts, because some say in words what licence they have.
RUN /build/bin/cyclonedx-py environment --gather-license-texts --pyproject pyproject.toml --output-reproducible \
    -o /service/sbom.cdx.json /app/bin/python3

# docker build --target sbom --output . .
FROM scratch AS sbom
COPY --from=build /service/sbom.cdx.json /

FROM ${BASE}
# Some bases leave these files out, and on a read-only root every start would compile the standard library anew.
RUN python3 -m compileall -q -x '/(tests?|idlelib|lib2to3|site-packages)/' "$(python3 -c 'import os; print(os.path.dirname(os.__file__))')"
COPY --from=dependencies /app /app
COPY --from=build /service /app
ENV PATH=/app/bin:$PATH
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080
# Exec form: SIGTERM reaches the service itself, which drains and ends with 0.
ENTRYPOINT ["charging-coupon"]
CMD ["run"]
# Last: a new commit is no reason to make the layers above again.
ARG VERSION=0.1.0
ARG COMMIT=
LABEL org.opencontainers.image.title="charging-coupon" \
      org.opencontainers.image.description="Turns charging-completed events from Kafka into parking coupons, exactly one outcome an order." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
