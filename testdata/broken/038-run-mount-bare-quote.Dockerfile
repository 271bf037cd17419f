FROM busybox
RUN --mount=type=bind,source=\"a,target=/m true
