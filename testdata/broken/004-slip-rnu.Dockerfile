FROM busybox
RNU echo hi
