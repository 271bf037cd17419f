FROM busybox
ENV A=b C=${A
