FROM busybox
COPY --link=maybe a /a
