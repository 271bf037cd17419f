FROM busybox
CMD ["a", null]
