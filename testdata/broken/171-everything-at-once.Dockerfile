FORM busybox AS
COPY "a b" /
RUN --mount=type=bnd true
EXPOSE
HEALTHCHECK curl
ENV A
