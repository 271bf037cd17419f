# escape=backslash
FROM busybox
