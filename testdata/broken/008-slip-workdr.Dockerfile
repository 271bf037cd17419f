FROM busybox
workdr /app
