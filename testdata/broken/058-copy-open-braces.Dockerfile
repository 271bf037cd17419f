FROM busybox
COPY ${SRC /a
