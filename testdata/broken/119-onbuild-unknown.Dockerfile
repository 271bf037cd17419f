FROM busybox
ONBUILD COPPY a /a
