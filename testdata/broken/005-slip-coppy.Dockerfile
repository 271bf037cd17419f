FROM busybox
COPPY a /a
