FROM busybox AS a
FROM scratch
ADD --from=a /x /x
