FROM busybox
HEALTHCHECK --timeout=3sec CMD true
