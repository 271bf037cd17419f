RUN a
COPY b /c
ENV d=e
