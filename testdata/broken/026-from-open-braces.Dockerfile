ARG A=b
FROM busybox:${A
