FROM busybox
ENV --x=y A=b
