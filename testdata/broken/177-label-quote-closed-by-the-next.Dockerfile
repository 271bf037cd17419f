FROM busybox
LABEL title="my app \
      vendor="Acme, Inc."
