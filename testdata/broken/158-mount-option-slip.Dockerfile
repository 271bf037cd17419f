FROM busybox
RUN --mount=type=cache,tagret=/x --mount=target=/y,type=tmpfs,sze=5m true
