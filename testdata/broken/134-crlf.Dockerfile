FROM busybox
ENV A=b \
  C
COPPY a b
