FROM busybox
ENTRYPOINT [true, "a"]
