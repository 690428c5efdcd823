# Two images from one build:
#
#   docker build --target fermata       -t fermata:dev .          server, notifier and command line
#   docker build --target fermata-agent -t fermata-agent:dev .    what a host of QEMU guests needs
#
# No registry at hand? `make test-compose` builds this very file with podman from base images that it
# makes itself under these names.
ARG SWIFT_IMAGE=docker.io/library/swift:6.3.1-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-20250520-slim

# ---- the executable ----------------------------------------------------------------------------
FROM ${SWIFT_IMAGE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libcurl4-openssl-dev libsqlite3-dev libssl-dev libuv1-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Package.swift ./
# SwiftPM wants the directory of every target of the manifest, also of those it does not build.
COPY Sources ./Sources
COPY Tests ./Tests
COPY Benchmarks ./Benchmarks
# The Swift runtime is linked in: the images have no toolchain, and only what is used of it. The cache
# keeps what was compiled; the executable is taken out of it.
RUN --mount=type=cache,target=/src/.build \
    swift build -c release --product fermata --static-swift-stdlib \
    && strip -o /usr/local/bin/fermata .build/release/fermata

# ---- what both images have -----------------------------------------------------------------------
# The certificate authorities: without them no sink could be told by HTTPS unless it names its own.
FROM ${DEBIAN_IMAGE} AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates libcurl4 libsqlite3-0 libssl3 libuv1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 7450 fermata \
    && useradd --system --uid 7450 --gid fermata --home-dir /var/lib/fermata --shell /usr/sbin/nologin \
        fermata \
    && install -d -o fermata -g fermata /var/lib/fermata

# ---- server, notifier and command line ---------------------------------------------------------
# Without what neither they nor a shell in the container need: nothing is ever installed in it.
FROM runtime AS trimmed
RUN dpkg --purge --force-remove-essential --force-depends tzdata util-linux util-linux-extra \
    && dpkg --purge --force-remove-essential --force-depends \
        adduser apt bsdutils debian-archive-keyring diffutils e2fsprogs gpgv libapt-pkg6.0 \
        libext2fs2 login logsave mount ncurses-bin passwd perl-base sysvinit-utils \
    && rm -rf /var/cache/* /var/log/* /var/lib/apt /usr/bin/openssl /usr/bin/c_rehash

FROM scratch AS fermata
COPY --from=trimmed / /
COPY --from=build /usr/local/bin/fermata /usr/local/bin/fermata
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# A port above 1024 and files of its own: neither role needs to be root.
USER fermata
WORKDIR /var/lib/fermata
VOLUME /var/lib/fermata
EXPOSE 7450
# What the health check asks: a server by default, with the credentials of FERMATA_CREDENTIALS; a
# notifier with `--database FILE`.
ENV FERMATA_HEALTH="--server 127.0.0.1:7450"
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 \
    CMD /usr/local/bin/fermata health $FERMATA_HEALTH
ENTRYPOINT ["/usr/local/bin/fermata"]
CMD ["--help"]

# ---- an agent and its guests -------------------------------------------------------------------
# A container of this image is a host: it has the QEMUs, and when it ends, so do they. Its first process
# therefore is not the agent, which may end at any time, but a script that starts it again.
FROM runtime AS fermata-agent
# Root: it makes taps and bridges (NET_ADMIN), gives a hold real-time priority (SYS_NICE) and locks the
# guard's memory (IPC_LOCK), and its guests' RAM and monitors are nobody else's.
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        curl iproute2 qemu-system-x86 seabios util-linux \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /var/lib/fermata
VOLUME /var/lib/fermata
COPY --from=build /usr/local/bin/fermata /usr/local/bin/fermata
COPY cluster/compose/agent-entrypoint /usr/local/sbin/agent-entrypoint
ENV FERMATA_HEALTH="--host-file /run/fermata/host.yaml"
# Long enough for the guests to boot.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD /usr/local/bin/fermata health $FERMATA_HEALTH
ENTRYPOINT ["/usr/local/sbin/agent-entrypoint"]
CMD []
