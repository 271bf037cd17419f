FROM busybox
COPY –from=a /x /y
COPY x
