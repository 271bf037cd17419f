FROM busybox
ADD http://example.com/a
