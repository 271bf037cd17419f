FROM busybox
RUN curl \
  -sSL
  --fail https://example.com
