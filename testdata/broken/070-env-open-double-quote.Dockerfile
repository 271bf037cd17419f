FROM busybox
ENV A="open
