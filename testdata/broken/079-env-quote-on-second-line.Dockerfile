FROM busybox
ENV A=b \
    C="d
