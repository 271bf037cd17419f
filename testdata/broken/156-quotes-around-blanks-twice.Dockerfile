FROM busybox
COPY "a b" 'c d' /x
