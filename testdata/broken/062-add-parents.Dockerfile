FROM busybox
ADD --parents a /a
