FROM busybox
USER ${U:-a
