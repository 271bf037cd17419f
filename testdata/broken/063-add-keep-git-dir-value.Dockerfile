FROM busybox
ADD --keep-git-dir=yes https://example.com/r.git /r
