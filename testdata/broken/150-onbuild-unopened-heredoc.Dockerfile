FROM busybox
ONBUILD COPY it's <<EOF /x
