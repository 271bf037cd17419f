FROM busybox
LABEL description=some text here version=1
