FROM busybox
RUN --mnt=type=cache,target=/c true
