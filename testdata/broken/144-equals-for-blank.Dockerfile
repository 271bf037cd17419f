FROM=busybox
RUN true
