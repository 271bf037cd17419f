FROM: busybox
RUN: true
