FROM busybox
COPY "my file.txt" /x
