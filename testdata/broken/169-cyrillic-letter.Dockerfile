FROM busybox
СOPY a /
