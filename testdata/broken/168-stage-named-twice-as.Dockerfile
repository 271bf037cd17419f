FROM busybox AS a AS b
RUN true
