FROM busybox
RUN ["a", ["b", "c"], "d"]
