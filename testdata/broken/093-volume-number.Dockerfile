FROM busybox
VOLUME ["/a", 2]
