FROM busybox
ENTRYPOINT --init ["/x"]
