FROM busybox
VOLUMN /data
