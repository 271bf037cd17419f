FROM busybox
RUN echo $((1 << 3))
RUN true
COPPY a b
