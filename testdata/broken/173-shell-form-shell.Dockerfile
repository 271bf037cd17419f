FROM busybox
SHELL bash -c
RUN true
