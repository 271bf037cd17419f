FROM busybox
RUN echo a \
  # fine
  b
echo c
