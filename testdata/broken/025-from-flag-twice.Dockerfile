FROM --platform=a --platform=b busybox
