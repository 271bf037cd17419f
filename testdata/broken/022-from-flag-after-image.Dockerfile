FROM busybox --platform=linux/amd64
