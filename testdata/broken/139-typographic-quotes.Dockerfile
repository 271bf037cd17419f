FROM busybox
CMD [“echo”, “hi”]
ENV A
