FROM busybox
COPY "a /a
