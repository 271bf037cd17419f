FROM busybox
COPY ["it's", "/x"]
