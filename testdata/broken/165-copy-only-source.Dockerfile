FROM busybox
COPY app.py
ADD ["x"]
