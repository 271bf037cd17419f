FROM busybox
COPY a <<EOF
text
EOF
