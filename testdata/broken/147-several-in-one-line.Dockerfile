FROM busybox
COPY --form=a --chmod --link=x --chown=1 --chown=2 b
