FROM busybox
ENV Ä=ö ü
