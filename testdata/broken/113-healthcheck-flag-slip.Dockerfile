FROM busybox
HEALTHCHECK --intervall=3s CMD true
