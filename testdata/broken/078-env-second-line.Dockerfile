FROM busybox
ENV A=b \
    C=d \
    E
