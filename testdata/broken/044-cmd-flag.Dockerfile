FROM busybox
CMD --port 80
