FROM busybox
ENV a=b # why
