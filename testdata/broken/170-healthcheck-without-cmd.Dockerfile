FROM busybox
HEALTHCHECK --interval=10s curl -f http://localhost/
