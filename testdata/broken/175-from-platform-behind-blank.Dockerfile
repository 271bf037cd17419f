FROM --platform linux/amd64 busybox AS a
COPY --chown 1:2 a /b
HEALTHCHECK --interval 30s CMD true
ADD --chmod 755 a
