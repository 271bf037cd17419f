FROM busybox # the base
